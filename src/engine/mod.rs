//! The engine that decides in process what an Aperture Agent would decide.
//!
//! An [`Engine`] reads policies as users write them for an Agent and keeps their state in memory.
//! Deciding takes no task and no I/O, and no allocation where a known key is let in; only where a
//! scheduler makes a flow wait is there a future, with one timer, that is woken when its tokens
//! are there.
//!
//! # Rate limiters
//!
//! Each key has a token bucket that holds `bucket_capacity` tokens and is filled with
//! `fill_amount` tokens an `interval`. Capacity, filling, delays, lazy sync and the waits told are
//! an Agent's to the token, quirks included: a rejection is remembered until its tokens are there
//! and until then turns away smaller requests too; a limiter of capacity 0 and fill 0 lets
//! everything pass. Where an Agent does what nobody can have meant, the engine does this instead:
//!
//! - A tokens label that is not a finite number counts as not given. (There, it corrupts the
//!   bucket.)
//! - Keys may be of any length. One of more than 255 bytes is kept as its beginning and 128 bits of
//!   its SHA-256; decisions name it by its whole text. (There, it is never limited, or with lazy sync always
//!   turned away.)
//! - With lazy sync, a request with 10 ms or less left that would have to sync is turned away,
//!   and nothing else happens. (There, the key's spending is forgiven and the key closed for a
//!   period.)
//! - With lazy sync, what a key spent before it idled is charged when it comes back. (There, it
//!   is forgiven.)
//! - A wait beyond 292 years is told as 292 years. (There, as none.)
//! - A key that idles for `max_idle_time` starts anew, with a full bucket. (There, some day or
//!   never.) A remembered rejection is kept until its time, as there.
//! - A request for more tokens than the bucket can ever hold is rejected without a wait and is not
//!   remembered. (There, it is told a wait that does not help, and closes the bucket to smaller
//!   requests until then; see [`upstream_buckets`](EngineBuilder::upstream_buckets).)
//! - Tokens that are given back never fill an account beyond its bucket.
//!
//! # Concurrency limiters
//!
//! A flow holds a slot of its key until it ends: by [`EngineTicket`], by
//! [`Engine::flow_end`], or `max_inflight_duration` after it began. One is let in while less than
//! `max_concurrency` is in flight, whatever it brings itself, so one big request may exceed that;
//! remaining and current are those before it. All that is an Agent's.
//!
//! # Schedulers
//!
//! Quota, concurrency and load schedulers queue what they have no tokens for, by weight: priority,
//! tokens and fairness label, in the very order of an Agent. A flow waits until its deadline or
//! the `queue_timeout` of its workload, whichever comes first; a `queue_timeout` of 10 ms or less
//! turns everything away. A load scheduler learns the demand for 31 seconds before it sheds load. In
//! a quota scheduler a request for more tokens than the bucket holds waits, and leaves a debt. All
//! that is an Agent's, except for the following:
//!
//! - A slot that is given back or expires goes to the head of a concurrency scheduler's queue at
//!   once, and who waits for one does so until 10 ms before its deadline. (There, waiters poll:
//!   slots are late or lost, and waiters are refused early.) Without a deadline and a queue
//!   timeout nobody waits for a slot, as there.
//! - A flow that leaves a queue, for any reason, gives back its place and its tokens, and counts as
//!   rejected in the demand that control loops see. (There, its tokens are lost while a rejection
//!   of its key is remembered.)
//! - Newcomers do not starve a queue. A flow that is granted a slot is out of service at once, so
//!   no newcomer of its workload overtakes those that wait; in the queues of quota and load
//!   schedulers at most three do. (There, any number may.)
//! - Negative tokens count as no demand, and sums of tokens saturate. (There, they lower the demand
//!   that a load scheduler learns.)
//! - A debt that no time pays, because it is infinite or its bucket drains, is rejected instead of
//!   being waited for.
//! - A priority next to zero, and tokens next to infinity, count as a large finite cost in a queue,
//!   so that the weights of the flows behind them hold.
//!
//! # Samplers
//!
//! - Ramps (samplers in ramp mode, and load ramps) decide about flows in ramp mode and about no
//!   others; such a flow runs only where a ramp lets it. (There, none of them ever runs, see
//!   [`upstream_ramp_mode`](EngineBuilder::upstream_ramp_mode).)
//! - `pass_through_label_values` is honoured. (There, only after an unrelated event.)
//!
//! # Signals and control loops
//!
//! What a policy computes while it runs (control loops of load schedulers, load ramps, and whatever
//! else leads to an in-port) is evaluated each `evaluation_interval`, first when the policy comes
//! into force. No thread and no timer does that: evaluations that are due are made up for by the
//! next flow that is decided, or that ends where its latency counts, each with the time it was due
//! at, a thousand at most in one go. An engine without such policies pays one comparison for it. A
//! waiting flow hears of a higher limit when another flow comes or ends.
//!
//! How much of the load was let in and how long flows took, the engine measures itself: an
//! average-latency policy needs no monitoring system. What else a policy queries comes from a
//! [`SignalSource`]. [`Engine::control_loops`] shows what the loops say. They are an Agent's to the
//! value, with 11 seconds between what load schedulers did and what loops see of it, but:
//!
//! - After a silence, the evaluations that are made up for hold the last answer of a
//!   [`SignalSource`], and only the newest one asks afresh. (There, evaluations are never late.)
//! - A decider with `true_for` changes its answer when the opposite has held for that long. (There,
//!   an interruption of that may flip the answer at once.)
//!
//! # Reloading
//!
//! [`Engine::reload`] puts changed files in force, all or none, and [`Engine::watch`] does so when
//! they change. Components keep their state, buckets, slots, queues and loops, when nothing but
//! numbers of theirs change: each key has its state still, and keeps to the new limit.
//! [`Engine::set_dynamic_config`] changes single values in the same way.
//!
//! # Dry runs
//!
//! [`EngineBuilder::dry_run`] tries a policy beside those that are enforced: it decides, and nothing
//! follows.
//!
//! # Policies
//!
//! A policy is a `kind: Policy` resource, the bare policy of one, or a values file of a blueprint:
//! `rate-limiting`, `quota-scheduling`, `concurrency-limiting`, `concurrency-scheduling`,
//! `load-ramping` and all of `load-scheduling`. [`Engine::describe`] says what came of them. They
//! are read as an Agent's Controller reads them, but:
//!
//! - What it takes and nothing good can come of is refused, with file, line and field: a key written
//!   twice, a status code that does not exist, a regular expression that does not compile, a
//!   workload's name that is taken, an `interval`, `max_inflight_duration` or `evaluation_interval`
//!   of zero or less, a port without a signal, a percentile outside of 0 to 1.
//! - A `null` in the place of a text, number or boolean is as if the key were absent, with a
//!   warning. (There, it is zero or empty.)
//! - `~0` in a JSON pointer means `~`, as RFC 6901 says. (There, it is refused.)
//! - A flux meter without buckets has some that suit milliseconds. (There, they suit seconds.)
//! - Rego modules are evaluated with the feature `rego`. Without it, a policy is refused that
//!   decides by a label that only a module sets.
//! - Alerters, infra meters and `auto_scale` have no effect; each with a warning but infra meters. A
//!   policy that only scales is refused.
//! - Dynamic configuration sets variables and `dry_run`, and `start` and `reset` of load ramps. It
//!   comes from `dynamicConfig` of a resource, from a file `<policy>.dynamic.yaml` beside the
//!   policy's file, where `<policy>` is the policy's name or the stem of its file, and from
//!   [`Engine::set_dynamic_config`]; of a key the last one counts.
//! - Queries over the policy's own flux meters, in the form that blueprints write, are answered
//!   from what this process measures; all others need a [`SignalSource`].
//! - A component that is not supported is refused by its name, and so is a loop of signals, unless
//!   it is invalid for good.
//!
//! # Memory
//!
//! A component holds at most [`max_keys`](EngineBuilder::max_keys) keys. Traffic on any key sweeps up
//! idle ones. When there is no room for a new key, the key that loses least is forgotten, and counted
//! in [`EngineStats::evicted`]: one with a full bucket or without a slot taken, else the one that has
//! spent least. So made-up keys do not reopen a key that has reached its limit.

