//! The engine that decides in process what an Aperture Agent would decide.
//!
//! An [`Engine`] reads policies as users write them for an Agent and keeps their state in memory.
//! Deciding is synchronous: no task, no timer, no I/O, and no allocation where a known key is let
//! in. This version knows the rate limiter; a policy with another component is refused by name.
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
//! - Keys may be of any length. (There, one of 256 bytes or more is never limited, or with lazy
//!   sync always turned away.)
//! - With lazy sync, a request with 10 ms or less left that would have to sync is turned away,
//!   and nothing else happens. (There, the key's spending is forgiven and the key closed for a
//!   period.)
//! - With lazy sync, what a key spent before it idled is charged when it comes back. (There, it
//!   is forgiven.)
//! - A wait beyond 292 years is told as 292 years. (There, as none.)
//! - A key that idles for `max_idle_time` starts anew, with a full bucket. (There, some day or
//!   never.) A remembered rejection is kept until its time, as there.
//! - A flow in ramp mode is turned away unless a ramp lets it in; there are no ramps yet.
//!
//! # Memory
//!
//! A component holds at most [`max_keys`](EngineBuilder::max_keys) keys. Idle keys are swept up by
//! the traffic on the others; when there is no room for a new key, the one of a few that idled
//! for longest goes and is counted in [`EngineStats::evicted`].

mod builder;
mod cache;
mod classify;
mod clock;
mod control;
mod flux_meter;
mod http;
mod index;
mod limiters;
mod reload;
mod report;
mod snapshot;
mod source;
mod stages;
mod stats;
mod store;
mod watch;

use std::convert::Infallible;
use std::fmt::{self, Write as _};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;

use self::cache::{Caches, Recall};
use self::clock::nanos;
use self::flux_meter::{Matched, Metered};
use self::report::Collector;
use self::snapshot::{Settings, Snapshot};
use self::source::Sources;
use self::stages::{Denied, Flow, NO_DEADLINE};
use self::stats::Tally;
use crate::flow::{CacheLookup, Check, Decider, Denial, FlowOutcome, FlowParams, Ticket, Verdict};
use crate::policy::PolicyWarning;

pub use self::builder::EngineBuilder;
pub use self::cache::CacheEntry;
pub use self::clock::{Clock, ManualClock};
pub use self::control::SignalSource;
pub use self::http::{
    AddressFlaw, HttpAnswer, HttpInput, HttpInputError, HttpReport, HttpRequest, SocketAddress,
};
pub use self::report::{
    CheckInput, CheckReport, ClassifierInfo, LimiterDecision, LimiterDetails, LimiterReason,
    TokensInfo,
};
pub use self::stats::EngineStats;
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
    clock: Box<dyn Clock>,
    tally: Tally,
    caches: Caches,
    settings: Settings,
    /// Locked while policies are reloaded, so that one reload follows another.
    sources: Mutex<Sources>,
}

