//! Limits in code: rate limits and concurrency limits.

use std::time::Duration;

use super::field::FieldPath;
use super::flow_settings::{FlowSettings, flow_settings};
use super::lower::{Lowering, flow_control};
use super::selector::Selector;
use super::signal::Signal;
use crate::policy::yaml::{Mapping, Value};
use aperture_core::FlowOutcome;

use crate::policy::{AdaptiveConcurrency, CountOnly, PolicyError};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A limit of flows by time: a token bucket for each value of a label.
///
/// A flow takes a token from the bucket of its key, and is rejected if there is none. The bucket is
/// filled all the time.
///
/// ```
/// use std::time::Duration;
///
/// use http::StatusCode;
/// use tower_aperture::policy::{Policy, RateLimit, Signal};
///
/// // Ten requests at once, and five more each second.
/// let users = RateLimit::per_second(5).burst(10).by("user_id");
/// // A budget of tokens for each day, which is reset at once.
/// let budget = RateLimit::per_day(100_000)
///     .by("account")
///     .tokens_from("cost")
///     .continuous_fill(false)
///     .max_idle_time(Duration::from_secs(2 * 24 * 60 * 60))
///     .rejection_status(StatusCode::PAYMENT_REQUIRED);
/// // One export every two minutes, at another control point, while exports are not free.
/// let exports = RateLimit::every(Duration::from_secs(120))
///     .at("export")
///     .delay_initial_fill(true)
///     .pass_through_while(Signal::config("free_exports", 0));
/// let policy = Policy::new("api")
///     .at("api")
///     .limit(users)
///     .limit(budget)
///     .limit(exports)
///     .limit(RateLimit::per_minute(1_000).lazy_sync(4))
///     .limit(RateLimit::per_hour(20_000))
///     .limit(RateLimit::within(Duration::from_secs(10), 200));
/// assert!(policy.to_yaml()?.contains("limit_by_label_key: user_id"));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    pub(super) flows: FlowSettings,
    /// The tokens that are added in each interval.
    amount: Signal,
    interval: Duration,
    burst: Option<Signal>,
    continuous_fill: Option<bool>,
    delay_initial_fill: Option<bool>,
    lazy_sync: Option<u32>,
    /// Says which outcomes of flows count.
    count_only: Option<CountOnly>,
}

impl RateLimit {
    /// Returns a limit of this many tokens in each `interval`.
    pub fn within(interval: Duration, tokens: impl Into<Signal>) -> Self {
        Self {
            flows: FlowSettings::default(),
            amount: tokens.into(),
            interval,
            burst: None,
            continuous_fill: None,
            delay_initial_fill: None,
            lazy_sync: None,
            count_only: None,
        }
    }

    /// Returns a limit of this many tokens a second.
    pub fn per_second(tokens: impl Into<Signal>) -> Self {
        Self::within(SECOND, tokens)
    }

    /// Returns a limit of this many tokens a minute.
    pub fn per_minute(tokens: impl Into<Signal>) -> Self {
        Self::within(MINUTE, tokens)
    }

    /// Returns a limit of this many tokens an hour.
    pub fn per_hour(tokens: impl Into<Signal>) -> Self {
        Self::within(HOUR, tokens)
    }

    /// Returns a limit of this many tokens in 24 hours.
    pub fn per_day(tokens: impl Into<Signal>) -> Self {
        Self::within(DAY, tokens)
    }

