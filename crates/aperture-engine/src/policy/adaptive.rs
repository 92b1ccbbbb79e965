//! The settings of concurrency limits that find themselves, which exist in code only.

use std::fmt;
use std::time::Duration;

use super::model::{AdaptiveConcurrencyLimiter, ComponentKind, Port};

/// The settings of a concurrency limit that finds itself: the algorithm, its bounds and its speed.
///
/// The limit of each key grows while the latency of flows stays low and the limit is used, and
/// falls when the latency rises. The latency is measured to the head of the response, or to the end
/// of the flow if it has no HTTP response or if [`until_end`](Self::until_end) is set.
///
/// This is a feature of this engine. Aperture's Agents do not have it and policy files cannot
/// express it. The guide *limits that find themselves* says which algorithm and which settings to
/// use.
///
/// | setting | default | unit |
/// |---|---|---|
/// | [`initial`](Self::initial) | 20 | flows in flight |
/// | [`min`](Self::min), [`max`](Self::max) | 1, 1000 | flows in flight |
/// | [`smoothing`](Self::smoothing) | 0.2 with the gradient, 1 with Vegas | share of a step |
/// | [`tolerance`](Self::tolerance) | 1.5 | multiple of the usual latency |
/// | [`window`](Self::window) | 100 ms | time |
/// | [`long_window`](Self::long_window) | 10 min | time |
///
/// If flows take their [tokens](crate::policy::fields) from a label, limits are in tokens.
///
/// ```
/// use std::time::Duration;
/// use tower_aperture::policy::AdaptiveConcurrency;
///
/// // Between 4 and 400 requests in flight; half as slow again as usual is too slow.
/// let steady = AdaptiveConcurrency::gradient()
///     .initial(40)
///     .min(4)
///     .max(400)
///     .tolerance(1.5)
///     .smoothing(0.2);
/// // Calls whose work goes on until the end of the body, measured in windows of a second.
/// let streams = AdaptiveConcurrency::vegas()
///     .window(Duration::from_secs(1))
///     .long_window(Duration::from_secs(1800))
///     .until_end();
/// assert_ne!(steady, streams);
/// assert_eq!(AdaptiveConcurrency::default(), AdaptiveConcurrency::gradient());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptiveConcurrency {
    pub(crate) algorithm: Algorithm,
    pub(crate) initial: u32,
    pub(crate) min: u32,
    pub(crate) max: u32,
    pub(crate) smoothing: f64,
    pub(crate) tolerance: f64,
    pub(crate) window: Duration,
    pub(crate) long_window: Duration,
    pub(crate) until_end: bool,
}

/// The algorithm that computes the next limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Gradient,
    Vegas,
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SettingError {
    /// The method that sets it; empty for the component as a whole.
    pub(crate) field: &'static str,
    /// The mistake, and the value that would be right.
    pub(crate) message: String,
}

impl SettingError {
    fn new(field: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { field, message }
    }
}

impl AdaptiveConcurrency {
    const fn new(algorithm: Algorithm, smoothing: f64) -> Self {
        Self {
            algorithm,
            initial: 20,
            min: 1,
            max: 1000,
            smoothing,
            tolerance: 1.5,
            window: Duration::from_millis(100),
            long_window: Duration::from_secs(600),
            until_end: false,
        }
    }

    /// Returns the settings of the gradient algorithm: the limit follows the ratio of the long-term
    /// latency to that of the last window.
    ///
    /// It suits latencies that vary, and services whose latency changes over hours. It gets used to
    /// an overload that lasts as long as the [long window](Self::long_window).
    #[must_use]
    pub const fn gradient() -> Self {
        Self::new(Algorithm::Gradient, 0.2)
    }

    /// Returns the settings of the Vegas algorithm: the limit keeps a few flows in the queue of the
    /// service, which it estimates from the least latency that it has measured.
    ///
    /// It suits services whose flows take about the same time, and overloads of any length.
    #[must_use]
    pub const fn vegas() -> Self {
        Self::new(Algorithm::Vegas, 1.0)
    }

    /// Sets the limit with which a key begins. It must be within the bounds.
    #[must_use]
    pub const fn initial(mut self, flows: u32) -> Self {
        self.initial = flows;
        self
    }

    /// Sets the lowest limit, at least 1.
    #[must_use]
    pub const fn min(mut self, flows: u32) -> Self {
        self.min = flows;
        self
    }

    /// Sets the highest limit, at least the lowest one. It bounds the memory of a key: about
    /// 100 bytes for each flow in flight.
    #[must_use]
    pub const fn max(mut self, flows: u32) -> Self {
        self.max = flows;
        self
    }

    /// Sets which share of a step each window makes: more than 0, and at most 1. Less is slower and
    /// calmer.
    #[must_use]
    pub const fn smoothing(mut self, share: f64) -> Self {
        self.smoothing = share;
        self
    }

    /// Sets up to which multiple of the usual latency a flow is not slow: at least 1, and finite.
    ///
    /// The gradient lowers the limit beyond it. With both algorithms a failed flow that took longer
    /// counts as a sign of overload, and a faster one does not count.
    #[must_use]
    pub const fn tolerance(mut self, multiple: f64) -> Self {
        self.tolerance = multiple;
        self
    }

