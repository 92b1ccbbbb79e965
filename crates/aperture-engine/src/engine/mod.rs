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
//! # Dry runs
//!
//! [`EngineBuilder::dry_run`] evaluates a policy beside those that are enforced: it decides, but
//! its decisions are not enforced.
//!
//! # Policies
//!
//! A policy is a `kind: Policy` resource, its bare `spec`, or a values file of a blueprint:
//! `rate-limiting`, `quota-scheduling`, `concurrency-limiting`, `concurrency-scheduling`,
//! `load-ramping` and all of `load-scheduling`. [`Engine::describe`] shows the result. Policies are
//! read as an Agent's Controller reads them, except:
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
mod atomic_signal;
mod builder;
mod cache;
mod check;
mod check_input;
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
mod flow_timer;
mod flux_meter;
mod held_slots;
mod http;
mod http_answer;
mod http_input;
mod index;
#[cfg(all(test, shuttle))]
mod interleavings;
mod limiters;
mod loader;
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
mod snapshot;
mod source;
mod stages;
mod stats;
mod store;
mod sync;
mod taken_tokens;
mod ticket;
mod undecided;
mod watch;
mod workload_latency;

use std::fmt::{self, Write as _};
use std::sync::Arc;

use arc_swap::ArcSwap;

use self::cache::EngineCaches;
use self::clock::nanos;
use self::snapshot::{EngineSettings, Snapshot};
use self::source::PolicySources;
use self::stats::{ClassifierFailures, DecisionCounters, ReloadCounters};
use self::sync::Mutex;
use self::undecided::UnselectedControlPoints;
use crate::policy::{self, PolicyWarning};

pub use self::actuate::Actuation;
pub use self::builder::EngineBuilder;
pub use self::cache::CacheEntry;
pub use self::check_input::CheckInput;
pub use self::clock::{Clock, ManualClock};
pub use self::control::{ControlLoop, LoopOutput, SignalSource};
#[doc(hidden)]
pub use self::decide::DecideContext;
pub use self::flow_end::{SlotRef, SlotReturn};
#[doc(hidden)]
pub use self::flux_meter::FluxMeter;
pub use self::http::{HttpReport, StartingHttp};
pub use self::http_answer::HttpAnswer;
pub use self::http_input::{AddressFlaw, HttpInput, HttpInputError, HttpRequest, SocketAddress};
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

/// Decides flows in process by Aperture policies. Cloning is cheap; clones share their state.
///
/// ```
/// use std::time::Duration;
/// use tower_aperture::engine::{CheckInput, Engine, ManualClock};
/// use tower_aperture::{FlowParams, RejectReason};
///
/// let clock = ManualClock::new();
/// let engine = Engine::builder()
///     .policy_text("ten-a-minute", "
/// circuit:
///   components:
///   - flow_control:
///       rate_limiter:
///         selectors: [{control_point: checkout, agent_group: default}]
///         in_ports:
///           bucket_capacity: {constant_signal: {value: 1}}
///           fill_amount: {constant_signal: {value: 10}}
///         parameters: {interval: 60s, limit_by_label_key: user_id}
/// ")
///     .clock(clock.clone())
///     .build()?;
///
/// let params = FlowParams::new().label("user_id", "42");
/// let input = CheckInput::new("checkout", &params);
/// assert!(engine.check(&input).accepted());
/// let report = engine.check(&input);
/// assert_eq!(report.reject_reason, Some(RejectReason::RateLimited));
/// assert_eq!(report.wait_time, Some(Duration::from_secs(6)));
///
/// clock.advance(Duration::from_secs(6));
/// assert!(engine.check(&input).accepted());
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone)]
pub struct Engine {
    shared: Arc<EngineShared>,
}

#[derive(Debug)]
struct EngineShared {
    /// The policies in force. Every decision reads them, without a lock and without contention on a
    /// cache line.
    live: ArcSwap<Snapshot>,
    clock: Arc<dyn Clock>,
    decision_counters: DecisionCounters,
    reloads: ReloadCounters,
    classifier_failures: ClassifierFailures,
    unselected: UnselectedControlPoints,
    caches: EngineCaches,
    settings: EngineSettings,
    /// Held while sources are read, so that reloads do not overlap. Only reloads wait for it,
    /// because a file system may be slow.
    reload_lock: Mutex<()>,
    /// Held while policies are put in force.
    sources: Mutex<PolicySources>,
}