mod actuate;
mod builder;
mod cache;
mod check;
mod classify;
mod clock;
mod component_entry;
mod control;
mod decide;
mod dial;
mod dry_run;
mod eviction;
mod flow_end;
mod flux_meter;
mod http;
mod index;
#[cfg(all(test, shuttle))]
mod interleavings;
mod limiters;
mod loader;
#[cfg(feature = "server")]
mod observe;
mod pending;
#[cfg(test)]
mod poll_tests;
mod queries;
mod reload;
mod report;
mod request_id;
mod schedulers;
mod snapshot;
mod source;
mod stages;
mod stats;
mod store;
mod sync;
mod ticket;
mod undecided;
mod watch;

use std::fmt::{self, Write as _};
use std::sync::Arc;

use arc_swap::ArcSwap;

use self::cache::Caches;
use self::clock::nanos;
use self::snapshot::{Settings, Snapshot};
use self::source::Sources;
use self::stats::{Failures, Reloads, Tally};
use self::sync::Mutex;
use self::undecided::Unselected;
use crate::policy::{self, PolicyWarning};

pub use self::actuate::Actuation;
pub use self::builder::EngineBuilder;
pub use self::cache::CacheEntry;
pub use self::clock::{Clock, ManualClock};
pub use self::control::{ControlLoop, LoopOutput, SignalSource};
pub(crate) use self::decide::DecideContext;
pub use self::flow_end::{SlotRef, SlotReturn};
#[cfg(feature = "server")]
pub(crate) use self::flux_meter::FluxMeter;
pub use self::http::{
    AddressFlaw, HttpAnswer, HttpInput, HttpInputError, HttpReport, HttpRequest, SocketAddress,
    StartingHttp,
};
#[cfg(feature = "server")]
pub(crate) use self::observe::{NamedComponent, Names, SignalReadings};
pub use self::pending::{EnginePending, PendingReport};
pub use self::queries::PolicyQuery;
pub use self::report::{
    CheckInput, CheckReport, ClassifierInfo, LimiterDecision, LimiterDetails, LimiterReason,
    QueueOrder, SchedulerDetails, TokensInfo,
};
pub use self::request_id::{ParseRequestIdError, RequestId};
pub use self::stats::EngineStats;
pub use self::ticket::EngineTicket;
pub use self::watch::PolicyWatcher;

