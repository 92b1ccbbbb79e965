//! An in-process engine that decides flows as an Aperture Agent would.
//!
//! An [`Engine`] reads the policies that users write for an Agent and keeps their state in memory.
//! A decision needs no task and no I/O, and accepting a flow with a known key allocates nothing,
//! unless its tokens can be [settled](#costs-that-are-known-afterwards).
//! Only a flow that waits in a scheduler's queue gets a future with one timer, which is woken when
//! its tokens are available.
//!
//! # Rate limiters
//!
//! Each key has a token bucket that holds `bucket_capacity` tokens and is filled with `fill_amount`
//! tokens every `interval`. Capacity, filling, delays, lazy sync and reported waits equal an
//! Agent's to the token, quirks included: a rejection is remembered until its tokens are available,
//! and until then smaller requests of that key are rejected too; a limiter with capacity 0 and fill
//! 0 lets everything pass. Where an Agent's behaviour is clearly unintended, the engine deviates:
//!
//! - A tokens label that is not a finite number counts as absent. (On an Agent, it corrupts the
//!   bucket.)
//! - Keys may have any length. A key of more than 255 bytes is stored as its beginning and 128 bits
//!   of its SHA-256; decisions show its whole text. (On an Agent, such a key is never limited, or
//!   always rejected with lazy sync.)
//! - With lazy sync, a request that has to sync with 10 ms or less left until its deadline is
//!   rejected, without further effect. (On an Agent, the spending of the key is forgiven and the
//!   key is closed for a period.)
//! - With lazy sync, the tokens that a key spent before it idled are charged when the key is used
//!   again. (On an Agent, they are forgiven.)
//! - A wait beyond 292 years is reported as 292 years. (On an Agent, as none.)
//! - A key that idles for `max_idle_time` starts anew with a full bucket. (On an Agent, at an
//!   unspecified time or never.) A remembered rejection is kept until its tokens are available, as
//!   on an Agent.
//! - A request for more tokens than the bucket can ever hold is rejected without a wait and is not
//!   remembered. (An Agent reports a wait that does not help and closes the bucket to smaller
//!   requests until then; see [`upstream_buckets`](EngineBuilder::upstream_buckets).)
//! - Returned tokens never fill an account beyond its bucket.
//!
//! # Concurrency limiters
//!
//! A flow holds a slot of its key until it ends: by its [`EngineTicket`], by [`Engine::flow_end`],
//! or `max_inflight_duration` after it began. A flow is accepted while less than `max_concurrency`
//! is in flight, whatever its own tokens, so one big request may exceed the limit; the reported
//! remaining and current values are those before the flow. All of this equals an Agent.
//!
//! A limit may also find itself, per key, by the latency of flows:
//! [`AdaptiveConcurrency`](crate::policy::AdaptiveConcurrency). An Agent does not have that, and
//! policy files cannot express it.
//!
//! # Schedulers
//!
//! Quota, concurrency and load schedulers queue the flows that they have no tokens for, ordered by
//! weight: priority, tokens and fairness label, in exactly the order of an Agent. A flow waits
//! until its deadline or the `queue_timeout` of its workload, whichever comes first; a
//! `queue_timeout` of 10 ms or less rejects every flow. A load scheduler learns the demand for 31
//! seconds before it sheds load. In a quota scheduler, a request for more tokens than the bucket
//! holds waits and leaves a debt. All of this equals an Agent, except:
//!
//! - A slot that is returned or expires goes immediately to the head of a concurrency scheduler's
//!   queue, and a flow waits for a slot until 10 ms before its deadline. (On an Agent, waiters
//!   poll: slots are granted late or lost, and waiters are rejected early.) Without a deadline and
//!   a queue timeout no flow waits for a slot, as on an Agent.
//! - A flow that leaves a queue, for any reason, returns its place and its tokens, and counts as
//!   rejected in the demand that control loops see. (On an Agent, its tokens are lost while a
//!   rejection of its key is remembered.)
//! - Newcomers do not starve a queue. In a concurrency scheduler, a flow that is granted a slot
//!   counts as served at once, so no newcomer of its workload overtakes waiting flows; in the
//!   queues of quota and load schedulers at most three newcomers overtake a flow. (On an Agent, any
//!   number may.)
//! - Negative tokens count as no demand, and sums of tokens saturate. (On an Agent, negative tokens
//!   lower the demand that a load scheduler learns.)
//! - A debt that can never be paid, because it is infinite or its bucket drains, leads to a
//!   rejection instead of a wait.
//! - A priority close to zero, and tokens close to infinity, count as a large finite cost in a
//!   queue, so that the weights of the flows behind them remain valid.
//!
//! # Costs that are known afterwards
//!
//! The tokens of a language model, and bytes and rows, are known when the work is done. The check
//! takes an estimate, and [`Ticket::settle`](aperture_core::Ticket::settle) corrects it to the
//! actual tokens: with a layer by `FlowHandle::settle`, without one by `Flow::settle`. An Agent has
//! no such operation.
//!
//! - A settlement corrects every bucket that the flow took an estimate from: of each rate limiter
//!   with a `tokens_label_key`, and of each quota scheduler with one or whose workload has `tokens`
//!   other than 1. Buckets that count one token for each flow stay as they are, so that requests
//!   and tokens can be limited side by side. Each bucket is corrected by the difference between the
//!   actual tokens and those that it gave the flow.
//! - Fewer tokens than estimated return the rest, but a bucket never holds more than its capacity.
//!   More are taken from the bucket, which then owes at most one capacity. Flows are accepted again
//!   when the debt is paid.
//! - A settlement forgets a remembered rejection of the key, wakes the flows that wait for returned
//!   tokens in a quota scheduler, and syncs a key with lazy sync. It follows the limit in force
//!   after a reload.
//! - A flow that is never settled costs its estimate. A flow that leaves its tokens to
//!   [`leave_open`](EngineTicket::leave_open) or to [`Engine::check`] cannot be settled.
//! - Each flow of such a limiter allocates a record with its key: one allocation, and a second one
//!   for a key of more than 36 bytes.
//!
//! # Samplers
//!
//! - Ramps (samplers in ramp mode, and load ramps) decide only about flows in ramp mode; such a
//!   flow runs only where a ramp accepts it. (On an Agent, no flow in ramp mode ever runs, see
//!   [`upstream_ramp_mode`](EngineBuilder::upstream_ramp_mode).)
//! - `pass_through_label_values` is honoured. (On an Agent, only after an unrelated event.)
//!
//! # Signals and control loops
//!
//! The signals of a policy (control loops of load schedulers, load ramps, and everything else that
//! is connected to an in-port) are evaluated every `evaluation_interval`, first when the policy
//! comes into force. The engine needs no thread and no timer for this: the next flow that is
//! decided, or that ends where its latency counts, evaluates all overdue ticks, each with the time
//! it was due at, at most a thousand in one go. An engine without such policies pays one
//! comparison. A waiting flow notices a higher limit when another flow arrives or ends.
//!
//! The engine itself measures which share of the load was accepted and how long flows took: an
//! average-latency policy needs no monitoring system. All other queries of a policy go to a
//! [`SignalSource`]. [`Engine::control_loops`] returns the current output of the loops. Their
//! values equal an Agent's, including the 11 seconds between the work of a load scheduler and its
//! observation by a loop, except:
//!
//! - After a silence, overdue evaluations use the last value of a [`SignalSource`], and only the
//!   newest evaluation queries it again. (On an Agent, evaluations are never late.)
//! - A decider with `true_for` changes its output when the opposite has held for that long. (On an
//!   Agent, an interruption of that time may flip the output immediately.)
//!
//! # Reloading
//!
//! [`Engine::reload`] puts changed files in force, all or none, and [`Engine::watch`] does so when
//! they change. Components keep their state (buckets, slots, queues and loops) if only numbers of
//! them change: each key keeps its state and follows the new limit. [`Engine::set_dynamic_config`]
//! changes single values in the same way.
//!
//! # Shared limits
//!
//! Engines with a [`SharedStore`](shared::SharedStore) in common, by [`EngineBuilder::shared`],
//! limit flows together: the buckets of rate limiters and quota schedulers, and the slots of
//! concurrency limiters and concurrency schedulers, are in the store, one for each policy name,
//! component ID, kind, label key and label value. Engines should therefore have the same policies.
//! Everything else stays in each engine: the queues of schedulers with their order, samplers, load
//! schedulers, control loops with their signals, and flux meters; and the caches, unless the store
//! [has some](shared::SharedStore::caches).
//!
//! - A flow asks the store once for each step: all its limiters side by side, then the concurrency
//!   schedulers, then the quota schedulers. If one component rejects the flow, what the others of
//!   the step took is returned in a second trip that no flow waits for. So are grants that arrive
//!   after the flow has left.
//! - A flow waits for a reply until the store's [deadline](shared::SharedStore::deadline), or until
//!   10 ms before its own. Then, or at once while the store is not available, it is decided as
//!   [`StoreAbsence`](shared::StoreAbsence) says: by this engine's share of the limit, in process.
//!   [`EngineStats::decided_without_store`] counts such decisions. What the share granted is not
//!   charged to the store. An operation whose reply is lost may have taken tokens; they are not
//!   returned, so engines together grant fewer tokens then, never more. A slot is returned even
//!   then.
//! - Decisions are futures: by [`Engine::start`], by [`Engine::start_http`], or by a
//!   [`Decider`](aperture_core::Decider), which returns `Pending` unless the store has replied. An
//!   engine of the mode [`Shared`] has no [`Engine::check`]. Flows in shadow mode, and components in
//!   a dry run, wait for the store and not in queues.
//! - Returned tokens reach the bucket even while a rejection is remembered, unless
//!   [`upstream_buckets`](EngineBuilder::upstream_buckets) is on. (In process, and on an Agent, a
//!   rate limiter discards them.)
//! - With lazy sync, each engine spends from an account per key, and charges the bucket in the
//!   background once per sync period. Only the first use of a key, and a flow that finds the account
//!   empty when a sync is due, waits for the store. Engines may exceed the limit by what they grant
//!   between two syncs, as Agents do. Quota schedulers ask for each flow, also with lazy sync.
//! - While no flow waits in the queue of a key, flows ask the store side by side. Otherwise the head
//!   of this engine's queue asks, one operation at a time: it reserves tokens, or waits for a slot.
//!   A returned slot goes to the heads of all engines, of which the fastest gets it. A head that
//!   learns of no returned slot asks again when the oldest slot expires, and every 100 ms.
//! - [`Engine::start_flow_end`] returns slots by reference, whichever engine granted them.
//! - A limit that is not finite is decided in process.
//! - In shared caches, a flow looks up its keys side by side with the first step that asks the
//!   store, and waits for them before quota and load schedulers decide, until the deadline of the
//!   caches. Then, or at once while they are given up, the lookup is a miss with an error.
//!   [`EngineStats::cache_failures`] counts such keys. See [`Engine::start_cache_lookup`].
//!
//! # Dry runs
//!
//! [`EngineBuilder::dry_run`] evaluates a policy beside those that are enforced: it decides, but
//! its decisions are not enforced.
//!
//! # Policies
//!
//! A policy is a `kind: Policy` resource, its bare `spec`, or a values file of a blueprint:
//! `rate-limiting`, `quota-scheduling`, `concurrency-limiting`, `concurrency-scheduling`,
//! `load-ramping` and all of `load-scheduling`; or it is [built in code](crate::policy::build) and
//! read by the same rules. [`Engine::describe`] shows the result. Policies are read as an Agent's
//! Controller reads them, except:
//!
//! - Input that the Controller accepts but that cannot work is refused, with file, line and field:
//!   a key written twice, a status code that does not exist, a regular expression that does not
//!   compile, a duplicate workload name, an `interval`, `max_inflight_duration` or
//!   `evaluation_interval` of zero or less, a port without a signal, a percentile outside of 0 to
//!   1.
//! - A `null` in the place of a text, number or boolean counts as an absent key, with a warning.
//!   (For the Controller, it is zero or empty.)
//! - `~0` in a JSON pointer means `~`, as RFC 6901 specifies. (The Controller refuses it.)
//! - A flux meter without buckets gets default buckets that suit milliseconds. (The Controller's
//!   suit seconds.)
//! - Rego modules are evaluated with the feature `rego`. Without it, a policy that decides by a
//!   label that only a module sets is refused.
//! - Alerters, infra meters and `auto_scale` have no effect; each of them except infra meters
//!   produces a warning. A policy that only scales is refused.
//! - Dynamic configuration sets variables and `dry_run`, and `start` and `reset` of load ramps. It
//!   comes from `dynamicConfig` of a resource, from a file `<policy>.dynamic.yaml` beside the
//!   policy's file, where `<policy>` is the policy's name or the stem of its file, and from
//!   [`Engine::set_dynamic_config`]; a later source replaces the value of the same key in an
//!   earlier one.
//! - Queries over the policy's own flux meters, in the form that blueprints generate, are answered
//!   from the measurements of this process; all others need a [`SignalSource`].
//! - A component that is not supported is refused by name, and so is a cycle of signals, unless it
//!   is always invalid.
//!
//! # Memory
//!
//! A component holds at most [`max_keys`](EngineBuilder::max_keys) keys. Traffic on any key removes
//! idle keys. When the component is full, a new key evicts the key that loses least, which is
//! counted in [`EngineStats::evicted`]: a key with a full bucket or without a slot in use, else the
//! key that has spent least. So made-up keys do not reopen a key that has reached its limit.

