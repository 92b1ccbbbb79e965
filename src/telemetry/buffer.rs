//! The bounded queue of spans that wait for the worker.

use super::Record;

/// The number of spans of a batch.
const BATCH_SIZE: usize = 512;

/// The most spans that wait for the worker.
const MAX_SPANS: usize = 2048;

/// The most bytes of cached values that wait, in the records of flows with cache keys.
const MAX_CACHED_BYTES: usize = 16 * 1024 * 1024;

/// The spans that wait for the worker.
pub(crate) struct SpanBuffer<R> {
    spans: Vec<R>,
    cached_bytes: usize,
}

impl<R> Default for SpanBuffer<R> {
    fn default() -> Self {
        Self {
            spans: Vec::new(),
            cached_bytes: 0,
        }
    }
}

impl<R: Record> SpanBuffer<R> {
    /// Adds a span, or returns it if the buffer is full.
    #[must_use]
    pub(crate) fn push(&mut self, span: R) -> Option<R> {
        let cached = span.cached_bytes();
        if self.spans.len() >= MAX_SPANS || self.cached_bytes + cached > MAX_CACHED_BYTES {
            return Some(span);
        }
        self.cached_bytes += cached;
        self.spans.push(span);
        None
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub(crate) fn has_batch(&self) -> bool {
        self.spans.len() >= BATCH_SIZE
    }

    /// Returns whether to wake the worker: the first span starts its timer, and a full batch does
    /// not wait for the timer.
    pub(crate) fn wants_worker(&self) -> bool {
        matches!(self.spans.len(), 1 | BATCH_SIZE)
    }

    /// Takes a batch of the oldest spans.
    pub(crate) fn take_batch(&mut self) -> Option<Vec<R>> {
        if self.spans.is_empty() {
            return None;
        }
        let rest = self.spans.split_off(self.spans.len().min(BATCH_SIZE));
        let batch = std::mem::replace(&mut self.spans, rest);
        self.cached_bytes -= batch.iter().map(R::cached_bytes).sum::<usize>();
        Some(batch)
    }

    pub(crate) fn take_all(&mut self) -> Vec<R> {
        self.cached_bytes = 0;
        std::mem::take(&mut self.spans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::trace::Span;

    #[derive(Clone, Debug)]
    struct TestRecord {
        number: usize,
        cached_bytes: usize,
    }

    impl Record for TestRecord {
        fn cached_bytes(&self) -> usize {
            self.cached_bytes
        }

        fn into_span(self, trace_id: Vec<u8>, span_id: Vec<u8>) -> Span {
            Span {
                trace_id,
                span_id,
                ..Span::default()
            }
        }
    }

    const fn record(number: usize) -> TestRecord {
        TestRecord {
            number,
            cached_bytes: 0,
        }
    }

    #[test]
    fn the_buffer_is_bounded_and_gives_the_oldest_first() {
        let mut buffer = SpanBuffer::default();
        for number in 0..MAX_SPANS {
            assert!(buffer.push(record(number)).is_none());
        }
        assert!(buffer.push(record(0)).is_some());
        let batch = buffer.take_batch().expect("full");
        assert_eq!(batch.len(), BATCH_SIZE);
        assert_eq!(batch[0].number, 0);
        assert!(buffer.push(record(1)).is_none());
        assert_eq!(buffer.take_all().len(), MAX_SPANS - BATCH_SIZE + 1);
        assert!(buffer.take_batch().is_none());
    }

    #[test]
    fn cached_values_are_bounded_too() {
        let mut buffer = SpanBuffer::default();
        let big = TestRecord {
            number: 0,
            cached_bytes: MAX_CACHED_BYTES / 2 + 1,
        };
        assert!(buffer.push(big.clone()).is_none());
        assert!(buffer.push(big.clone()).is_some());
        assert!(buffer.push(record(1)).is_none());
        buffer.take_batch();
        assert!(buffer.push(big).is_none());
    }
}
