//! The bounded queue of spans that wait for the worker.

use std::collections::VecDeque;

use super::batch::{MAX_BATCH_BYTES, SpanBatch};

/// The most spans of a batch.
const BATCH_SIZE: usize = 512;

/// The most spans that wait for the worker.
const MAX_SPANS: usize = 2048;

/// The most bytes of spans that wait for the worker.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The spans that wait for the worker, encoded in batches.
#[derive(Default)]
pub(crate) struct SpanBuffer {
    /// None of them is empty.
    batches: VecDeque<SpanBatch>,
    /// The number of spans in all batches, and their bytes.
    spans: usize,
    bytes: usize,
}

/// The result of adding spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum SpanPush {
    Queued,
    /// The same, and the worker must be woken: the first span starts its timer, and a full batch
    /// does not wait for the timer.
    QueuedForWorker,
    /// The buffer is full, or the span exceeds the size of a message.
    Refused,
}

impl SpanBuffer {
    /// Copies an encoded span into the newest batch, or into a new one if it has no room.
    pub(crate) fn push(&mut self, span: &[u8]) -> SpanPush {
        if span.len() > MAX_BATCH_BYTES || !self.has_room(1, span.len()) {
            return SpanPush::Refused;
        }
        let fills_batch = self.open_batch(1, span.len());
        let Some(batch) = self.batches.back_mut() else {
            return SpanPush::Refused;
        };
        batch.push(span);
        self.bytes += span.len();
        self.spans += 1;
        if fills_batch || self.spans == 1 || batch.len() == BATCH_SIZE {
            SpanPush::QueuedForWorker
        } else {
            SpanPush::Queued
        }
    }

    /// Adds the spans of a batch, or returns it if they have no room.
    pub(crate) fn push_batch(&mut self, batch: SpanBatch) -> Option<SpanBatch> {
        let (spans, bytes) = (batch.len(), batch.span_bytes());
        if !self.has_room(spans, bytes) {
            return Some(batch);
        }
        self.open_batch(spans, bytes);
        if let Some(last) = self.batches.back_mut() {
            last.append(&batch);
        }
        self.spans += spans;
        self.bytes += bytes;
        None
    }

    fn has_room(&self, spans: usize, bytes: usize) -> bool {
        self.spans + spans <= MAX_SPANS && self.bytes + bytes <= MAX_BYTES
    }

    /// Starts a batch if the newest one has no room for these spans. Returns `true` if that one is
    /// full because of its bytes.
    fn open_batch(&mut self, spans: usize, bytes: usize) -> bool {
        let (fits, too_many_bytes) = self.batches.back().map_or((false, false), |last| {
            let too_many_bytes = last.span_bytes() + bytes > MAX_BATCH_BYTES;
            let fits = last.len() + spans <= BATCH_SIZE && !too_many_bytes;
            (fits, too_many_bytes)
        });
        if !fits {
            self.batches.push_back(SpanBatch::new());
        }
        too_many_bytes
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.spans == 0
    }

    /// Returns `true` if a batch is full.
    pub(crate) fn has_batch(&self) -> bool {
        let first = self.batches.front().map_or(0, SpanBatch::len);
        self.batches.len() > 1 || first >= BATCH_SIZE
    }

    /// Takes the batch of the oldest spans.
    pub(crate) fn take_batch(&mut self) -> Option<SpanBatch> {
        let batch = self.batches.pop_front()?;
        self.spans -= batch.len();
        self.bytes -= batch.span_bytes();
        Some(batch)
    }

    /// Takes all batches.
    pub(crate) fn take_all(&mut self) -> Vec<SpanBatch> {
        self.spans = 0;
        self.bytes = 0;
        std::mem::take(&mut self.batches).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(batches: &[SpanBatch]) -> Vec<usize> {
        batches.iter().map(SpanBatch::len).collect()
    }

    #[test]
    fn the_spans_are_bounded_and_form_full_batches() {
        let mut buffer = SpanBuffer::default();
        for number in 1..=MAX_SPANS {
            let expected = match number % BATCH_SIZE {
                0 => SpanPush::QueuedForWorker,
                _ if number == 1 => SpanPush::QueuedForWorker,
                _ => SpanPush::Queued,
            };
            assert_eq!(buffer.has_batch(), number > BATCH_SIZE);
            assert_eq!(buffer.push(&[1; 3]), expected, "{number}");
        }
        assert_eq!(buffer.push(&[1; 3]), SpanPush::Refused);
        assert_eq!(buffer.take_batch().expect("full").len(), BATCH_SIZE);
        assert_eq!(buffer.push(&[1; 3]), SpanPush::Queued);
        assert_eq!(lens(&buffer.take_all()), [512, 512, 512, 1]);
        assert!(buffer.is_empty() && buffer.take_batch().is_none());
        assert_eq!(buffer.push(&[1; 3]), SpanPush::QueuedForWorker);
    }

    #[test]
    fn the_bytes_of_a_batch_and_of_all_are_bounded() {
        let mut buffer = SpanBuffer::default();
        let half = vec![1; MAX_BATCH_BYTES / 2 + 1];
        for _ in 0..MAX_BYTES / MAX_BATCH_BYTES {
            assert_eq!(buffer.push(&half), SpanPush::QueuedForWorker, "full");
        }
        while buffer.push(&half) != SpanPush::Refused {}
        assert!(buffer.bytes <= MAX_BYTES);
        assert!(buffer.bytes > MAX_BYTES - MAX_BATCH_BYTES);
        assert_eq!(buffer.push(&[1; 3]), SpanPush::Queued, "a small one");
        let largest = buffer.take_all().iter().map(SpanBatch::span_bytes).max();
        assert!(largest <= Some(MAX_BATCH_BYTES));
        assert_eq!(buffer.bytes, 0);
        assert_eq!(buffer.push(&[1; MAX_BATCH_BYTES + 1]), SpanPush::Refused);
        assert_ne!(buffer.push(&[1; MAX_BATCH_BYTES]), SpanPush::Refused);
    }

    #[test]
    fn spans_that_move_join_the_newest_batch_and_keep_the_bounds() {
        let batch = |spans| {
            let mut buffer = SpanBuffer::default();
            for _ in 0..spans {
                assert_ne!(buffer.push(&[1; 3]), SpanPush::Refused);
            }
            buffer.take_batch().expect("spans")
        };
        let mut buffer = SpanBuffer::default();
        for spans in [500, 12, 1, 511, 512] {
            assert!(buffer.push_batch(batch(spans)).is_none());
        }
        assert_eq!(buffer.push_batch(batch(513)).map(|batch| batch.len()), None);
        let refused = buffer.push_batch(batch(512));
        assert_eq!(refused.map(|batch| batch.len()), Some(512));
        assert_eq!(lens(&buffer.take_all()), [512, 512, 512, 512]);
    }
}
