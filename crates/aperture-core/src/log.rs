//! Log events and spans through `tracing`; without the feature `tracing`, they compile to nothing.

/// Emits an event of `tracing` at a level: `log_event!(target: "name", warn, ...)`. Without a
/// target, it is `tower_aperture`. Without the feature `tracing`, the arguments are not evaluated.
#[cfg(feature = "tracing")]
#[macro_export]
macro_rules! log_event {
    (target: $target:literal, $level:ident, $($arg:tt)*) => {
        $crate::__tracing::$level!(target: $target, $($arg)*)
    };
    ($level:ident, $($arg:tt)*) => {
        $crate::__tracing::$level!(target: "tower_aperture", $($arg)*)
    };
}

/// Emits nothing, because the feature `tracing` is not enabled; the arguments are not evaluated.
#[cfg(not(feature = "tracing"))]
#[macro_export]
macro_rules! log_event {
    ($($arg:tt)*) => {{}};
}

/// The span `decision`, which covers the wait for a decision.
pub struct WaitSpan {
    /// `None` if the span is disabled. Boxed to keep request futures small.
    #[cfg(feature = "tracing")]
    span: Option<Box<tracing::Span>>,
}

impl WaitSpan {
    /// Creates the span, as a child of the current span.
    #[cfg(feature = "tracing")]
    #[must_use]
    pub fn new(control_point: &str) -> Self {
        let span =
            tracing::debug_span!(target: "tower_aperture::client", "decision", control_point);
        let span = (!span.is_disabled()).then(|| Box::new(span));
        Self { span }
    }

    /// Creates nothing, because the feature `tracing` is not enabled.
    #[cfg(not(feature = "tracing"))]
    #[must_use]
    pub fn new(_control_point: &str) -> Self {
        Self {}
    }

    /// Polls inside the span.
    pub fn in_scope<T>(&self, poll: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        if let Some(span) = &self.span {
            return span.in_scope(poll);
        }
        poll()
    }
}

impl std::fmt::Debug for WaitSpan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WaitSpan").finish_non_exhaustive()
    }
}