impl Engine {
    fn new(
        settings: Settings,
        sources: Sources,
        snapshot: Snapshot,
        clock: Box<dyn Clock>,
        caches: Caches,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                live: ArcSwap::from_pointee(snapshot),
                clock,
                tally: Tally::default(),
                caches,
                settings,
                sources: Mutex::new(sources),
            }),
        }
    }

    /// An engine without policies, to which they are added; it lets everything pass.
    #[must_use]
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new()
    }

    /// Decides a flow and tells all there is to tell. [`Decider::decide`] decides the same and
    /// tells less, for less.
    ///
    /// The flow needs no end: a rate limiter's tokens are spent.
    #[must_use]
    pub fn check(&self, input: &CheckInput<'_, '_>) -> CheckReport {
        self.check_metered(input).0
    }

    /// With the flux meters that the flow meets.
    fn check_metered(&self, input: &CheckInput<'_, '_>) -> (CheckReport, Matched) {
        let flow = Flow {
            control_point: input.control_point,
            services: input.services,
            labels: &input.params.labels,
            ramp_mode: input.params.ramp_mode,
            time_left: input.deadline.map_or(NO_DEADLINE, nanos),
        };
        let meters = self.meters(&flow);
        let mut collector = Collector {
            flow: &flow,
            decisions: Vec::new(),
            recall: input
                .cache_lookup
                .then(|| Recall::always(&self.shared.caches, input.params)),
            flux_meters: meters
                .iter()
                .map(|meter| Arc::clone(meter.name()))
                .collect(),
        };
        let denied = self.run(&flow, &mut collector).err();
        (collector.report(denied, input.expect_end), meters)
    }

    /// Like [`check`](Self::check), for a flow that its asker will end.
    pub(crate) fn start(&self, input: &CheckInput<'_, '_>) -> (Verdict<EngineTicket>, CheckReport) {
        let (report, meters) = self.check_metered(input);
        let ticket = EngineTicket {
            // The report has what was looked up.
            found: None,
            metered: Metered::begin(self, meters),
        };
        let verdict = match report.reject_reason {
            None => Verdict::Accepted(ticket),
            Some(reason) => {
                let code = u16::try_from(report.denied_response_status_code).unwrap_or(0);
                let wait = report.wait_time.unwrap_or_default();
                Verdict::Rejected(Denial::new(reason).denied_code(code).wait(wait), ticket)
            }
        };
        (verdict, report)
    }

    /// What was odd about the policies when they were loaded last; each is also a `tracing` event.
    #[must_use]
    pub fn warnings(&self) -> Vec<PolicyWarning> {
        self.shared.live.load().warnings.clone()
    }

    /// What is in force, in plain words: policies, what decides in them, where, by which limits and
    /// keys; at the end what is ignored or odd, as [`warnings`](Self::warnings) has it. For people:
    /// its form may change in any version.
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
        text
    }

    /// What was counted so far. Looks at every shard of every component: for metrics, not for
    /// each request.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let (accepted, rejected) = self.shared.tally.sums();
        let live = self.shared.live.load();
        let components = live.index.components();
        EngineStats {
            accepted,
            rejected,
            keys: components.iter().map(|one| one.limiter.keys()).sum(),
            evicted: components.iter().map(|one| one.limiter.evicted()).sum(),
        }
    }

    /// The flux meters that a flow meets.
    #[inline]
    fn meters(&self, flow: &Flow<'_, '_>) -> Matched {
        self.shared.live.load().flux_meters.matching(flow)
    }

    fn run(&self, flow: &Flow<'_, '_>, observer: &mut impl stages::Observer) -> Result<(), Denied> {
        let Shared {
            live, clock, tally, ..
        } = &*self.shared;
        let result = stages::run(&live.load().index, &**clock, flow, observer);
        tally.count(result.is_ok());
        result
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

/// Decides at once, always. [`FlowParams::check_timeout`] is the deadline: with 10 ms or less, a
/// limiter that would have to look at its state rejects, as an Agent does. `None` and zero are no
/// deadline.
impl Decider for Engine {
    type Ticket = EngineTicket;
    type Pending = EnginePending;

    fn decide(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Check<EngineTicket, EnginePending> {
        let flow = Flow {
            control_point,
            services: &[],
            labels: &params.labels,
            ramp_mode: params.ramp_mode,
            time_left: match params.check_timeout {
                Some(timeout) if !timeout.is_zero() => nanos(timeout),
                _ => NO_DEADLINE,
            },
        };
        let (result, found) = match Recall::of(&self.shared.caches, params) {
            None => (self.run(&flow, &mut ()), None),
            Some(mut recall) => (self.run(&flow, &mut recall), recall.found),
        };
        let ticket = EngineTicket {
            found: found.map(Box::new),
            metered: Metered::begin(self, self.meters(&flow)),
        };
        Check::Ready(match result {
            Ok(()) => Verdict::Accepted(ticket),
            Err(denied) => Verdict::Rejected(denied.into(), ticket),
        })
    }
}

impl From<Denied> for Denial {
    /// A status outside of what HTTP knows is no status.
    fn from(denied: Denied) -> Self {
        Self::new(denied.reason)
            .denied_code(u16::try_from(denied.code).unwrap_or(0))
            .wait(clock::duration(denied.wait))
    }
}

/// A flow that an [`Engine`] has answered.
///
/// ```
/// use tower_aperture::engine::Engine;
/// use tower_aperture::{Check, Decider, FlowOutcome, FlowParams, FlowStatus, Ticket, Verdict};
///
/// let engine = Engine::builder().build()?;
/// match engine.decide("checkout", &FlowParams::new()) {
///     Check::Ready(Verdict::Accepted(ticket)) => ticket.end(FlowOutcome::new(FlowStatus::Ok)),
///     _ => unreachable!("nothing limits it"),
/// }
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Debug)]
pub struct EngineTicket {
    /// What the caches had, for a flow that asked.
    found: Option<Box<CacheLookup>>,
    /// What is to know how long the flow takes.
    metered: Option<Metered>,
}

impl Ticket for EngineTicket {
    fn end(self, outcome: FlowOutcome) {
        if let Some(metered) = self.metered {
            metered.end(outcome);
        }
    }

    fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        self.found.take().map(|found| *found)
    }
}

/// A decision of an [`Engine`] that has to wait: there is none, rate limiters answer at once.
///
/// ```
/// use tower_aperture::engine::{Engine, EnginePending};
/// use tower_aperture::Decider;
///
/// fn waits_never<D: Decider<Pending = EnginePending>>(_: &D) {}
/// waits_never(&Engine::builder().build()?);
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Debug)]
pub struct EnginePending(Infallible);

impl Future for EnginePending {
    type Output = Verdict<EngineTicket>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0 {}
    }
}
