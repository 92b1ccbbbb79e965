//! The parameters of a flow.

use std::borrow::Cow;
use std::time::Duration;

use super::{LabelLimits, LabelSource, Labels, TraceContext};

/// The parameters of a flow, apart from its control point.
///
/// Parameters may be cloned and reused; starting a flow never changes them.
///
/// ```
/// use std::time::Duration;
/// use tower_aperture::FlowParams;
///
/// let params = FlowParams::new()
///     .label("user_id", "42")
///     .check_timeout(Duration::from_millis(50))
///     .result_cache_key("profile-42")
///     .global_cache_key("settings");
/// assert_eq!(params.labels.get("user_id"), Some("42"));
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct FlowParams<'a> {
    /// The flow labels.
    pub labels: Labels<'a>,
    /// The time that the check may take. `None` uses the check timeout of the client, 200 ms by
    /// default; zero means no limit.
    pub check_timeout: Option<Duration>,
    /// The time that the caller still waits, if known; zero once its deadline has passed.
    pub caller_timeout: Option<Duration>,
    /// Whether the flow runs only if a load ramp accepts it. Such a flow fails closed.
    pub ramp_mode: bool,
    /// The key of the result cache to look up with the check.
    pub result_cache_key: Option<Cow<'a, str>>,
    /// The keys of the global cache to look up with the check.
    pub global_cache_keys: Vec<Cow<'a, str>>,
    /// Whether limiters report the [quotas](crate::Ticket::take_quotas) of the flow.
    pub quotas: bool,
    /// Whether the flow runs regardless of the decision.
    pub shadow: bool,
    /// The trace that the flow's telemetry span links to.
    pub trace_context: Option<TraceContext<'a>>,
    /// Whether the layer rejects the request if the flow is unreachable, with or without ramp mode.
    pub reject_unreachable: bool,
}

impl<'a> FlowParams<'a> {
    /// Returns parameters with no labels, the client's check timeout, no ramp mode, no cache keys
    /// and no trace.
    #[must_use]
    #[inline]
    pub fn new() -> Self {
        Self::with_limits(LabelLimits::default())
    }

    /// Returns parameters with no labels yet and these limits.
    #[inline(always)]
    #[doc(hidden)]
    pub fn with_limits(limits: LabelLimits) -> Self {
        Self {
            labels: Labels::with_limits(limits),
            check_timeout: None,
            caller_timeout: None,
            ramp_mode: false,
            result_cache_key: None,
            global_cache_keys: Vec::new(),
            quotas: false,
            shadow: false,
            trace_context: None,
            reject_unreachable: false,
        }
    }

    /// Returns these parameters with the labels and the trace of a source.
    #[must_use]
    #[doc(hidden)]
    pub fn with_labels_from<'s>(&'s self, source: &'s dyn LabelSource) -> FlowParams<'s> {
        let mut labels = Labels::with_limits(self.labels.limits());
        self.labels.fill(&mut labels);
        source.fill(&mut labels);
        FlowParams {
            labels,
            check_timeout: self.check_timeout,
            caller_timeout: self.caller_timeout,
            ramp_mode: self.ramp_mode,
            result_cache_key: self.result_cache_key.as_deref().map(Cow::Borrowed),
            global_cache_keys: self
                .global_cache_keys
                .iter()
                .map(|key| Cow::Borrowed(&**key))
                .collect(),
            quotas: self.quotas,
            shadow: self.shadow,
            trace_context: self.trace_context.or_else(|| source.trace_context()),
            reject_unreachable: self.reject_unreachable,
        }
    }

    /// Returns whether the check looks up a cache.
    #[inline]
    #[doc(hidden)]
    pub const fn looks_up_caches(&self) -> bool {
        self.result_cache_key.is_some() || !self.global_cache_keys.is_empty()
    }

    /// Returns whether the flow does not run if it is unreachable.
    #[doc(hidden)]
    pub const fn fails_closed(&self) -> bool {
        (self.ramp_mode || self.reject_unreachable) && !self.shadow
    }

    /// Sets a label and replaces an earlier value of the same key.
    ///
    /// The value is the application's own and stays unchanged, unless the flow's
    /// [limits](LabelLimits) have no room for it. Use [`client_label`](Self::client_label) for a
    /// value that a client chose.
    #[must_use]
    #[inline]
    pub fn label(mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        self.labels.insert(key, value);
        self
    }