    /// Returns a limit of one token in each `interval`.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self::within(interval, 1)
    }

    /// Sets the tokens that a bucket holds at most: the flows that may run at once after a pause.
    /// By default the tokens of one interval, and at least one.
    #[must_use]
    pub fn burst(mut self, tokens: impl Into<Signal>) -> Self {
        self.burst = Some(tokens.into());
        self
    }

    /// Sets whether tokens are added all the time, as by default, or all at the end of an interval.
    #[must_use]
    pub fn continuous_fill(mut self, on: bool) -> Self {
        self.continuous_fill = Some(on);
        self
    }

    /// Sets whether filling pauses, after a flow took tokens from a full bucket, for the time in
    /// which the bucket would be filled. Off by default.
    #[must_use]
    pub fn delay_initial_fill(mut self, on: bool) -> Self {
        self.delay_initial_fill = Some(on);
        self
    }

    /// Makes the limit count only flows for whose outcome `counts` returns true. The check takes the
    /// tokens of a flow, and they are returned at its end if its outcome does not count. A flow that
    /// is dropped without an outcome counts. A policy file cannot express this.
    ///
    /// ```
    /// use tower_aperture::FlowOutcome;
    /// use tower_aperture::policy::{Policy, RateLimit};
    ///
    /// // Five failed logins a minute for each user. Successful ones are free.
    /// let failed = |outcome: &FlowOutcome| outcome.http_status() == Some(401);
    /// let logins = RateLimit::per_minute(5).by("user").count_only(failed);
    /// let policy = Policy::new("logins").at("login").limit(logins);
    /// assert_eq!(policy.to_yaml().unwrap_err().field(), "components[0].count_only");
    /// ```
    #[must_use]
    pub fn count_only(
        mut self,
        counts: impl Fn(&FlowOutcome) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.count_only = Some(CountOnly::new(counts));
        self
    }

    /// Makes the Agents of a cluster count for themselves and synchronise this many times in an
    /// interval. The engine decides as one Agent of them.
    #[must_use]
    pub fn lazy_sync(mut self, times: u32) -> Self {
        self.lazy_sync = Some(times);
        self
    }

    flow_settings!(flows);

    /// Returns the `in_ports` and the parameters of the bucket, for a component with these
    /// settings. `is_queue` if flows wait for tokens.
    pub(super) fn bucket<'p>(
        &'p self,
        flows: &'p FlowSettings,
        path: &FieldPath<'_>,
        is_queue: bool,
        lowering: &mut Lowering<'p>,
    ) -> Result<(Mapping, Mapping), PolicyError> {
        const NEVER_FILLED: &str = "without tokens, no flow would run once the bucket is empty";
        let amount_path = path.name("tokens");
        self.amount.check_positive(&amount_path, NEVER_FILLED)?;
        let fill_amount = lowering.port(&self.amount, &amount_path)?;
        let burst_path = path.name("burst");
        let bucket_capacity = match (&self.burst, self.amount.initial()) {
            (Some(burst), _) => {
                let takes_one = !is_queue && flows.tokens_label.is_none();
                check_burst(burst, takes_one, &burst_path)?;
                lowering.port(burst, &burst_path)?
            }
            (None, Some(tokens)) if tokens < 1.0 && self.amount.is_constant() => constant(1.0),
            (None, Some(tokens)) if tokens < 1.0 => {
                return Err(burst_path.error(format!(
                    "is {tokens} at first, like `tokens`; give a burst of at least 1"
                )));
            }
            (None, _) => fill_amount.clone(),
        };
        let in_ports = Mapping::new()
            .with("bucket_capacity", bucket_capacity)
            .with("fill_amount", fill_amount);
        let in_ports = flows.pass_through(in_ports, lowering, path)?;
        let interval = path.name("interval").positive_duration(self.interval)?;
        let parameters = Mapping::new().with("interval", interval);
        let lazy_sync = self.lazy_sync.map(|times| match times {
            0 => Err(path
                .name("lazy_sync")
                .error("must be more than zero; leave it out to count exactly")),
            _ => Ok(Mapping::new().with("enabled", true).with("num_sync", times)),
        });
        let parameters = flows
            .parameters(parameters, path)?
            .with_some("continuous_fill", self.continuous_fill)
            .with_some("delay_initial_fill", self.delay_initial_fill)
            .with_some("lazy_sync", lazy_sync.transpose()?);
        Ok((in_ports, parameters))
    }

    pub(super) fn lower<'p>(
        &'p self,
        path: &FieldPath<'_>,
        lowering: &mut Lowering<'p>,
    ) -> Result<Value, PolicyError> {
        let selectors = lowering.selectors(&self.flows.selectors, path)?;
        if let Some(count_only) = &self.count_only {
            lowering.count_only(count_only, &path.name("count_only"))?;
        }
        let (in_ports, parameters) = self.bucket(&self.flows, path, false, lowering)?;
        let fields = Mapping::new()
            .with("selectors", selectors)
            .with("in_ports", in_ports)
            .with("parameters", parameters)
            .with_some("request_parameters", self.flows.request(path)?);
        Ok(flow_control("rate_limiter", fields))
    }
}

