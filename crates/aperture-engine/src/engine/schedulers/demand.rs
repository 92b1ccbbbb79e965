//! The demand of a load scheduler, and the bucket that a share of it fills.

use super::token_source::TokenGrant;
use crate::engine::clock::Nanos;

pub(super) const SECOND: Nanos = 1_000_000_000;
/// Seconds of demand that are kept, including the current one.
const WINDOW_SECONDS: usize = 31;
/// The largest rate, in tokens per second. Sums of such rates are still finite.
pub(super) const MAX_RATE: f64 = 1e300;

/// A bucket that holds the tokens of one second.
#[derive(Clone, Copy, Debug)]
pub(super) struct DemandBucket {
    pub(super) available: f64,
    /// Tokens per second.
    pub(super) rate: f64,
    latest: Nanos,
}

impl DemandBucket {
    /// Returns an empty bucket that is not filled.
    pub(super) fn empty(now: Nanos) -> Self {
        Self {
            available: 0.0,
            rate: 0.0,
            latest: now,
        }
    }

    /// Fills the bucket up to `now`.
    pub(super) fn fill(&mut self, now: Nanos) {
        if now > self.latest {
            let elapsed = (now - self.latest) as f64 / SECOND as f64;
            self.latest = now;
            self.add(self.rate * elapsed);
        }
    }

    /// Adds tokens, up to those of one second.
    pub(super) fn add(&mut self, tokens: f64) {
        self.available = (self.available + tokens).min(self.rate);
    }

    /// Takes tokens; a negative number adds some.
    pub(super) fn spend(&mut self, tokens: f64) {
        match tokens < 0.0 {
            true => self.add(-tokens),
            false => self.available -= tokens,
        }
    }

    /// Sets the rate. The time until `now` still counts at the old rate.
    pub(super) fn set_rate(&mut self, rate: f64, now: Nanos) {
        self.fill(now);
        self.rate = rate;
    }

    /// Returns the tokens that are left and in use, for the report of a flow.
    pub(super) fn grant(&self) -> TokenGrant {
        TokenGrant {
            remaining: self.available,
            current: self.rate - self.available,
            slot: None,
            without_store: false,
        }
    }
}

/// The tokens requested in each of the last seconds.
#[derive(Debug)]
pub(super) struct DemandWindow {
    seconds: [f64; WINDOW_SECONDS],
    /// The index of the current second.
    at: usize,
    /// The time at which the current second ends.
    next: Nanos,
    /// True until the window has been filled once.
    pub(super) learning: bool,
}

impl DemandWindow {
    pub(super) fn new(now: Nanos) -> Self {
        Self {
            seconds: [0.0; WINDOW_SECONDS],
            at: 0,
            next: now.saturating_add(SECOND),
            learning: true,
        }
    }

    /// Counts tokens that were requested at `now`.
    pub(super) fn add(&mut self, tokens: f64, now: Nanos) {
        if now > self.next {
            // A boundary counts only after it has passed.
            let crossed = (now - self.next - 1) / SECOND + 1;
            if crossed >= WINDOW_SECONDS as Nanos {
                *self = Self::new(now);
            } else {
                for _ in 0..crossed {
                    self.at = (self.at + 1) % WINDOW_SECONDS;
                    self.seconds[self.at] = 0.0;
                    self.learning &= self.at != 0;
                }
                self.next = self.next.saturating_add(crossed * SECOND);
            }
        }
        self.seconds[self.at] = (self.seconds[self.at] + tokens).min(MAX_RATE);
    }

    /// Returns the tokens per second, without the current second.
    pub(super) fn rate(&self) -> f64 {
        let others = self
            .seconds
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != self.at);
        others.map(|(_, tokens)| tokens).sum::<f64>() / (WINDOW_SECONDS - 1) as f64
    }
}
