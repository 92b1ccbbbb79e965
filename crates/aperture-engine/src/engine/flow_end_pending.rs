//! Ends of flows by reference whose slots may be in a shared store.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::clock::{Clock, Nanos};
use super::flow_end::SlotReturn;
use super::shared::StoreAsk;
use super::store_timer::{StoreTimer, Waited};

/// The future of [`Engine::start_flow_end`](super::Engine::start_flow_end): one status per
/// reference, in their order.
///
/// It needs no task. Dropping it does not stop the return of the slots. Outside of a Tokio runtime,
/// it waits for no reply, unless the engine's [`Clock`](super::Clock) wakes it.
///
/// # Panics
///
/// Panics if it is polled after it was ready, or in a Tokio runtime whose timers are not enabled.
#[must_use = "futures do nothing unless polled"]
pub struct PendingFlowEnd {
    /// `None` once they were taken.
    returns: Option<Vec<StartedSlotReturn>>,
    timer: StoreTimer,
}

/// The return of a slot, decided or under way.
pub(super) enum StartedSlotReturn {
    Decided(SlotReturn),
    Asked(StoreAsk),
}

impl PendingFlowEnd {
    pub(super) fn new(clock: &Arc<dyn Clock>, returns: Vec<StartedSlotReturn>) -> Self {
        Self {
            returns: Some(returns),
            timer: StoreTimer::new(clock),
        }
    }
}

impl Future for PendingFlowEnd {
    type Output = Vec<SlotReturn>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let returns = this.returns.as_mut();
        let returns = returns.expect("it must not be polled after completion");
        loop {
            let now = this.timer.now();
            let mut next = Nanos::MAX;
            for started in returns.iter_mut() {
                if let StartedSlotReturn::Asked(ask) = started {
                    match ask.poll(now, cx.waker()) {
                        Poll::Ready(answer) => {
                            let returned = SlotReturn::of_store(answer.left());
                            *started = StartedSlotReturn::Decided(returned);
                        }
                        Poll::Pending => next = next.min(ask.decide_at()),
                    }
                }
            }
            if next == Nanos::MAX {
                break;
            }
            match ready!(this.timer.poll_until(next, cx)) {
                Waited::LookAgain => {}
                Waited::NoTimer => break,
            }
        }
        let returns = this.returns.take().unwrap_or_default().into_iter();
        let statuses = returns.map(|started| match started {
            StartedSlotReturn::Decided(status) => status,
            StartedSlotReturn::Asked(mut ask) => SlotReturn::of_store(ask.give_up().left()),
        });
        Poll::Ready(statuses.collect())
    }
}

impl fmt::Debug for PendingFlowEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingFlowEnd").finish_non_exhaustive()
    }
}
