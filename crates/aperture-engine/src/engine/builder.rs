//! The builder of an engine: policies and settings.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use super::adaptive_limits::AdaptiveSettings;
use super::cache::EngineCaches;
use super::clock::{Clock, Nanos, SystemClock};
use super::component::ComponentContext;
use super::control::SignalSource;
use super::counted_outcomes::CountedOutcomes;
use super::dry_run::DryRunPolicies;
use super::loader::LoadedSnapshot;
use super::shared::{SharedContext, SharedStore};
use super::snapshot::{EngineSettings, Snapshot};
use super::source::{self, PolicySource, PolicySources};
use super::store::StoreLimits;
use super::{Engine, EngineMode, InProcess};
use crate::policy::build::Policy;
use crate::policy::{CountOnly, PolicyError};
use aperture_core::FlowOutcome;

const DEFAULT_MAX_KEYS: usize = 1 << 20;
const DEFAULT_CACHE_BYTES: usize = 64 << 20;

/// A builder that collects policies and settings for an [`Engine`].
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
pub struct EngineBuilder<M = InProcess> {
    pub(super) settings: BuilderSettings,
    pub(super) mode: PhantomData<M>,
}

/// The settings of a builder.
#[derive(Debug)]
pub(super) struct BuilderSettings {
    sources: Vec<PolicySource>,
    agent_group: Option<String>,
    clock: Option<Arc<dyn Clock>>,
    max_keys: usize,
    cache_bytes: usize,
    upstream_ramp_mode: bool,
    upstream_buckets: bool,
    signal_source: Option<Arc<dyn SignalSource>>,
    manual_actuation: bool,
    dry_run: DryRunPolicies,
    pub(super) shared: Option<Arc<dyn SharedStore>>,
    pub(super) adaptive: AdaptiveSettings,
    counted_outcomes: CountedOutcomes,
}

impl Engine {
    /// Returns a builder without policies; an engine without policies lets everything pass.
    #[must_use]
    pub fn builder() -> EngineBuilder {
        EngineBuilder {
            settings: BuilderSettings::default(),
            mode: PhantomData,
        }
    }
}

impl Default for BuilderSettings {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            agent_group: None,
            clock: None,
            max_keys: DEFAULT_MAX_KEYS,
            cache_bytes: DEFAULT_CACHE_BYTES,
            upstream_ramp_mode: false,
            upstream_buckets: false,
            signal_source: None,
            manual_actuation: false,
            dry_run: DryRunPolicies::default(),
            shared: None,
            adaptive: AdaptiveSettings::default(),
            counted_outcomes: CountedOutcomes::default(),
        }
    }
}

