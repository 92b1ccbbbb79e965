//! `tracing` where the feature is on, nothing where it is off.
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

/// The span around the wait for a decision.
pub(crate) struct WaitSpan {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

#[allow(dead_code)] // Not all backends make flows wait.
impl WaitSpan {
    #[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
    pub(crate) fn new(control_point: &str) -> Self {
        Self {
            #[cfg(feature = "tracing")]
            span: tracing::debug_span!(target: "tower_aperture::client", "decision", control_point),
        }
    }

    pub(crate) fn in_scope<T>(&self, poll: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        return self.span.in_scope(poll);
        #[cfg(not(feature = "tracing"))]
        poll()
    }
}