/// Decides flows in process by Aperture policies. Cloning it is cheap; clones share their state.
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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Read by every decision: without a lock, and without a line of memory that threads fight for.
    live: ArcSwap<Snapshot>,
    clock: Arc<dyn Clock>,
    tally: Tally,
    reloads: Reloads,
    classifier_failures: Failures,
    unselected: Unselected,
    caches: Caches,
    settings: Settings,
    /// Locked while sources are read, so that one reload follows another. A file system may take
    /// its time for that: nothing else waits for it.
    reading: Mutex<()>,
    /// Locked while policies are put in force.
    sources: Mutex<Sources>,
}

impl Engine {
    fn new(settings: Settings, sources: Sources, snapshot: Snapshot, caches: Caches) -> Self {
        Self {
            shared: Arc::new(Shared {
                live: ArcSwap::from_pointee(snapshot),
                clock: Arc::clone(&settings.component_context.clock),
                tally: Tally::default(),
                reloads: Reloads::default(),
                classifier_failures: Failures::default(),
                unselected: Unselected::default(),
                caches,
                settings,
                reading: Mutex::new(()),
                sources: Mutex::new(sources),
            }),
        }
    }

    /// An engine without policies, to which they are added; it lets everything pass.
    #[must_use]
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new()
    }

    /// What was odd about the policies when they were loaded last; each is also a `tracing` event.
    #[must_use]
    pub fn warnings(&self) -> Vec<PolicyWarning> {
        self.shared.live.load().warnings.clone()
    }

    /// What the control loops of the policies in force have told their components last, now that
    /// the ticks that are due are made up for: for metrics.
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

    /// What is in force, in plain words: policies, what decides in them, where, by which limits and
    /// keys; at the end what is ignored or odd, as [`warnings`](Self::warnings) has it, and the
    /// control points that flows have asked for and that no policy selects, up to 1024 of them. For
    /// people: its form may change in any version.
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
            // Writing to a String does not fail.
            let _ = writeln!(text, "  {warning}");
        }
        policy::describe_unselected(&mut text, &self.shared.unselected.names(&live));
        text
    }

    /// What was counted so far. Looks at every shard of every component: for metrics, not for
    /// each request.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let (accepted, undecided, rejected) = self.shared.tally.sums();
        let (reloads, failed_reloads) = self.shared.reloads.sums();
        let live = self.shared.live.load();
        let components = live.index.components();
        EngineStats {
            accepted,
            undecided,
            rejected,
            keys: components.iter().map(|one| one.limiter.keys()).sum(),
            evicted: components.iter().map(|one| one.limiter.evicted()).sum(),
            dry_run_rejections: self.shared.settings.dry_run.rejected(),
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