impl<M: EngineMode> EngineBuilder<M> {
    /// Adds the policy of a file: a `kind: Policy` resource, a bare policy, or the values of a
    /// blueprint. [`build`](Self::build) reads the file.
    #[must_use]
    pub fn policy_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.sources.push(PolicySource::File(path.into()));
        self
    }

    /// Adds a policy from memory. Errors refer to it by `name`; a policy without its own name is
    /// named `name` without its extension.
    #[must_use]
    pub fn policy_text(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.settings.sources.push(PolicySource::Text {
            name: name.into(),
            text: text.into(),
        });
        self
    }

    /// Adds the policies of all `.yaml` and `.yml` files of a folder, ordered by file name;
    /// subfolders and hidden files are skipped.
    #[must_use]
    pub fn policy_folder(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings
            .sources
            .push(PolicySource::Folder(path.into()));
        self
    }

    /// Adds a policy in code. Errors refer to it as ``policy `name` ``.
    ///
    /// Policies in code and in files work together. [`reload`](Engine::reload) and
    /// [`watch`](Engine::watch) read the files again and keep the policies from code. A policy with
    /// [`dry_run`](Policy::dry_run) is in a dry run.
    ///
    /// ```
    /// use tower_aperture::Engine;
    /// use tower_aperture::policy::{Policy, RateLimit};
    ///
    /// let policy = || Policy::new("api").at("api").limit(RateLimit::per_second(100));
    /// let engine = Engine::builder().policy(policy()).build()?;
    /// engine.reload()?;
    /// assert!(engine.describe().contains("policy `api`"));
    ///
    /// let twice = Engine::builder().policy(policy()).policy_text("api.yaml", policy().to_yaml()?);
    /// assert!(twice.build().unwrap_err().message().contains("names of policies must be unique"));
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        if policy.is_dry_run() {
            self.settings.dry_run.add(policy.name().to_owned());
        }
        let source = PolicySource::Code(policy.into_document());
        self.settings.sources.push(source);
        self
    }

    /// Sets the agent group of the engine.
    ///
    /// With a group, selectors apply as on an Agent of that group: a selector without `agent_group`
    /// means `aperture-cloud`. Without a group, selectors apply that have no `agent_group`, or
    /// `default`. Selectors that do not apply are left out and named in a
    /// [warning](Engine::warnings).
    #[must_use]
    pub fn agent_group(mut self, group: impl Into<String>) -> Self {
        self.settings.agent_group = Some(group.into());
        self
    }

    /// Sets the clock, which is the system's monotonic clock by default.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.settings.clock = Some(Arc::new(clock));
        self
    }

    /// Makes ramps work as on an Agent of Aperture 2.x, which differs from its documentation; off
    /// by default.
    ///
    /// By default, flows in [ramp mode](aperture_core::FlowParams::ramp_mode) run only where a ramp (a
    /// sampler with `ramp_mode`, or a load ramp) accepts them, and ramps decide about no other
    /// flows. With this on, all flows in ramp mode are rejected, and ramps are samplers for all
    /// others.
    #[must_use]
    pub fn upstream_ramp_mode(mut self, on: bool) -> Self {
        self.settings.upstream_ramp_mode = on;
        self
    }

    /// Makes token buckets and their queues work exactly as on an Agent of Aperture 2.x, for
    /// comparison with one; off by default.
    ///
    /// By default the engine deviates where the Agent's behaviour costs other flows their tokens:
    ///
    /// - A flow that leaves a quota scheduler's queue returns its tokens. With this on, they are
    ///   lost while a rejection of its key is remembered.
    /// - A rate limiter rejects a request for more tokens than its bucket can ever hold, reports no
    ///   wait, and remembers nothing. With this on, it reports a wait that does not help, and until
    ///   then rejects smaller requests of that key too.
    /// - In the queues of quota and load schedulers, at most three newcomers overtake a flow of
    ///   their workload while it waits. With this on, any number may.
    /// - A quota scheduler whose bucket has a negative fill rejects flows instead of queueing them.
    ///   With this on, it accepts flows that its bucket has no tokens for.
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
    ///     let check = |tokens: &'static str| {
    ///         let params = FlowParams::new().label("tokens", tokens);
    ///         engine.check(&CheckInput::new("completions", &params))
    ///     };
    ///     let too_big = check("200");
    ///     assert!(!too_big.accepted());
    ///     assert_eq!(too_big.wait_time.is_some(), upstream);
    ///     assert_eq!(check("1").accepted(), small_one_runs);
    /// }
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn upstream_buckets(mut self, on: bool) -> Self {
        self.settings.upstream_buckets = on;
        self
    }

    /// Leaves load schedulers and samplers to [`Engine::actuate`], for the replay of recorded
    /// decisions.
    #[doc(hidden)]
    #[must_use]
    pub fn actuated_by_hand(mut self, manual: bool) -> Self {
        self.settings.manual_actuation = manual;
        self
    }

    /// Sets the maximum number of keys of one component: 1 048 576 by default and at least 1.
    ///
    /// A key takes about 150 bytes plus its text, one with an
    /// [adaptive limit](crate::policy::AdaptiveConcurrency) about 500, and 32 bytes more once the component is full. A
    /// new key then replaces the key that loses least: first a key with a full bucket or without a
    /// slot in use, else the key that has spent least, and among equals the key that idled for
    /// longest. So made-up keys replace each other, and reopen no key that has reached its limit,
    /// unless all keys have. The bound should still be well above the number of legitimate keys.
    #[must_use]
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.settings.max_keys = keys.max(1);
        self
    }

    /// Sets the maximum size of the [caches](Engine::cache_upsert) in bytes, 64 MiB by default:
    /// keys, values, and 128 bytes for each entry. With less than 2 MiB, large entries are refused.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.settings.cache_bytes = bytes;
        self
    }

    /// Sets the source that answers the queries of policies, such as PromQL. Without a source, a
    /// policy is refused if one of its deciding components depends on a query, except for queries
    /// over the policy's own flux meters in the form that blueprints generate.
    #[must_use]
    pub fn signal_source(mut self, source: impl SignalSource + 'static) -> Self {
        self.settings.signal_source = Some(Arc::new(source));
        self
    }

    /// Puts a policy into a dry run: it decides without being enforced. May be called several
    /// times.
    ///
    /// The components of the policy decide as usual and keep their state: they take tokens, hold
    /// slots, and [report](super::LimiterDecision::dry_run) their decisions. But they reject no
    /// flow and queue none; a flow that would have to wait is reported as rejected. Rejections that
    /// are not enforced are counted in [`EngineStats::dry_run_rejections`](super::EngineStats), and
    /// [`describe`](Engine::describe) marks the policy. Control loops keep running, and see a
    /// service that is not protected.
    ///
    /// The setting also applies to reloads, which fail if the policy no longer exists. (The
    /// `dry_run` of a load scheduler, inside of a policy, is a different setting: such a scheduler
    /// lets everything pass and decides nothing.)
    ///
    /// ```
    /// use tower_aperture::engine::{CheckInput, Engine};
    /// use tower_aperture::FlowParams;
    ///
    /// let engine = Engine::builder()
    ///     .policy_text("closed.yaml", "
    /// blueprint: rate-limiting/base
    /// policy:
    ///   policy_name: closed
    ///   rate_limiter:
    ///     bucket_capacity: 0
    ///     fill_amount: 1
    ///     parameters: {interval: 3600s}
    ///     selectors: [{control_point: checkout}]
    /// ")
    ///     .dry_run("closed")
    ///     .build()?;
    /// let report = engine.check(&CheckInput::new("checkout", &FlowParams::new()));
    /// assert!(report.accepted() && report.limiter_decisions[0].dropped);
    /// assert_eq!(engine.stats().dry_run_rejections, 1);
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn dry_run(mut self, policy_name: impl Into<String>) -> Self {
        self.settings.dry_run.add(policy_name.into());
        self
    }

    /// Puts all policies into a dry run if `all` is true, as [`dry_run`](Self::dry_run) does for
    /// one.
    #[must_use]
    pub fn dry_run_all(mut self, all: bool) -> Self {
        self.settings.dry_run.set_all(all);
        self
    }

    /// Makes a rate limiter of a policy file count only the flows for whose outcome the predicate
    /// returns true. The check takes the tokens of a flow, and they are returned at its end if its
    /// outcome does not count. `component_id` is the id of the limiter, such as `root.0`. For a
    /// policy in code, use
    /// [`RateLimit::count_only`](crate::policy::build::RateLimit::count_only).
    ///
    /// ```
    /// use tower_aperture::Engine;
    ///
    /// let engine = Engine::builder()
    ///     .policy_text("logins.yaml", "
    /// blueprint: rate-limiting/base
    /// policy:
    ///   policy_name: logins
    ///   rate_limiter:
    ///     bucket_capacity: 5
    ///     fill_amount: 5
    ///     parameters: {interval: 60s, limit_by_label_key: user_id}
    ///     selectors: [{control_point: login}]
    /// ")
    ///     .count_only("logins", "root.0", |outcome| outcome.http_status() == Some(401))
    ///     .build()?;
    /// # let _ = engine;
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn count_only(
        mut self,
        policy_name: impl Into<String>,
        component_id: impl Into<String>,
        predicate: impl Fn(&FlowOutcome) -> bool + Send + Sync + 'static,
    ) -> Self {
        let predicate = CountOnly::new(predicate);
        self.settings
            .counted_outcomes
            .add(policy_name.into(), component_id.into(), predicate);
        self
    }

    /// Loads the policies. Needs no runtime and starts no task or thread.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read, if a policy, in a file or in code, is invalid or uses a feature that
    /// this version does not support, if two policies have the same name, or if
    /// [`dry_run`](Self::dry_run) names a policy that does not exist. The error names the file, and
    /// the line and field where known.
    pub fn build(self) -> Result<Engine<M>, PolicyError> {
        let builder = self.settings;
        let shared_caches = builder.shared.as_ref().and_then(SharedStore::caches);
        let settings = EngineSettings {
            agent_group: builder.agent_group,
            component_context: ComponentContext {
                limits: StoreLimits {
                    keys: builder.max_keys,
                    shards: shard_count(),
                    max_idle: Nanos::MAX,
                },
                clock: builder
                    .clock
                    .unwrap_or_else(|| Arc::new(SystemClock::new())),
                upstream_ramp_mode: builder.upstream_ramp_mode,
                upstream_buckets: builder.upstream_buckets,
                manual_signals: builder.manual_actuation,
                shared: builder.shared.map(SharedContext::new),
            },
            signal_source: builder.signal_source,
            dry_run: builder.dry_run,
            adaptive: builder.adaptive,
            counted_outcomes: builder.counted_outcomes,
        };
        let mut contents = source::read(&builder.sources, false)?;
        let no_overrides = HashMap::new();
        let LoadedSnapshot { snapshot, .. } =
            Snapshot::load(&settings, &mut contents, &no_overrides, None)?;
        let sources = PolicySources {
            list: builder.sources.into(),
            last_tried: contents.clone(),
            refusal: None,
            read_error: None,
            in_force: contents,
            dynamic_overrides: no_overrides,
        };
        let caches = EngineCaches::new(builder.cache_bytes, shared_caches);
        Ok(Engine::new(settings, sources, snapshot, caches))
    }
}

/// Returns a power of two that is large enough that threads rarely contend for a shard.
fn shard_count() -> usize {
    let threads = thread::available_parallelism().map_or(4, usize::from);
    (threads * 4).next_power_of_two().clamp(4, 64)
}