    /// Sets the time over which latencies are averaged before the limit changes. A window is longer
    /// if fewer than ten flows were measured, and takes at least twice the latency, so that the
    /// next one shows what a change did.
    #[must_use]
    pub const fn window(mut self, time: Duration) -> Self {
        self.window = time;
        self
    }

    /// Sets the time over which the gradient averages the usual latency, and after which Vegas
    /// measures the least latency anew. At least [`window`](Self::window).
    #[must_use]
    pub const fn long_window(mut self, time: Duration) -> Self {
        self.long_window = time;
        self
    }

    /// Measures the latency of a flow to its end instead of to the head of its response.
    ///
    /// For responses that are computed while they are sent. Do not set it where clients decide how
    /// long a response takes: slow readers and WebSockets would lower the limit.
    #[must_use]
    pub const fn until_end(mut self) -> Self {
        self.until_end = true;
        self
    }

    /// Refuses settings that cannot work.
    pub(crate) fn check(&self) -> Result<(), SettingError> {
        let Self { min, max, .. } = *self;
        if min == 0 {
            let message = "must be at least 1, not 0: a limit of 0 would never grow again";
            return Err(SettingError::new("min", message));
        }
        if max < min {
            let message = format!("must be at least `min`, which is {min}, not {max}");
            return Err(SettingError::new("max", message));
        }
        if !(min..=max).contains(&self.initial) {
            let message = format!(
                "must be from `min` to `max`, {min} to {max}, not {}",
                self.initial
            );
            return Err(SettingError::new("initial", message));
        }
        if !(self.smoothing > 0.0 && self.smoothing <= 1.0) {
            let message = format!(
                "must be more than 0 and at most 1, not {}; 0.2 is usual",
                self.smoothing
            );
            return Err(SettingError::new("smoothing", message));
        }
        if !(self.tolerance >= 1.0 && self.tolerance.is_finite()) {
            let message = format!(
                "must be a finite number of at least 1, not {}; 1.5 is usual",
                self.tolerance
            );
            return Err(SettingError::new("tolerance", message));
        }
        if self.window.is_zero() {
            let message = "must be more than zero; 100 ms is usual";
            return Err(SettingError::new("window", message));
        }
        if self.long_window < self.window {
            let message = format!(
                "must be at least `window`, which is {:?}, not {:?}",
                self.window, self.long_window
            );
            return Err(SettingError::new("long_window", message));
        }
        Ok(())
    }
}

impl Default for AdaptiveConcurrency {
    fn default() -> Self {
        Self::gradient()
    }
}

/// As a description of policies shows it.
impl fmt::Display for AdaptiveConcurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = match self.algorithm {
            Algorithm::Gradient => "gradient",
            Algorithm::Vegas => "Vegas",
        };
        let Self {
            initial, min, max, ..
        } = self;
        write!(
            f,
            "{min} to {max} in flight, {initial} at first, by {algorithm}"
        )
    }
}

impl ComponentKind {
    /// Makes a concurrency limiter find its limit by itself.
    pub(crate) fn make_adaptive(
        &mut self,
        settings: &AdaptiveConcurrency,
    ) -> Result<(), SettingError> {
        settings.check()?;
        let Self::ConcurrencyLimiter(limiter) = self else {
            let message = format!(
                "only a `concurrency_limiter` can find its limit, not a `{}`",
                self.name()
            );
            return Err(SettingError::new("", message));
        };
        let mut slots = limiter.slots.clone();
        if let Port::Changing(_) = slots.max_concurrency {
            let message = "`max_concurrency` is a signal, but the limit is to find itself; use one \
                           of them";
            return Err(SettingError::new("", message));
        }
        slots.max_concurrency = Port::Constant(f64::from(settings.max));
        *self = Self::AdaptiveConcurrencyLimiter(AdaptiveConcurrencyLimiter {
            slots,
            request: limiter.request.clone(),
            adaptive: settings.clone(),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_with_the_name_of_the_setting() {
        let gradient = AdaptiveConcurrency::gradient;
        let second = Duration::from_secs(1);
        for (settings, field) in [
            (gradient().min(0), "min"),
            (gradient().min(30).max(29), "max"),
            (gradient().max(0), "max"),
            (gradient().initial(0), "initial"),
            (gradient().initial(1001), "initial"),
            (gradient().smoothing(0.0), "smoothing"),
            (gradient().smoothing(1.1), "smoothing"),
            (gradient().smoothing(f64::NAN), "smoothing"),
            (gradient().tolerance(0.9), "tolerance"),
            (gradient().tolerance(f64::NAN), "tolerance"),
            (gradient().tolerance(f64::INFINITY), "tolerance"),
            (gradient().window(Duration::ZERO), "window"),
            (
                gradient().window(second).long_window(second / 2),
                "long_window",
            ),
        ] {
            let error = settings.check().expect_err(field);
            assert_eq!(error.field, field, "{}", error.message);
        }
        assert_eq!(AdaptiveConcurrency::vegas().check(), Ok(()));
        assert_eq!(gradient().min(7).max(7).initial(7).check(), Ok(()));
    }
}
