//! [`Engine`]: the state that its clones share, and what it tells about itself.

use std::fmt::{self, Write as _};
use std::marker::PhantomData;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::cache::{EngineCaches, StoreCaches};
use super::clock::{Clock, nanos};
use super::control::ControlLoop;
use super::mode::{EngineMode, InProcess};
use super::queries::PolicyQuery;
use super::shared::SharedContext;
use super::snapshot::{EngineSettings, Snapshot};
use super::source::PolicySources;
use super::stats::{ClassifierFailures, EngineStats, ReloadCounters};
use super::sync::{AtomicU32, Mutex};
use super::undecided::UnselectedControlPoints;
use crate::policy::{self, PolicyWarning};
use aperture_core::decision_counters::DecisionCounters;

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
///
/// `M` is the [mode](EngineMode) of the engine: [`InProcess`], or [`Shared`](super::Shared) for one
/// with a [shared store](super::EngineBuilder::shared). `Engine` alone is an engine in process.
#[derive(Clone)]
pub struct Engine<M = InProcess> {
    pub(super) shared: Arc<EngineShared>,
    pub(super) mode: PhantomData<M>,
}

#[derive(Debug)]
pub(super) struct EngineShared {
    /// The policies in force. Every decision reads them, without a lock and without contention on a
    /// cache line.
    pub(super) live: ArcSwap<Snapshot>,
    /// The version of the index of `live`, set just after it. A flow that only compares it with a
    /// memo does not load the policies.
    pub(super) version: AtomicU32,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) decision_counters: DecisionCounters,
    pub(super) reloads: ReloadCounters,
    pub(super) classifier_failures: ClassifierFailures,
    pub(super) unselected: UnselectedControlPoints,
    pub(super) caches: EngineCaches,
    pub(super) settings: EngineSettings,
    /// Held while sources are read, so that reloads do not overlap. Only reloads wait for it,
    /// because a file system may be slow.
    pub(super) reload_lock: Mutex<()>,
    /// Held while policies are put in force.
    pub(super) sources: Mutex<PolicySources>,
}

impl<M: EngineMode> Engine<M> {
    pub(super) fn new(
        settings: EngineSettings,
        sources: PolicySources,
        snapshot: Snapshot,
        caches: EngineCaches,
    ) -> Self {
        Self {
            shared: Arc::new(EngineShared {
                version: AtomicU32::new(snapshot.index.selectors().version()),
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
            mode: PhantomData,
        }
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

    /// Returns the queries of the policies in force for their
    /// [`SignalSource`](super::SignalSource), each text once, for code that fetches the answers.
    /// Queries that the engine answers itself are left out.
    #[must_use]
    pub fn queries(&self) -> Vec<PolicyQuery> {
        self.shared.live.load().queries.clone()
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
        let shared = self.shared.settings.component_context.shared.as_ref();
        let caches = self.shared.caches.shared();
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
            decided_without_store: shared.map_or(0, SharedContext::without_store),
            cache_failures: caches.map_or(0, StoreCaches::failures),
        }
    }
}

impl<M> fmt::Debug for Engine<M> {
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
