//! The components that decide: one file each, all of one shape.
//!
//! A new one is a file and a line in every `match` of [`Component`].

mod bucket;
mod lazy_sync;
mod rate_limiter;

use super::clock::Nanos;
use super::report::{LimiterDetails, LimiterReason};
use super::stages::{Flow, Step};
use super::store::Limits;
use crate::policy::ComponentKind;

pub(crate) use self::rate_limiter::RateLimiter;

/// Deadlines that are no further away than this are over: an answer would come too late.
const DEADLINE_MARGIN: Nanos = 10_000_000;

/// One component of a policy, with its state.
#[derive(Debug)]
pub(crate) enum Component {
    RateLimiter(RateLimiter),
}

/// What a component decided about a flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Decided {
    pub(crate) dropped: bool,
    pub(crate) reason: LimiterReason,
    pub(crate) wait: Nanos,
    pub(crate) remaining: f64,
    pub(crate) current: f64,
    pub(crate) consumed: f64,
}

impl Component {
    /// `None` for a kind that nothing here decides yet.
    pub(crate) fn new(kind: &ComponentKind, limits: Limits) -> Option<Self> {
        Some(match kind {
            ComponentKind::RateLimiter(spec) => Self::RateLimiter(RateLimiter::new(spec, limits)),
            _ => return None,
        })
    }

    pub(crate) fn step(&self) -> Step {
        match self {
            Self::RateLimiter(_) => Step::Limiters,
        }
    }

    /// The status code of the policy for flows that are dropped here; 0 is none.
    pub(crate) fn denied_code(&self) -> i32 {
        match self {
            Self::RateLimiter(limiter) => limiter.denied_code(),
        }
    }

    #[inline(always)]
    pub(crate) fn decide(&self, flow: &Flow<'_, '_>, now: Nanos) -> Decided {
        match self {
            Self::RateLimiter(limiter) => limiter.decide(flow, now),
        }
    }

    /// Gives back what a flow was granted here that was then dropped elsewhere.
    pub(crate) fn revert(&self, flow: &Flow<'_, '_>, consumed: f64, now: Nanos) {
        match self {
            Self::RateLimiter(limiter) => limiter.revert(flow, consumed, now),
        }
    }

    /// What a decision looks like to those who ask.
    pub(crate) fn report(&self, flow: &Flow<'_, '_>, decided: &Decided) -> LimiterDetails {
        match self {
            Self::RateLimiter(limiter) => limiter.report(flow, decided),
        }
    }

    /// Keys with state.
    pub(crate) fn keys(&self) -> usize {
        match self {
            Self::RateLimiter(limiter) => limiter.keys(),
        }
    }

    /// Keys whose state had to make room.
    pub(crate) fn evicted(&self) -> u64 {
        match self {
            Self::RateLimiter(limiter) => limiter.evicted(),
        }
    }
}
