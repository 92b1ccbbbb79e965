//! Schedulers in code: queues of flows by priority, in front of a limit or a control loop.

mod lower;

use std::time::Duration;

use super::flow_settings::{FlowSettings, flow_settings};
use super::hidden::Hidden;
use super::limit::{ConcurrencyLimit, Limit};
use super::load::LoadControl;
use super::selector::{LabelMatcher, Selector};
use super::signal::Signal;

/// A queue of flows, which the limit behind it serves by priority.
///
/// While the limit has capacity, no flow waits. Otherwise flows wait for it, each for at most the
/// time of [`queue_for`](Self::queue_for) and its check timeout, and are then rejected. Workloads
/// get shares by their priorities while they have waiting flows.
///
/// ```
/// use std::time::Duration;
///
/// use http::StatusCode;
/// use tower_aperture::policy::{
///     ConcurrencyLimit, LabelMatcher, Policy, RateLimit, Scheduler, Signal, Workload,
/// };
///
/// // Twenty searches at a time for each tenant. Gold waits less than silver.
/// let search = Scheduler::slots(20)
///     .by("tenant")
///     .priority_from("tier", [("gold", 300.0), ("silver", 100.0)])
///     .default_priority(10.0)
///     .fair_by("user_id")
///     .queue_for(Duration::from_millis(500));
///
/// // The quota of a provider, which people use before batch jobs.
/// let people = LabelMatcher::new().equals("caller", "person");
/// let people = Workload::new("people", people)
///     .priority(200.0)
///     .tokens(2.0)
///     .queue_for(Duration::from_secs(10));
/// let provider = Scheduler::new(RateLimit::per_minute(600).burst(50))
///     .at("provider")
///     .workload(people)
///     .default_tokens(1.0)
///     .tokens_from("cost")
///     .priority_label("priority")
///     .workload_label("job")
///     .max_idle_time(Duration::from_secs(600))
///     .deadline_margin(Duration::from_millis(20))
///     .pass_through_while(Signal::config("unlimited", 0))
///     .rejection_status(StatusCode::TOO_MANY_REQUESTS);
///
/// // Slots with another time limit.
/// let renders = ConcurrencyLimit::slots(2).max_inflight_duration(Duration::from_secs(60));
/// let policy = Policy::new("search")
///     .at("search")
///     .schedule(search)
///     .schedule(provider)
///     .schedule(Scheduler::new(renders).at("render"));
/// assert!(policy.to_yaml()?.contains("concurrency_scheduler"));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Scheduler {
    flows: FlowSettings,
    resource: Resource,
    workloads: Vec<Workload>,
    default_priority: Option<f64>,
    default_tokens: Option<f64>,
    queue_for: Option<Duration>,
    deadline_margin: Option<Duration>,
    priority_label: Option<String>,
    workload_label: Option<String>,
    fairness_label: Option<String>,
    tokens_by_latency: Option<bool>,
}

/// The resource that flows wait for.
#[derive(Clone, Debug, PartialEq)]
enum Resource {
    Limit(Box<Limit>),
    Load(Box<LoadControl>),
}

impl Scheduler {
    fn of(flows: FlowSettings, resource: Resource) -> Self {
        Self {
            flows,
            resource,
            workloads: Vec::new(),
            default_priority: None,
            default_tokens: None,
            queue_for: None,
            deadline_margin: None,
            priority_label: None,
            workload_label: None,
            fairness_label: None,
            tokens_by_latency: None,
        }
    }

    /// Returns a scheduler whose flows wait for a [`RateLimit`](super::RateLimit) or a
    /// [`ConcurrencyLimit`] where these would reject them. It keeps the settings of the limit.
    pub fn new(limit: impl Into<Limit>) -> Self {
        let mut limit = limit.into();
        let flows = std::mem::take(limit.flows_mut());
        Self::of(flows, Resource::Limit(Box::new(limit)))
    }

    /// Returns a scheduler of this many flows in flight.
    pub fn slots(slots: impl Into<Signal>) -> Self {
        Self::new(ConcurrencyLimit::slots(slots))
    }

    /// Returns a scheduler that rejects a share of the load, beginning with the lowest priorities,
    /// while a service is overloaded.
    #[must_use]
    pub fn load(control: LoadControl) -> Self {
        Self::of(FlowSettings::default(), Resource::Load(Box::new(control)))
    }

    flow_settings!(flows);

    /// Adds a workload: flows with the same priority. The first workload whose matcher matches a
    /// flow applies.
    #[must_use]
    pub fn workload(mut self, workload: Workload) -> Self {
        self.workloads.push(workload);
        self
    }

