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
    accepted: AtomicU64,
    undecided: AtomicU64,
    rejected: AtomicU64,
}

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
}

#[inline]
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
    /// Counts an accepted or a rejected flow.
    #[inline]
    pub fn count(&self, accepted: bool) {
        let stripe = &self.0[own_stripe()];
        let counter = if accepted {
            &stripe.accepted
        } else {
            &stripe.rejected
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts an accepted flow that no component decided about.
    #[inline]
    pub fn count_undecided(&self) {
        self.0[own_stripe()].undecided.fetch_add(1, Relaxed);
    }

    /// Returns the numbers of accepted, undecided and rejected flows.
    #[must_use]
    pub fn sums(&self) -> (u64, u64, u64) {
        let sum = |counter: fn(&Stripe) -> &AtomicU64| {
            let stripes = self.0.iter();
            stripes.map(|stripe| counter(stripe).load(Relaxed)).sum()
        };
        (
            sum(|stripe| &stripe.accepted),
            sum(|stripe| &stripe.undecided),
            sum(|stripe| &stripe.rejected),
        )
    }
}
