//! Events and spans of builds with the feature `tracing`.

/// A span. Boxed to keep request futures small.
pub(super) type SpanHandle = Box<tracing::Span>;

/// Returns the span `decision`, or `None` if it is disabled.
pub(super) fn new_span(control_point: &str) -> Option<SpanHandle> {
    let span = tracing::debug_span!(target: "tower_aperture::client", "decision", control_point);
    (!span.is_disabled()).then(|| Box::new(span))
}

pub(super) fn in_span<T>(span: &SpanHandle, poll: impl FnOnce() -> T) -> T {
    span.in_scope(poll)
}

/// Emits an event of `tracing` at a level: `log_event!(target: "name", warn, ...)`. Without a
/// target, it is `tower_aperture`. Without the feature `tracing`, the arguments are not evaluated.
#[macro_export]
macro_rules! log_event {
    (target: $target:literal, $level:ident, $($arg:tt)*) => {
        $crate::__tracing::$level!(target: $target, $($arg)*)
    };
    ($level:ident, $($arg:tt)*) => {
        $crate::__tracing::$level!(target: "tower_aperture", $($arg)*)
    };
}