    /// Adds a workload for each value of a label, with its priority: more than zero.
    #[must_use]
    pub fn priority_from<V: Into<String>>(
        mut self,
        label: impl Into<String>,
        priorities: impl IntoIterator<Item = (V, f64)>,
    ) -> Self {
        let label = label.into();
        for (value, priority) in priorities {
            let value = value.into();
            let matcher = LabelMatcher::new().equals(label.as_str(), value.as_str());
            let workload = Workload::new(self.free_name(&label, value), matcher);
            self.workloads.push(workload.priority(priority));
        }
        self
    }

    /// Returns the name of the workload of a value. Without a name of its own, a workload is named
    /// by its index, so numbers are no free names.
    fn free_name(&self, label: &str, value: String) -> String {
        let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let mut workloads = self.workloads.iter();
        let is_taken = workloads.any(|workload| workload.name.as_str() == value);
        match is_number || is_taken || value == "default" {
            true => format!("{label}:{value}"),
            false => value,
        }
    }

    /// Sets the priority of flows that no workload matches, 1 by default.
    #[must_use]
    pub fn default_priority(mut self, priority: f64) -> Self {
        self.default_priority = Some(priority);
        self
    }

    /// Sets the tokens that a flow takes if no workload matches it, 1 by default.
    #[must_use]
    pub fn default_tokens(mut self, tokens: f64) -> Self {
        self.default_tokens = Some(tokens);
        self
    }

    /// Sets the longest time in the queue, for all workloads without a time of their own. Without
    /// this, a flow waits as long as its check may take.
    ///
    /// The check timeout limits the wait as well, which is 200 ms unless the client, the layer or
    /// the flow has another one. For tokens and slots, the time must be more than 10 ms.
    #[must_use]
    pub fn queue_for(mut self, time: Duration) -> Self {
        self.queue_for = Some(time);
        self
    }

    /// Sets how long before its deadline a flow leaves the queue, 10 ms by default.
    #[must_use]
    pub fn deadline_margin(mut self, time: Duration) -> Self {
        self.deadline_margin = Some(time);
        self
    }

    /// Reads the priority from a label, in place of that of the workload.
    #[must_use]
    pub fn priority_label(mut self, label: impl Into<String>) -> Self {
        self.priority_label = Some(label.into());
        self
    }

    /// Reads the name of the workload from a label.
    #[must_use]
    pub fn workload_label(mut self, label: impl Into<String>) -> Self {
        self.workload_label = Some(label.into());
        self
    }

    /// Gives the values of a label equal shares of each workload: one user with a hundred waiting
    /// flows does not delay another one.
    #[must_use]
    pub fn fair_by(mut self, label: impl Into<String>) -> Self {
        self.fairness_label = Some(label.into());
        self
    }

    /// Sets whether a flow takes as many tokens as its workload took milliseconds on average, in
    /// the last 30 minutes. Only for [`load`](Self::load); off by default.
    #[must_use]
    pub fn tokens_by_latency(mut self, on: bool) -> Self {
        self.tokens_by_latency = Some(on);
        self
    }

    pub(super) fn selectors(&self) -> &[Selector] {
        &self.flows.selectors
    }

    /// Returns the longest queue timeout.
    pub(super) fn longest_queue_timeout(&self) -> Option<Duration> {
        let workloads = self.workloads.iter().map(|workload| workload.queue_for);
        workloads.chain([self.queue_for]).flatten().max()
    }
}

/// The flows of a [`Scheduler`] with the same priority.
///
/// ```
/// use std::time::Duration;
///
/// use tower_aperture::policy::{LabelMatcher, Policy, Scheduler, Workload};
///
/// let writes = LabelMatcher::new().none_of("method", ["GET", "HEAD"]);
/// let writes = Workload::new("writes", writes)
///     .priority(50.0)
///     .tokens(2.0)
///     .queue_for(Duration::from_secs(1));
/// let policy = Policy::new("api").at("api").schedule(Scheduler::slots(50).workload(writes));
/// assert!(policy.to_yaml()?.contains("name: writes"));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    name: Hidden,
    matcher: LabelMatcher,
    priority: Option<f64>,
    tokens: Option<f64>,
    queue_for: Option<Duration>,
}

impl Workload {
    /// Returns the workload of the flows that match. The name must be unique in the scheduler.
    pub fn new(name: impl Into<String>, matcher: LabelMatcher) -> Self {
        Self {
            name: Hidden::new(name),
            matcher,
            priority: None,
            tokens: None,
            queue_for: None,
        }
    }

    /// Sets the priority, 1 by default: the share among the workloads with waiting flows.
    #[must_use]
    pub fn priority(mut self, priority: f64) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Sets the tokens that a flow takes, 1 by default.
    #[must_use]
    pub fn tokens(mut self, tokens: f64) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// Sets the longest time in the queue, in place of that of the
    /// [scheduler](Scheduler::queue_for).
    #[must_use]
    pub fn queue_for(mut self, time: Duration) -> Self {
        self.queue_for = Some(time);
        self
    }
}