/// Checks the capacity of a bucket.
fn check_burst(burst: &Signal, takes_one: bool, path: &FieldPath<'_>) -> Result<(), PolicyError> {
    const REJECTS: &str = "the bucket would never hold a token, and every flow would be rejected; \
                           give at least 1";
    burst.check_positive(path, REJECTS)?;
    match burst.initial() {
        Some(tokens) if takes_one && tokens < 1.0 => Err(path.error(format!(
            "{tokens} tokens are too few: each flow takes one, so every flow would be rejected; \
             give at least 1"
        ))),
        _ => Ok(()),
    }
}

fn constant(value: f64) -> Value {
    let value = Mapping::new().with("value", value);
    Mapping::new().with("constant_signal", value).into()
}

/// A limit of the flows that are in flight at the same time, for each value of a label.
///
/// A flow holds a slot from its check to its end: with a layer, until the response body is over.
///
/// ```
/// use std::time::Duration;
///
/// use http::StatusCode;
/// use tower_aperture::policy::{ConcurrencyLimit, Policy, Signal};
///
/// let sockets = ConcurrencyLimit::slots(3)
///     .at("socket")
///     .by("user_id")
///     .tokens_from("streams")
///     .max_inflight_duration(Duration::from_secs(24 * 60 * 60))
///     .max_idle_time(Duration::from_secs(600))
///     .pass_through_while(Signal::config("unlimited", 0))
///     .rejection_status(StatusCode::SERVICE_UNAVAILABLE);
/// assert!(Policy::new("sockets").limit(sockets).to_yaml()?.contains("concurrency_limiter"));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ConcurrencyLimit {
    pub(super) flows: FlowSettings,
    slots: Signal,
    /// The settings of a limit that finds itself; `None` for a number of slots.
    adaptive: Option<AdaptiveConcurrency>,
    max_inflight_duration: Duration,
}

impl ConcurrencyLimit {
    /// Returns a limit of this many flows in flight.
    pub fn slots(slots: impl Into<Signal>) -> Self {
        Self {
            flows: FlowSettings::default(),
            slots: slots.into(),
            adaptive: None,
            max_inflight_duration: HOUR,
        }
    }

    /// Returns a limit that finds itself by the latency of flows, with the default settings of the
    /// gradient algorithm. A policy file cannot express this.
    ///
    /// ```
    /// use tower_aperture::Engine;
    /// use tower_aperture::policy::{ConcurrencyLimit, Policy};
    ///
    /// let limit = ConcurrencyLimit::adaptive().by("tenant");
    /// let policy = Policy::new("search").at("search").limit(limit);
    /// assert_eq!(policy.to_yaml().unwrap_err().field(), "components[0].adaptive");
    /// let engine = Engine::builder().policy(policy).build()?;
    /// assert_eq!(engine.adaptive_limits()[0].lowest, 20.0);
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn adaptive() -> Self {
        Self::adaptive_by(AdaptiveConcurrency::default())
    }

    /// Returns a limit that finds itself by the latency of flows, with these settings.
    ///
    /// ```
    /// use tower_aperture::Engine;
    /// use tower_aperture::policy::{AdaptiveConcurrency, ConcurrencyLimit, Policy};
    ///
    /// let settings = AdaptiveConcurrency::vegas().initial(10).max(400);
    /// let limit = ConcurrencyLimit::adaptive_by(settings).at("search");
    /// let engine = Engine::builder().policy(Policy::new("search").limit(limit)).build()?;
    /// assert_eq!(engine.adaptive_limits()[0].lowest, 10.0);
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn adaptive_by(settings: AdaptiveConcurrency) -> Self {
        Self {
            slots: settings.max.into(),
            adaptive: Some(settings),
            ..Self::slots(1)
        }
    }

