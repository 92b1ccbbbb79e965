//! Log events and spans through `tracing`; without the feature `tracing`, they compile to nothing.
#![allow(unused_macros)]

macro_rules! log_event {
    (target: $target:literal, $level:ident, $($arg:tt)*) => {{
        #[cfg(feature = "tracing")]
        tracing::$level!(target: $target, $($arg)*);
    }};
    ($level:ident, $($arg:tt)*) => {{
        #[cfg(feature = "tracing")]
        tracing::$level!(target: "tower_aperture", $($arg)*);
    }};
}

/// The span `decision`, which covers the wait for a decision.
pub(crate) struct WaitSpan {
    /// `None` if the span is disabled. Boxed to keep request futures small.
    #[cfg(feature = "tracing")]
    span: Option<Box<tracing::Span>>,
}

#[allow(dead_code)] // Some sets of features have no backend that makes flows wait.
impl WaitSpan {
    #[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
    pub(crate) fn new(control_point: &str) -> Self {
        #[cfg(feature = "tracing")]
        let span =
            tracing::debug_span!(target: "tower_aperture::client", "decision", control_point);
        Self {
            #[cfg(feature = "tracing")]
            span: (!span.is_disabled()).then(|| Box::new(span)),
        }
    }

    pub(crate) fn in_scope<T>(&self, poll: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        if let Some(span) = &self.span {
            return span.in_scope(poll);
        }
        poll()
    }
}
