use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use super::Engine;
use super::cache::Caches;
use super::clock::{Clock, Nanos, SystemClock};
use super::control::SignalSource;
use super::dry_run::DryRun;
use super::limiters::ComponentContext;
use super::loader::Loading;
use super::snapshot::{Settings, Snapshot};
use super::source::{self, Source, Sources};
use super::store::StoreLimits;
use crate::policy::PolicyError;

const DEFAULT_MAX_KEYS: usize = 1 << 20;
const DEFAULT_CACHE_BYTES: usize = 64 << 20;

/// Collects policies and settings for an [`Engine`].
///
/// ```
/// use tower_aperture::Engine;
///
/// let error = Engine::builder()
///     .policy_file("no/such/policy.yaml")
///     .agent_group("default")
///     .max_keys(10_000)
///     .build()
///     .unwrap_err();
/// assert_eq!(error.file(), "no/such/policy.yaml");
/// ```
#[derive(Debug)]
pub struct EngineBuilder {
    sources: Vec<Source>,
    agent_group: Option<String>,
    clock: Option<Arc<dyn Clock>>,
    max_keys: usize,
    cache_bytes: usize,
    upstream_ramp_mode: bool,
    upstream_buckets: bool,
    signal_source: Option<Arc<dyn SignalSource>>,
    by_hand: bool,
    dry_run: DryRun,
}

impl EngineBuilder {
    pub(super) fn new() -> Self {
        Self {
            sources: Vec::new(),
            agent_group: None,
            clock: None,
            max_keys: DEFAULT_MAX_KEYS,
            cache_bytes: DEFAULT_CACHE_BYTES,
            upstream_ramp_mode: false,
            upstream_buckets: false,
            signal_source: None,
            by_hand: false,
            dry_run: DryRun::default(),
        }
    }

