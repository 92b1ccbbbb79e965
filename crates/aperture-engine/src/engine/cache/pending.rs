//! Futures of lookups and changes that may be made in a shared store.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::ask::{CacheAsk, CacheOperation, Read, Write};
use crate::engine::clock::Clock;
use crate::engine::store_timer::{StoreTimer, Waited};
use aperture_core::{CacheChange, CacheLookup};

/// A lookup or change that was made at once, or that waits for the store.
pub(super) enum Pending<O: CacheOperation> {
    /// `None` once the output was taken.
    Done(Option<O::Output>),
    Asked(CacheAsk<O>, StoreTimer),
}

impl<O: CacheOperation> Pending<O> {
    pub(super) const fn done(output: O::Output) -> Self {
        Self::Done(Some(output))
    }

    pub(super) fn asked(ask: CacheAsk<O>, clock: &Arc<dyn Clock>) -> Self {
        Self::Asked(ask, StoreTimer::new(clock))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<O::Output> {
        if let Self::Asked(ask, timer) = self {
            while !ask.is_over(timer.now(), Some(cx.waker())) {
                match ready!(timer.poll_until(ask.decide_at(), cx)) {
                    Waited::LookAgain => {}
                    Waited::NoTimer => ask.give_up(),
                }
            }
        }
        match std::mem::replace(self, Self::Done(None)) {
            // A future must not be polled after completion; the docs of both futures say that it
            // panics then.
            Self::Done(output) => {
                Poll::Ready(output.expect("it must not be polled after completion"))
            }
            Self::Asked(ask, _) => Poll::Ready(ask.finish()),
        }
    }
}

/// The output is moved, never pinned.
impl<O: CacheOperation> Unpin for Pending<O> {}

/// The future of [`Engine::start_cache_lookup`](crate::engine::Engine::start_cache_lookup).
///
/// It needs no task. It is ready at once unless the engine shares its caches, and then after the
/// deadline of the store at the latest. Outside of a Tokio runtime, it waits for no reply, unless
/// the engine's [`Clock`] wakes it.
///
/// # Panics
///
/// Polling it panics after it was ready, and in a Tokio runtime whose timers are not enabled.
#[must_use = "futures do nothing unless polled"]
pub struct PendingCacheLookup(pub(super) Pending<Read>);

/// The future of [`Engine::start_cache_upsert`](crate::engine::Engine::start_cache_upsert) and
/// [`Engine::start_cache_delete`](crate::engine::Engine::start_cache_delete).
///
/// The change is under way before the future is polled, and dropping it does not stop the change.
/// Otherwise it is like [`PendingCacheLookup`].
///
/// # Panics
///
/// Polling it panics after it was ready, and in a Tokio runtime whose timers are not enabled.
#[must_use = "it has the result of the change"]
pub struct PendingCacheChange(pub(super) Pending<Write>);

impl PendingCacheChange {
    /// Returns the results of an engine in process, which makes changes at once.
    pub(super) fn made(self) -> CacheChange {
        match self.0 {
            Pending::Done(Some(change)) => change,
            _ => unreachable!("an engine in process shares no caches"),
        }
    }

    /// Returns true if the change is made, in process, or was refused there.
    #[doc(hidden)]
    pub const fn is_done(&self) -> bool {
        matches!(self.0, Pending::Done(_))
    }

    /// Returns the results if the change is made already. Otherwise calls `done` with them once the
    /// store has replied.
    #[doc(hidden)]
    pub fn now_or_later(
        self,
        done: impl FnOnce(CacheChange) + Send + 'static,
    ) -> Option<CacheChange> {
        match self.0 {
            Pending::Done(change) => change,
            Pending::Asked(ask, _) => {
                ask.on_done(done);
                None
            }
        }
    }
}

impl Future for PendingCacheLookup {
    type Output = CacheLookup;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CacheLookup> {
        self.0.poll(cx)
    }
}

impl Future for PendingCacheChange {
    type Output = CacheChange;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CacheChange> {
        self.0.poll(cx)
    }
}

impl fmt::Debug for PendingCacheLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingCacheLookup").finish_non_exhaustive()
    }
}

impl fmt::Debug for PendingCacheChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingCacheChange").finish_non_exhaustive()
    }
}
