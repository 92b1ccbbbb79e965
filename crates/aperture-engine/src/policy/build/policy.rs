//! A policy in code.

mod lower;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::classifier::Classifier;
use super::document::PolicyDocument;
use super::field::FieldPath;
use super::flux_meter::FluxMeter;
use super::limit::{Limit, LimitKind};
use super::lower::Target;
use super::sampler::{LoadRamp, Sampler};
use super::scheduler::Scheduler;
use super::selector::Selector;
use crate::policy::PolicyError;

/// A policy in code: limits, schedulers and other parts, with the flows that they are for.
///
/// No method fails. [`EngineBuilder::build`](crate::engine::EngineBuilder::build) returns the first
/// error, with the name of the policy, the field and the fix.
///
/// ```
/// use std::time::Duration;
///
/// use tower_aperture::Engine;
/// use tower_aperture::policy::{Policy, RateLimit, Scheduler};
///
/// let users = Policy::new("per-user")
///     .at("checkout")
///     .limit(RateLimit::per_second(5).burst(10).by("user_id"));
/// let search = Policy::new("search").at("search").schedule(
///     Scheduler::slots(20)
///         .by("tenant")
///         .priority_from("tier", [("gold", 300.0), ("silver", 100.0)])
///         .queue_for(Duration::from_millis(500)),
/// );
/// assert_eq!((search.name(), search.control_point()?), ("search", "search"));
/// assert_eq!(search.longest_queue_timeout(), Some(Duration::from_millis(500)));
/// let engine = Engine::builder().policy(users).policy(search).build()?;
/// assert!(engine.describe().contains("policy `per-user`"));
///
/// let closed = Policy::new("closed").at("checkout").limit(RateLimit::per_second(0));
/// let error = Engine::builder().policy(closed).build().unwrap_err();
/// assert_eq!((error.file(), error.field()), ("policy `closed`", "components[0].tokens"));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Policy {
    name: String,
    selectors: Vec<Selector>,
    agent_group: Option<String>,
    evaluation_interval: Option<Duration>,
    components: Vec<Component>,
    classifiers: Vec<Classifier>,
    meters: Vec<FluxMeter>,
    dry_run: bool,
}

/// A part of a policy that decides about flows.
#[derive(Clone, Debug, PartialEq)]
enum Component {
    Limit(Limit),
    Schedule(Box<Scheduler>),
    Sample(Sampler),
    Ramp(LoadRamp),
}

