use std::borrow::Cow;
use std::time::Duration;

use super::{LabelLimits, Labels, TraceContext};

/// What a flow brings along besides its control point.
///
/// Parameters may be cloned and used again; starting a flow never changes them.
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
    /// How long the check may take; `None` is the client's default of 200 ms or what the client was
    /// built with, zero is no limit.
    pub check_timeout: Option<Duration>,
    /// How long the caller still waits, where it said so; zero once its deadline has passed.
    pub caller_timeout: Option<Duration>,
    /// The flow runs only where a ramp lets it: it does not run when nobody answers.
    pub ramp_mode: bool,
    /// Key of the result cache to look up with the check.
    pub result_cache_key: Option<Cow<'a, str>>,
    /// Keys of the global cache to look up with the check.
    pub global_cache_keys: Vec<Cow<'a, str>>,
    /// The [quotas](crate::Ticket::take_quotas) are wanted.
    pub quotas: bool,
    /// The flow runs, whatever is decided.
    pub shadow: bool,
    /// The trace that the flow's telemetry span links to.
    pub trace_context: Option<TraceContext<'a>>,
    /// The layer refuses the request when the flow is unreachable, ramp mode or not.
    pub(crate) refuse_unreachable: bool,
}

impl<'a> FlowParams<'a> {
    /// No labels, the client's default timeout, no ramp mode, no caches, no trace.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No labels yet, with limits.
    #[inline(always)]
    pub(crate) fn with_limits(limits: LabelLimits) -> Self {
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
            refuse_unreachable: false,
        }
    }

    /// Tells whether the flow does not run when it is unreachable.
    #[cfg(feature = "remote")]
    pub(crate) const fn fails_closed(&self) -> bool {
        (self.ramp_mode || self.refuse_unreachable) && !self.shadow
    }

    /// Sets a label; the last value of a key wins.
    ///
    /// The value is the application's own and stays as it is, unless the flow's
    /// [limits](LabelLimits) have no room for it. For what a client chose there is
    /// [`client_label`](Self::client_label).
    #[must_use]
    pub fn label(mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        self.labels.insert(key, value);
        self
    }

    /// Sets a label whose value a client chose: a user, a path, a header. Beyond 200 bytes the value
    /// is [shortened](Labels#long-values), so that it takes no room from other labels, and stays a
    /// key of its own. (An Agent lets all flows pass whose key has 256 bytes or more, the label's
    /// name included.)
    ///
    /// ```
    /// use tower_aperture::FlowParams;
    ///
    /// let user_id = "x".repeat(10_000); // from a message, say
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

    /// Sets the budget of the check, connecting included, in place of the client's own 200 ms.
    /// A scheduler keeps the flow waiting no longer, whatever its `queue_timeout` says. With an
    /// Agent the client waits for the answer a grace longer: the flow waits at most the budget plus
    /// the grace (`ApertureClientBuilder::check_grace`), 800 ms by default. Zero means no
    /// limit: the flow then waits as long as its policies let it.
    #[must_use]
    pub fn check_timeout(mut self, timeout: Duration) -> Self {
        self.check_timeout = Some(timeout);
        self
    }

    /// Sets how long the caller still waits for its own answer. It shortens the
    /// [check timeout](Self::check_timeout) and never lengthens it.
    ///
    /// The check may still be answered later. Do not run the work then:
    /// [`ApertureLayer`](crate::ApertureLayer) sets this by the header `grpc-timeout` and rejects
    /// what is late.
    #[must_use]
    pub fn caller_timeout(mut self, timeout: Duration) -> Self {
        self.caller_timeout = Some(timeout);
        self
    }

    /// Returns how long the check may take in all; `None` is without limit.
    ///
    /// That is the check timeout, or `default` where the flow has none, and no longer than the
    /// caller waits. A check timeout of zero is no limit of its own, and a caller timeout of zero
    /// leaves no time at all.
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

    /// Whether the flow runs only where a ramp lets it; then it does not run when nobody answers.
    #[must_use]
    pub fn ramp_mode(mut self, ramp_mode: bool) -> Self {
        self.ramp_mode = ramp_mode;
        self
    }

    /// Looks up this key of the control point's result cache with the check.
    #[must_use]
    pub fn result_cache_key(mut self, key: impl Into<Cow<'a, str>>) -> Self {
        self.result_cache_key = Some(key.into());
        self
    }

    /// Looks up this key of the global cache with the check; may be called several times.
    #[must_use]
    pub fn global_cache_key(mut self, key: impl Into<Cow<'a, str>>) -> Self {
        self.global_cache_keys.push(key.into());
        self
    }

    /// Whether limiters are to tell the [quotas](crate::Ticket::take_quotas) of the flow, which
    /// costs an allocation or two.
    #[must_use]
    pub fn quotas(mut self, quotas: bool) -> Self {
        self.quotas = quotas;
        self
    }

    /// Whether the flow is going to run, whatever is decided: where it is rejected, it is counted
    /// in [`ClientStats::shadowed`](crate::ClientStats::shadowed) too.
    ///
    /// An embedded engine does not let it wait: a scheduler that would have to queue it rejects
    /// it. An Agent cannot be told that, and may take the whole
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
