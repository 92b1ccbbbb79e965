//! Log events and spans through `tracing`; without the feature `tracing`, they compile to nothing.

#[cfg(feature = "tracing")]
mod events;
#[cfg(not(feature = "tracing"))]
#[path = "no_events.rs"]
mod events;

use self::events::{SpanHandle, in_span, new_span};

/// The span `decision`, which covers the wait for a decision.
pub struct WaitSpan {
    /// `None` if the span is disabled.
    span: Option<SpanHandle>,
}

impl WaitSpan {
    /// Creates the span, as a child of the current span.
    #[must_use]
    pub fn new(control_point: &str) -> Self {
        Self {
            span: new_span(control_point),
        }
    }

    /// Polls inside the span.
    pub fn in_scope<T>(&self, poll: impl FnOnce() -> T) -> T {
        match &self.span {
            Some(span) => in_span(span, poll),
            None => poll(),
        }
    }
}

impl std::fmt::Debug for WaitSpan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WaitSpan").finish_non_exhaustive()
    }
}