    /// Sets the time after which a slot is free again, even if its flow has not ended: one hour by
    /// default. It must be longer than any flow takes. With an Agent, a slot is held for so long if
    /// a client is lost.
    #[must_use]
    pub fn max_inflight_duration(mut self, duration: Duration) -> Self {
        self.max_inflight_duration = duration;
        self
    }

    flow_settings!(flows);

    /// Returns the `in_ports` and the parameters of the slots, for a component with these settings.
    pub(super) fn slot_fields<'p>(
        &'p self,
        flows: &'p FlowSettings,
        path: &FieldPath<'_>,
        lowering: &mut Lowering<'p>,
    ) -> Result<(Mapping, Mapping), PolicyError> {
        let slots = path.name("slots");
        self.slots
            .check_positive(&slots, "without a slot, no flow would run; give at least 1")?;
        let in_ports = Mapping::new().with("max_concurrency", lowering.port(&self.slots, &slots)?);
        let in_ports = flows.pass_through(in_ports, lowering, path)?;
        let most = path.name("max_inflight_duration");
        let most = most.positive_duration(self.max_inflight_duration)?;
        let parameters = Mapping::new().with("max_inflight_duration", most);
        Ok((in_ports, flows.parameters(parameters, path)?))
    }

    pub(super) fn lower<'p>(
        &'p self,
        path: &FieldPath<'_>,
        lowering: &mut Lowering<'p>,
    ) -> Result<Value, PolicyError> {
        let selectors = lowering.selectors(&self.flows.selectors, path)?;
        if let Some(settings) = &self.adaptive {
            lowering.make_adaptive(settings, &path.name("adaptive"))?;
        }
        let (in_ports, parameters) = self.slot_fields(&self.flows, path, lowering)?;
        let fields = Mapping::new()
            .with("selectors", selectors)
            .with("in_ports", in_ports)
            .with("parameters", parameters)
            .with_some("request_parameters", self.flows.request(path)?);
        Ok(flow_control("concurrency_limiter", fields))
    }
}

/// A [`RateLimit`] or a [`ConcurrencyLimit`], for the methods that take both.
///
/// ```
/// use tower_aperture::policy::{ConcurrencyLimit, Limit, Policy, RateLimit};
///
/// let limits: [Limit; 2] = [RateLimit::per_second(50).into(), ConcurrencyLimit::slots(8).into()];
/// let policy = limits.into_iter().fold(Policy::new("api").at("api"), Policy::limit);
/// policy.to_yaml()?;
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Limit(pub(super) LimitKind);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum LimitKind {
    Rate(RateLimit),
    Concurrency(ConcurrencyLimit),
}

impl Limit {
    pub(super) fn flows_mut(&mut self) -> &mut FlowSettings {
        match &mut self.0 {
            LimitKind::Rate(limit) => &mut limit.flows,
            LimitKind::Concurrency(limit) => &mut limit.flows,
        }
    }

    pub(super) fn lower<'p>(
        &'p self,
        path: &FieldPath<'_>,
        lowering: &mut Lowering<'p>,
    ) -> Result<Value, PolicyError> {
        match &self.0 {
            LimitKind::Rate(limit) => limit.lower(path, lowering),
            LimitKind::Concurrency(limit) => limit.lower(path, lowering),
        }
    }
}

impl From<RateLimit> for Limit {
    fn from(limit: RateLimit) -> Self {
        Self(LimitKind::Rate(limit))
    }
}

impl From<ConcurrencyLimit> for Limit {
    fn from(limit: ConcurrencyLimit) -> Self {
        Self(LimitKind::Concurrency(limit))
    }
}