impl Engine {
    fn new(
        settings: EngineSettings,
        sources: PolicySources,
        snapshot: Snapshot,
        caches: EngineCaches,
    ) -> Self {
        Self {
            shared: Arc::new(EngineShared {
                live: ArcSwap::from_pointee(snapshot),
                clock: Arc::clone(&settings.component_context.clock),
                decision_counters: DecisionCounters::default(),
                reloads: ReloadCounters::default(),
                classifier_failures: ClassifierFailures::default(),
                unselected: UnselectedControlPoints::default(),
                caches,
                settings,
                reload_lock: Mutex::new(()),
                sources: Mutex::new(sources),
            }),
        }
    }

    /// Returns a builder without policies; an engine without policies lets everything pass.
    #[must_use]
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new()
    }

    /// Returns the warnings of the last load of the policies; each is also logged as a `tracing`
    /// event.
    #[must_use]
    pub fn warnings(&self) -> Vec<PolicyWarning> {
        self.shared.live.load().warnings.clone()
    }

    /// Evaluates the ticks that are due and returns the last outputs of the control loops of the
    /// policies in force, for metrics.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_aperture::engine::{Engine, LoopOutput, ManualClock};
    ///
    /// let clock = ManualClock::new();
    /// let engine = Engine::builder()
    ///     .policy_text("new-checkout", "
    /// blueprint: load-ramping/base
    /// policy:
    ///   policy_name: new-checkout
    ///   start: true
    ///   load_ramp:
    ///     sampler: {selectors: [{control_point: checkout}]}
    ///     steps:
    ///     - {target_accept_percentage: 0, duration: 1s}
    ///     - {target_accept_percentage: 100, duration: 100s}
    /// ")
    ///     .clock(clock.clone())
    ///     .build()?;
    /// // Ticks count from zero, and the first second belongs to the first step.
    /// clock.advance(Duration::from_secs(50));
    /// let loops = engine.control_loops();
    /// assert_eq!(loops[0].output, Some(LoopOutput::AcceptPercentage(50.0)));
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn control_loops(&self) -> Vec<ControlLoop> {
        let live = self.shared.live.load();
        live.control.catch_up(nanos(self.shared.clock.now()));
        live.control.outputs()
    }

    /// Describes the policies in force as plain text: policies, components, control points, limits
    /// and keys. The end lists ignored or odd input, as [`warnings`](Self::warnings), and up to
    /// 1024 control points of flows that no policy selects. The text is for humans: its form may
    /// change in any version.
    ///
    /// ```
    /// use tower_aperture::Engine;
    ///
    /// let engine = Engine::builder()
    ///     .policy_text("users.yaml", "
    /// blueprint: rate-limiting/base
    /// policy:
    ///   policy_name: per-user
    ///   rate_limiter:
    ///     bucket_capacity: 5
    ///     fill_amount: 1
    ///     parameters: {interval: 1s, limit_by_label_key: user_id}
    ///     selectors: [{control_point: checkout}]
    /// ")
    ///     .build()?;
    /// assert_eq!(engine.describe(), "\
    /// policy `per-user`
    ///   root.0 rate_limiter: 5 tokens, 1 more every 1s, for each value of the label `user_id`; \
    /// rejects with 429
    ///     at `checkout`, any service
    /// ");
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn describe(&self) -> String {
        let live = self.shared.live.load();
        let mut text = live.description.clone();
        if !live.warnings.is_empty() {
            text.push_str("notes\n");
        }
        for warning in &live.warnings {
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "  {warning}");
        }
        policy::describe_unselected(&mut text, &self.shared.unselected.names(&live));
        text
    }

    /// Returns the counters of the engine. Visits every shard of every component: for metrics, not
    /// for each request.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let (accepted, undecided, rejected) = self.shared.decision_counters.sums();
        let (reloads, failed_reloads) = self.shared.reloads.sums();
        let live = self.shared.live.load();
        let components = live.index.components();
        EngineStats {
            accepted,
            undecided,
            rejected,
            keys: components.iter().map(|entry| entry.component.keys()).sum(),
            evicted: components
                .iter()
                .map(|entry| entry.component.evicted())
                .sum(),
            dry_run_rejections: self.shared.settings.dry_run.rejections(),
            classifier_failures: self.shared.classifier_failures.sum(),
            reloads,
            failed_reloads,
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field(
                "components",
                &self.shared.live.load().index.components().len(),
            )
            .field("agent_group", &self.shared.settings.agent_group)
            .finish_non_exhaustive()
    }
}