    /// Adds the policy of a file: a `kind: Policy` resource, a bare policy, or the values of a
    /// blueprint. It is read by [`build`](Self::build).
    #[must_use]
    pub fn policy_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources.push(Source::File(path.into()));
        self
    }

    /// Adds a policy from memory. Errors call it by the name; a policy without a name of its own
    /// has that name without its extension.
    #[must_use]
    pub fn policy_text(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.sources.push(Source::Text {
            name: name.into(),
            text: text.into(),
        });
        self
    }

    /// Adds the policies of all `.yaml` and `.yml` files of a folder, in the order of their
    /// names; folders in it and hidden files are left out.
    #[must_use]
    pub fn policy_folder(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources.push(Source::Folder(path.into()));
        self
    }

    /// The agent group that the engine stands for.
    ///
    /// With a group, selectors apply as on an Agent of that group: one without `agent_group` means
    /// `aperture-cloud`. Without a group, selectors apply that have no `agent_group`, or
    /// `default`. What does not apply is left out and named in a [warning](Engine::warnings).
    #[must_use]
    pub fn agent_group(mut self, group: impl Into<String>) -> Self {
        self.agent_group = Some(group.into());
        self
    }

    /// What to take for the time instead of the system's monotonic clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Whether ramps work as on an Agent of Aperture 2.x, which is not as documented.
    ///
    /// By default, flows in [ramp mode](crate::FlowParams::ramp_mode) run only where a ramp (a
    /// sampler with `ramp_mode`, or a load ramp) lets them, and ramps decide about no other flows.
    /// With this on, all flows in ramp mode are turned away, and ramps are samplers for all others.
    #[must_use]
    pub fn upstream_ramp_mode(mut self, on: bool) -> Self {
        self.upstream_ramp_mode = on;
        self
    }

    /// Makes token buckets and their queues do exactly as an Agent of Aperture 2.x does, to compare
    /// with one; off by default.
    ///
    /// By default the engine deviates where the Agent's behaviour costs other flows their tokens:
    ///
    /// - A flow that leaves a quota scheduler's queue gives its tokens back. With this on, they are
    ///   lost while a rejection of its key is remembered.
    /// - A rate limiter rejects a request for more tokens than its bucket can ever hold, reports no
    ///   wait, and remembers nothing. With this on, it reports a wait that does not help, and until
    ///   then rejects smaller requests of that key too.
    /// - In the queues of quota and load schedulers, at most three newcomers overtake a flow of their
    ///   workload while it waits. With this on, any number may.
    /// - A bucket with a negative fill is not waited for: a quota scheduler rejects. With this on, it
    ///   lets flows pass that its bucket has no tokens for.
    /// - Reports contain no NaN. With this on, they may.
    ///
    /// ```
    /// use tower_aperture::engine::{CheckInput, Engine};
    /// use tower_aperture::FlowParams;
    ///
    /// for (upstream, small_one_runs) in [(false, true), (true, false)] {
    ///     let engine = Engine::builder()
    ///         .policy_text("tokens.yaml", "
    /// blueprint: rate-limiting/base
    /// policy:
    ///   policy_name: tokens
    ///   rate_limiter:
    ///     bucket_capacity: 100
    ///     fill_amount: 100
    ///     parameters: {interval: 60s}
    ///     request_parameters: {tokens_label_key: tokens}
    ///     selectors: [{control_point: completions}]
    /// ")
    ///         .upstream_buckets(upstream)
    ///         .build()?;
    ///     let ask = |tokens: &'static str| {
    ///         let params = FlowParams::new().label("tokens", tokens);
    ///         engine.check(&CheckInput::new("completions", &params))
    ///     };
    ///     let too_big = ask("200");
    ///     assert!(!too_big.accepted());
    ///     assert_eq!(too_big.wait_time.is_some(), upstream);
    ///     assert_eq!(ask("1").accepted(), small_one_runs);
    /// }
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn upstream_buckets(mut self, on: bool) -> Self {
        self.upstream_buckets = on;
        self
    }

    /// Leaves load schedulers and samplers to [`Engine::actuate`]: recorded decisions are replayed
    /// that way.
    #[doc(hidden)]
    #[must_use]
    pub fn actuated_by_hand(mut self, by_hand: bool) -> Self {
        self.by_hand = by_hand;
        self
    }

    /// How many keys one component remembers at most, 1 048 576 by default and at least 1.
    ///
    /// A key takes about 150 bytes and its text, and 32 bytes more once there is no room. Then a new
    /// key replaces the one that loses least: first a key with a full bucket or without a slot taken,
    /// else the one that has spent least, and of equals the one that idled for longest. So made-up
    /// keys replace each other, and reopen no key that has reached its limit, unless all have. The
    /// bound should still be well above the number of keys in honest use.
    #[must_use]
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys.max(1);
        self
    }

    /// How many bytes the [caches](Engine::cache_upsert) take at most, 64 MiB by default: keys,
    /// values, and 128 bytes for each entry. With less than 2 MiB, large entries are refused.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Who answers the queries of policies, such as PromQL. Without it a policy is refused of
    /// which something that decides depends on a query, but for those over its own flux meters
    /// that blueprints make.
    #[must_use]
    pub fn signal_source(mut self, source: impl SignalSource + 'static) -> Self {
        self.signal_source = Some(Arc::new(source));
        self
    }

    /// Tries a policy without enforcing it; may be called several times.
    ///
    /// Its components decide as ever, with all their state: they take tokens, hold slots, and
    /// [report](super::LimiterDecision::dry_run) what they would do. But they turn no flow away
    /// and keep none waiting; where one would have to wait, they report a no. What they would have
    /// turned away is counted in [`EngineStats::dry_run_rejections`](super::EngineStats), and
    /// [`describe`](Engine::describe) marks the policy. Control loops run on, and see a service
    /// that nothing protects.
    ///
    /// This goes for reloads too, which fail when the policy is gone. (The `dry_run` of a load
    /// scheduler, inside of a policy, is another thing: it lets everything pass and decides
    /// nothing.)
    ///
    /// ```
    /// use tower_aperture::engine::{CheckInput, Engine};
    /// use tower_aperture::FlowParams;
    ///
    /// let engine = Engine::builder()
    ///     .policy_text("nobody.yaml", "
    /// blueprint: rate-limiting/base
    /// policy:
    ///   policy_name: nobody
    ///   rate_limiter:
    ///     bucket_capacity: 0
    ///     fill_amount: 1
    ///     parameters: {interval: 3600s}
    ///     selectors: [{control_point: checkout}]
    /// ")
    ///     .dry_run("nobody")
    ///     .build()?;
    /// let report = engine.check(&CheckInput::new("checkout", &FlowParams::new()));
    /// assert!(report.accepted() && report.limiter_decisions[0].dropped);
    /// assert_eq!(engine.stats().dry_run_rejections, 1);
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn dry_run(mut self, policy_name: impl Into<String>) -> Self {
        self.dry_run.add(policy_name.into());
        self
    }

    /// Whether no policy at all is enforced, as [`dry_run`](Self::dry_run) has it for one.
    #[must_use]
    pub fn dry_run_all(mut self, all: bool) -> Self {
        self.dry_run.all(all);
        self
    }

    /// Loads the policies. No runtime is needed; nothing is started.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, when a policy is wrong or uses what this version does not
    /// know, when two policies have the same name, and when [`dry_run`](Self::dry_run) names one
    /// that is not there. The error names the file, and the line and field where there is one.
    pub fn build(self) -> Result<Engine, PolicyError> {
        let settings = Settings {
            agent_group: self.agent_group,
            component_context: ComponentContext {
                limits: StoreLimits {
                    keys: self.max_keys,
                    shards: shards(),
                    max_idle: Nanos::MAX,
                },
                clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
                upstream_ramp_mode: self.upstream_ramp_mode,
                upstream_buckets: self.upstream_buckets,
                manual_signals: self.by_hand,
            },
            signal_source: self.signal_source,
            dry_run: self.dry_run,
        };
        let mut read = source::read(&self.sources, false)?;
        let none = HashMap::new();
        let Loading { snapshot, .. } = Snapshot::load(&settings, &mut read, &none, None)?;
        let sources = Sources {
            list: self.sources.into(),
            tried: read.clone(),
            refused: None,
            unreadable: None,
            in_force: read,
            by_hand: none,
        };
        let caches = Caches::new(self.cache_bytes);
        Ok(Engine::new(settings, sources, snapshot, caches))
    }
}

/// Enough that threads seldom meet; a power of two.
fn shards() -> usize {
    let threads = thread::available_parallelism().map_or(4, usize::from);
    (threads * 4).next_power_of_two().clamp(4, 64)
}
