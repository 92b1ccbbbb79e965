//! The buffer in which a thread encodes spans before they join a batch.

use std::cell::Cell;

use super::ids::SpanIds;

/// The most bytes that a thread keeps between two spans. A span is larger only with cached values
/// or a long `tracestate`.
const MAX_KEPT_BYTES: usize = 16 * 1024;

thread_local! {
    /// `None` while it is in use, and before the first span of the thread.
    static ENCODER: Cell<Option<SpanEncoder>> = const { Cell::new(None) };
}

/// Encodes the spans of one thread, so that the lock of the batch is held for a copy only.
#[derive(Default)]
pub(super) struct SpanEncoder {
    pub(super) ids: SpanIds,
    /// Empty between two spans. At most [`MAX_KEPT_BYTES`] are kept.
    pub(super) buffer: Vec<u8>,
}

impl SpanEncoder {
    /// Calls `encode` with the encoder of this thread. While a thread ends, and within another call
    /// of `with`, the encoder is a new one.
    pub(super) fn with<R>(encode: impl FnOnce(&mut Self) -> R) -> R {
        let kept = ENCODER.try_with(Cell::take).ok().flatten();
        let mut encoder = kept.unwrap_or_default();
        let result = encode(&mut encoder);
        encoder.buffer.clear();
        encoder.buffer.shrink_to(MAX_KEPT_BYTES);
        // The error means that the thread ends.
        let _ = ENCODER.try_with(|kept| kept.set(Some(encoder)));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_a_bounded_buffer_and_draws_distinct_ids() {
        let first = SpanEncoder::with(|encoder| {
            assert!(encoder.buffer.is_empty());
            encoder.buffer.resize(10 * MAX_KEPT_BYTES, 1);
            let nested = SpanEncoder::with(|nested| {
                nested.buffer.push(1);
                nested.ids.draw()
            });
            assert_ne!(nested, encoder.ids.draw());
            encoder.ids.draw()
        });
        let second = SpanEncoder::with(|encoder| {
            assert!(encoder.buffer.is_empty());
            assert!((1..=MAX_KEPT_BYTES).contains(&encoder.buffer.capacity()));
            encoder.ids.draw()
        });
        assert_ne!(first, second);
    }
}