mod actuate;
mod adaptive_limits;
mod atomic_signal;
mod builder;
mod cache;
mod check;
mod classify;
mod clock;
mod collector;
mod component;
mod component_entry;
mod control;
mod counted_outcomes;
mod decide;
mod decision;
mod dry_run;
mod engine_flow;
mod eviction;
mod flow_end;
mod flow_end_pending;
mod flow_timer;
mod flux_meter;
mod held_slots;
mod http;
mod http_answer;
mod http_input;
mod in_process;
mod index;
#[cfg(all(test, shuttle))]
mod interleavings;
mod limiters;
mod loader;
mod mode;
mod observe;
mod owned_flow;
mod pending;
#[cfg(test)]
mod poll_tests;
mod queries;
mod query_encoding;
mod registry;
mod reload;
mod report;
mod request_id;
mod run;
mod schedulers;
mod selector_index;
pub mod shared;
mod snapshot;
mod source;
mod stages;
mod stats;
mod store;
mod store_timer;
mod sync;
mod taken_tokens;
mod ticket;
mod undecided;
mod watch;
mod workload_latency;

pub use self::actuate::Actuation;
pub use self::adaptive_limits::AdaptiveLimit;
pub use self::builder::EngineBuilder;
pub use self::cache::{CacheEntry, PendingCacheChange, PendingCacheLookup};
pub use self::clock::{Clock, ManualClock};
pub use self::control::{ControlLoop, LoopOutput, SignalSource};
#[doc(hidden)]
pub use self::decide::DecideContext;
pub use self::engine_flow::CheckInput;
pub use self::flow_end::{SlotRef, SlotReturn};
pub use self::flow_end_pending::PendingFlowEnd;
#[doc(hidden)]
pub use self::flux_meter::FluxMeter;
pub use self::http::{HttpReport, PendingHttpReport};
pub use self::http_answer::HttpAnswer;
pub use self::http_input::{AddressFlaw, HttpInput, HttpInputError, HttpRequest, SocketAddress};
pub use self::in_process::Engine;
pub use self::mode::{EngineMode, InProcess, Shared};
#[doc(hidden)]
pub use self::observe::{ComponentStats, InForceNames, NamedComponent, SignalReadings};
pub use self::pending::{EnginePending, PendingReport};
pub use self::queries::PolicyQuery;
pub use self::report::{
    CheckReport, ClassifierInfo, LimiterDecision, LimiterDetails, LimiterReason, QueueOrder,
    SchedulerDetails, TokensInfo,
};
pub use self::request_id::{ParseRequestIdError, RequestId};
pub use self::stats::EngineStats;
pub use self::ticket::EngineTicket;
pub use self::watch::PolicyWatcher;

/// The former name of [`PendingReport`].
#[deprecated(note = "use `PendingReport`")]
pub type Starting = PendingReport;

/// The former name of [`PendingHttpReport`].
#[deprecated(note = "use `PendingHttpReport`")]
pub type StartingHttp = PendingHttpReport;
