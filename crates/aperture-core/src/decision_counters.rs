//! Counts decisions, for clients and engines that many threads use.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

const STRIPES: usize = 16;

/// Counts decisions in stripes, so that threads rarely contend for a cache line.
#[derive(Debug, Default)]
pub struct DecisionCounters([Stripe; STRIPES]);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    /// Accepted flows that a component decided about.
    decided: AtomicU64,
    /// Accepted flows that no component decided about.
    undecided: AtomicU64,
    rejected: AtomicU64,
}

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
}

#[inline(always)]
fn own_stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let mut own = STRIPE.get();
    if own == usize::MAX {
        own = NEXT.fetch_add(1, Relaxed) % STRIPES;
        STRIPE.set(own);
    }
    own % STRIPES
}

impl DecisionCounters {
    /// Counts an accepted flow. `undecided` means that no component decided about it.
    #[inline(always)]
    pub fn count_accepted(&self, undecided: bool) {
        let stripe = &self.0[own_stripe()];
        let counter = match undecided {
            false => &stripe.decided,
            true => &stripe.undecided,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts a rejected flow.
    #[inline]
    pub fn count_rejected(&self) {
        self.0[own_stripe()].rejected.fetch_add(1, Relaxed);
    }

    /// Returns the numbers of accepted, undecided and rejected flows.
    #[must_use]
    pub fn sums(&self) -> (u64, u64, u64) {
        let sum = |counter: fn(&Stripe) -> &AtomicU64| -> u64 {
            let stripes = self.0.iter();
            stripes.map(|stripe| counter(stripe).load(Relaxed)).sum()
        };
        let undecided = sum(|stripe| &stripe.undecided);
        let accepted = sum(|stripe| &stripe.decided).wrapping_add(undecided);
        (accepted, undecided, sum(|stripe| &stripe.rejected))
    }
}