    /// Sets a label whose value a client chose, such as a user, a path or a header. A value of more
    /// than 200 bytes is [shortened](Labels#long-values): it leaves room for other labels and stays
    /// distinct from other values. (An Agent does not limit flows whose key has 256 bytes or more,
    /// the label's name included.)
    ///
    /// ```
    /// use tower_aperture::FlowParams;
    ///
    /// let user_id = "x".repeat(10_000); // from a message, for example
    /// let params = FlowParams::new().client_label("user_id", user_id).label("tier", "free");
    /// assert_eq!(params.labels.get("user_id").unwrap().len(), 97);
    /// assert_eq!(params.labels.get("tier"), Some("free"));
    /// ```
    #[must_use]
    pub fn client_label(
        mut self,
        key: impl Into<Cow<'a, str>>,
        value: impl Into<Cow<'a, str>>,
    ) -> Self {
        self.labels.insert_client(key, value);
        self
    }

    /// Sets many labels, each like [`label`](Self::label).
    #[must_use]
    pub fn labels<K, V>(mut self, labels: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<Cow<'a, str>>,
        V: Into<Cow<'a, str>>,
    {
        self.labels.extend(labels);
        self
    }

    /// Sets the budget of the check, including the time to connect, in place of the client's
    /// default of 200 ms. A scheduler queues the flow no longer than that, even if its
    /// `queue_timeout` is longer. With an Agent the client waits for the response one grace longer:
    /// the flow waits at most the budget plus the grace (`ApertureClientBuilder::check_grace`),
    /// which is 800 ms by default. Zero means no limit: the flow then waits as long as its policies
    /// allow.
    #[must_use]
    pub fn check_timeout(mut self, timeout: Duration) -> Self {
        self.check_timeout = Some(timeout);
        self
    }

    /// Sets how long the caller still waits for its response. It shortens the
    /// [check timeout](Self::check_timeout) and never extends it.
    ///
    /// The check may be answered later than that; the work must not run then.
    /// `ApertureLayer` sets this value by the header `grpc-timeout` and
    /// rejects late requests.
    #[must_use]
    pub fn caller_timeout(mut self, timeout: Duration) -> Self {
        self.caller_timeout = Some(timeout);
        self
    }

    /// Returns how long the check may take in all; `None` means no limit.
    ///
    /// The budget is the check timeout, or `default` if the flow has none, and no longer than the
    /// caller timeout. A check timeout of zero means no limit by itself; a caller timeout of zero
    /// leaves no time.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_aperture::FlowParams;
    ///
    /// let second = Duration::from_secs(1);
    /// let params = FlowParams::new().caller_timeout(second);
    /// assert_eq!(params.budget(None), Some(second));
    /// assert_eq!(params.budget(Some(second / 5)), Some(second / 5));
    /// let params = params.check_timeout(Duration::ZERO);
    /// assert_eq!(params.budget(Some(second / 5)), Some(second));
    /// ```
    #[must_use]
    pub fn budget(&self, default: Option<Duration>) -> Option<Duration> {
        let check = self.check_timeout.or(default);
        let check = check.filter(|timeout| !timeout.is_zero());
        match (check, self.caller_timeout) {
            (Some(check), Some(caller)) => Some(check.min(caller)),
            (check, caller) => check.or(caller),
        }
    }

    /// Sets whether the flow runs only if a load ramp accepts it. Such a flow fails closed.
    #[must_use]
    pub fn ramp_mode(mut self, ramp_mode: bool) -> Self {
        self.ramp_mode = ramp_mode;
        self
    }

    /// Sets the key of the control point's result cache to look up with the check.
    #[must_use]
    pub fn result_cache_key(mut self, key: impl Into<Cow<'a, str>>) -> Self {
        self.result_cache_key = Some(key.into());
        self
    }

    /// Adds a key of the global cache to look up with the check.
    #[must_use]
    pub fn global_cache_key(mut self, key: impl Into<Cow<'a, str>>) -> Self {
        self.global_cache_keys.push(key.into());
        self
    }

    /// Sets whether limiters report the [quotas](crate::Ticket::take_quotas) of the flow, which
    /// costs one or two allocations.
    #[must_use]
    pub fn quotas(mut self, quotas: bool) -> Self {
        self.quotas = quotas;
        self
    }

    /// Sets whether the flow runs regardless of the decision. A rejected flow is then also counted
    /// in [`ClientStats::shadowed`](crate::ClientStats::shadowed).
    ///
    /// Such a flow does not wait in an embedded engine: a scheduler rejects it instead of queueing
    /// it. The protocol of an Agent has no such flag, so an Agent may take the whole
    /// [check timeout](Self::check_timeout).
    #[must_use]
    pub fn shadow(mut self, shadow: bool) -> Self {
        self.shadow = shadow;
        self
    }

    /// Links the flow's telemetry span to this trace.
    #[must_use]
    pub fn trace_context(mut self, context: TraceContext<'a>) -> Self {
        self.trace_context = Some(context);
        self
    }
}