impl Policy {
    /// Returns a policy without parts. The name must be unique among the policies of an engine,
    /// those of files included.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            selectors: Vec::new(),
            agent_group: None,
            evaluation_interval: None,
            components: Vec::new(),
            classifiers: Vec::new(),
            meters: Vec::new(),
            dry_run: false,
        }
    }

    /// Makes the policy one for flows of this control point or [`Selector`]. Several calls select
    /// the flows of any of them, whatever the order of calls. A part with an `at` of its own does
    /// not use these.
    #[must_use]
    pub fn at(mut self, selector: impl Into<Selector>) -> Self {
        self.selectors.push(selector.into());
        self
    }

    /// Sets the agent group of all selectors without one. An engine without a group, and an Agent
    /// without a configured one, belong to `default`. On an Agent, a selector without a group means
    /// `aperture-cloud`, so set it before a policy moves to an Agent.
    ///
    /// ```
    /// use tower_aperture::policy::{Policy, RateLimit};
    ///
    /// let policy = Policy::new("all").at("api").agent_group("default");
    /// let yaml = policy.limit(RateLimit::per_second(100)).to_yaml()?;
    /// assert!(yaml.contains("agent_group: default"));
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn agent_group(mut self, group: impl Into<String>) -> Self {
        self.agent_group = Some(group.into());
        self
    }

    /// Adds a [`RateLimit`](super::RateLimit) or a [`ConcurrencyLimit`](super::ConcurrencyLimit).
    /// A flow runs only if all limits and schedulers that select it accept it.
    #[must_use]
    pub fn limit(mut self, limit: impl Into<Limit>) -> Self {
        self.components.push(Component::Limit(limit.into()));
        self
    }

    /// Adds a scheduler, in which flows wait by priority.
    #[must_use]
    pub fn schedule(mut self, scheduler: Scheduler) -> Self {
        self.components
            .push(Component::Schedule(Box::new(scheduler)));
        self
    }

    /// Adds a sampler, which accepts a share of the flows.
    #[must_use]
    pub fn sample(mut self, sampler: Sampler) -> Self {
        self.components.push(Component::Sample(sampler));
        self
    }

    /// Adds a load ramp, which accepts a growing share of the flows in ramp mode.
    #[must_use]
    pub fn ramp(mut self, ramp: LoadRamp) -> Self {
        self.components.push(Component::Ramp(ramp));
        self
    }

    /// Adds a classifier, which makes labels from the attributes of HTTP requests.
    #[must_use]
    pub fn classify(mut self, classifier: Classifier) -> Self {
        self.classifiers.push(classifier);
        self
    }

    /// Adds a flux meter, which measures how long flows take.
    #[must_use]
    pub fn measure(mut self, meter: FluxMeter) -> Self {
        self.meters.push(meter);
        self
    }

    /// Sets the time between two evaluations of signals that change, 1 s by default.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use tower_aperture::policy::{Policy, RateLimit, Signal};
    ///
    /// let limit = RateLimit::per_second(Signal::promql("free_capacity")).burst(10);
    /// let policy = Policy::new("follows").at("api").limit(limit);
    /// let yaml = policy.evaluation_interval(Duration::from_millis(500)).to_yaml()?;
    /// assert!(yaml.contains("evaluation_interval: 0.5s"), "{yaml}");
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn evaluation_interval(mut self, interval: Duration) -> Self {
        self.evaluation_interval = Some(interval);
        self
    }

    /// Sets whether the policy is in a dry run: it decides without being enforced, as with
    /// [`EngineBuilder::dry_run`](crate::engine::EngineBuilder::dry_run). Off by default. A policy
    /// file cannot express this.
    ///
    /// ```
    /// use tower_aperture::policy::{Policy, RateLimit};
    ///
    /// let policy = Policy::new("trial").at("api").limit(RateLimit::per_second(1)).dry_run(true);
    /// let error = policy.to_yaml().unwrap_err();
    /// assert_eq!((error.file(), error.field()), ("policy `trial`", "dry_run"));
    /// ```
    #[must_use]
    pub fn dry_run(mut self, on: bool) -> Self {
        self.dry_run = on;
        self
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Returns the control point, if limits, schedulers, samplers and ramps have exactly one.
    ///
    /// # Errors
    ///
    /// Returns an error if they have none or several.
    pub fn control_point(&self) -> Result<&str, PolicyError> {
        let own = self.components.iter().flat_map(|component| {
            let own = component.selectors();
            if own.is_empty() { &self.selectors } else { own }
        });
        let names: BTreeSet<&str> = own.map(|selector| &*selector.control_point).collect();
        let mut names = names.into_iter();
        let path = FieldPath::policy(&self.name);
        match (names.next(), names.next()) {
            (Some(name), None) => Ok(name),
            (None, _) => Err(path
                .name("at")
                .error("no control point is given; name it by `at`")),
            (Some(one), Some(other)) => Err(path.name("at").error(format!(
                "`{one}` and `{other}` are given, where one control point is needed; build the \
                 engine, and a layer for each control point"
            ))),
        }
    }

    /// Returns the longest time that a flow may wait in a queue of this policy by its own settings;
    /// `None` without such a setting. Clients need a check timeout of at least this time.
    #[must_use]
    pub fn longest_queue_timeout(&self) -> Option<Duration> {
        let schedulers = self
            .components
            .iter()
            .filter_map(|component| match component {
                Component::Schedule(scheduler) => scheduler.longest_queue_timeout(),
                Component::Limit(_) | Component::Sample(_) | Component::Ramp(_) => None,
            });
        schedulers.max()
    }

    /// Returns the policy file that does the same, a `kind: Policy` resource. Engines and Agents
    /// load it; for an Agent, see [`agent_group`](Self::agent_group).
    ///
    /// # Errors
    ///
    /// Returns the errors of [`EngineBuilder::build`](crate::engine::EngineBuilder::build) about
    /// this policy, and an error for a setting that a policy file cannot express:
    /// [`dry_run`](Self::dry_run).
    ///
    /// ```
    /// use tower_aperture::Engine;
    /// use tower_aperture::policy::{Policy, RateLimit};
    ///
    /// let policy = Policy::new("per-user")
    ///     .at("checkout")
    ///     .limit(RateLimit::per_second(5).burst(10).by("user_id"));
    /// let yaml = policy.to_yaml()?;
    /// assert_eq!(yaml, "\
    /// apiVersion: fluxninja.com/v1alpha1
    /// kind: Policy
    /// metadata: {name: per-user}
    /// spec:
    ///   circuit:
    ///     components:
    ///     - flow_control:
    ///         rate_limiter:
    ///           selectors: [{control_point: checkout}]
    ///           in_ports:
    ///             bucket_capacity: {constant_signal: {value: 10}}
    ///             fill_amount: {constant_signal: {value: 5}}
    ///           parameters: {interval: 1s, limit_by_label_key: user_id}
    /// ");
    /// let engine = Engine::builder().policy_text("per-user.yaml", yaml).build()?;
    /// # let _ = engine;
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    pub fn to_yaml(&self) -> Result<String, PolicyError> {
        let document = self.document(Target::File)?;
        document.load(&|_| Vec::new())?;
        Ok(document.text.to_string())
    }

    /// Returns the document that the engine reads.
    pub(crate) fn into_document(self) -> Result<PolicyDocument, PolicyError> {
        self.document(Target::Engine)
    }
}

impl Component {
    fn selectors(&self) -> &[Selector] {
        match self {
            Self::Limit(Limit(LimitKind::Rate(limit))) => &limit.flows.selectors,
            Self::Limit(Limit(LimitKind::Concurrency(limit))) => &limit.flows.selectors,
            Self::Schedule(scheduler) => scheduler.selectors(),
            Self::Sample(sampler) => sampler.selectors(),
            Self::Ramp(ramp) => ramp.selectors(),
        }
    }
}

/// Shows the name and the number of parts: a policy may name users.
impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.name)
            .field("components", &self.components.len())
            .field("classifiers", &self.classifiers.len())
            .field("meters", &self.meters.len())
            .finish_non_exhaustive()
    }
}
