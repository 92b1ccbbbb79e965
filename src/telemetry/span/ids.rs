//! Distinct trace and span ids.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// Generates distinct trace and span ids, seeded like the hash maps of the standard library. They
/// need not be hard to guess.
#[derive(Default)]
pub(super) struct SpanIds {
    state: RandomState,
    drawn: u64,
}

impl SpanIds {
    /// Returns the id of a trace and that of its span.
    pub(super) fn draw(&mut self) -> ([u8; 16], [u8; 8]) {
        let mut trace_id = [0; 16];
        trace_id[..8].copy_from_slice(&self.next());
        trace_id[8..].copy_from_slice(&self.next());
        (trace_id, self.next())
    }

    /// Returns a new id, which is not zero because zero is not a valid id.
    fn next(&mut self) -> [u8; 8] {
        self.drawn += 1;
        self.state.hash_one(self.drawn).max(1).to_be_bytes()
    }
}
