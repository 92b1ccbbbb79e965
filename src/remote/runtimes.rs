//! Several runtimes at once: each has a side of the client, and work moves between them when one
//! ends or stands still.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use super::config::Target;
use super::live::{Live, Offered, Slot};
use super::queue::{Queue, Work};
use super::transport::Transport;
use super::{Shared, worker};
use crate::flow::{EndError, FlowError, FlowErrorKind};

/// A worker that was woken so long ago and has not run belongs to a runtime that stands still.
pub(super) const STANDS_STILL: Duration = Duration::from_millis(250);

impl Shared {
    pub(super) fn lives(&self) -> MutexGuard<'_, Vec<Arc<Live>>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client's side in the current runtime, made when there is none.
    ///
    /// Connections and timers belong to a runtime and end with it, so that a client that outlives
    /// one, as in tests that share a static, starts afresh in the next.
    pub(super) fn live(self: &Arc<Self>) -> Result<Arc<Live>, FlowError> {
        let Ok(runtime) = Handle::try_current() else {
            return Err(FlowError::new(
                FlowErrorKind::Other,
                "an agent can be called from within a tokio runtime only",
            ));
        };
        let id = runtime.id();
        let mut lives = self.lives();
        if let Some(live) = lives.iter().find(|live| live.runtime() == id) {
            return Ok(Arc::clone(live));
        }
        if self.health.is_shut_down() {
            return Err(FlowError::new(FlowErrorKind::ShutDown, ""));
        }
        #[cfg(feature = "metrics")]
        super::meter::register(&self.counters, &self.agents);
        let slots = match &self.config.target {
            Target::Connect(connect) => {
                let agents = self.agents.iter();
                let slots = agents.filter_map(|agent| {
                    let generation = agent.generation();
                    let pool = agent.pool(connect, &runtime)?;
                    Some(Slot::new(Transport::Own(pool), generation))
                });
                slots.collect()
            }
            Target::Ready(channel) => Box::from([Slot::new(Transport::Ready(channel.clone()), 0)]),
        };
        let live = Arc::new(Live::new(Arc::clone(self), runtime, slots));
        lives.push(Arc::clone(&live));
        // A runtime that is on its way out drops the task at once, and with it takes this lock.
        drop(lives);
        worker::start(&live);
        Ok(live)
    }

    /// The sides in all runtimes, the newest first: it is the least likely to stand still.
    pub(super) fn newest_first(&self) -> Vec<Arc<Live>> {
        self.lives().iter().rev().cloned().collect()
    }

    pub(super) fn forget(&self, live: &Live) {
        self.lives().retain(|known| !std::ptr::eq(&**known, live));
    }

    /// Leaves work with the first side that takes it: the one in the current runtime, which is sure
    /// to run, else `own`, where the flow began, else any other.
    pub(super) fn offer<T>(
        self: &Arc<Self>,
        own: Option<&Arc<Live>>,
        mut work: T,
        push: impl Fn(&Live, T) -> Offered<T>,
    ) -> Result<(), EndError> {
        let current = Handle::try_current().ok().map(|runtime| runtime.id());
        if let Some(own) = own
            && current == Some(own.runtime())
        {
            // The usual case takes no lock but the queue's.
            match push(own, work) {
                Offered::Taken => return Ok(()),
                Offered::Refused(refused, EndError::ShutDown) => work = refused,
                Offered::Refused(_, error) => return Err(error),
            }
        } else if current.is_some()
            && let Ok(live) = self.live()
        {
            match push(&live, work) {
                Offered::Taken => return Ok(()),
                Offered::Refused(refused, EndError::ShutDown) => work = refused,
                Offered::Refused(_, error) => return Err(error),
            }
        }
        let own = own.into_iter().cloned();
        for live in own.chain(self.newest_first()) {
            let outcome = match push(&live, work) {
                Offered::Taken => Ok(()),
                Offered::Refused(refused, EndError::ShutDown) => {
                    work = refused;
                    continue;
                }
                Offered::Refused(_, error) => Err(error),
            };
            self.call_patrol(&live);
            return outcome;
        }
        Err(EndError::ShutDown)
    }

    /// Moves the work of a runtime that ends to another one; counts it when there is none.
    pub(super) fn move_work(&self, work: Work) {
        let mut left = work;
        for live in self.newest_first() {
            left = live.take_over(left);
        }
        self.count_dropped(&left);
    }

    pub(super) fn count_dropped(&self, work: &Work) {
        let counters = &self.counters;
        let sent = work.ends.iter().filter(|end| end.was_sent()).count();
        counters.ends_failed.add(sent);
        counters.ends_dropped.add(work.ends.len() - sent);
        counters.cache_writes_dropped.add(work.cache_writes.len());
        #[cfg(feature = "telemetry")]
        counters.spans_dropped.add(work.spans.len());
    }

    /// Work was left with `live` from outside its runtime, which may stand still: the others are to
    /// look after it.
    fn call_patrol(&self, live: &Live) {
        let others = self.newest_first();
        for other in others.iter().filter(|other| !std::ptr::eq(&***other, live)) {
            let mut queue = other.queue();
            if !queue.patrol {
                queue.patrol = true;
                Queue::wake(queue);
            }
        }
    }
}

impl Live {
    /// Takes what it has room for, and returns the rest.
    pub(super) fn take_over(&self, work: Work) -> Work {
        Work {
            ends: rest(work.ends, |end| self.push_end(end)),
            cache_writes: rest(work.cache_writes, |write| self.push_cache_write(write)),
            #[cfg(feature = "telemetry")]
            spans: rest(work.spans, |span| self.push_span(span)),
        }
    }

    /// Takes over what waits in runtimes whose worker was woken at least `age` ago and has not run
    /// since. Returns `true` when there are others that may yet turn out to stand still.
    pub(super) fn rescue(&self, age: Duration) -> bool {
        let mut again = false;
        for other in self.shared.newest_first() {
            if std::ptr::eq(&*other, self) {
                continue;
            }
            let mut queue = other.queue();
            let Some(woken) = queue.woken().filter(|_| queue.has_work()) else {
                continue;
            };
            if woken.elapsed() < age {
                again = true;
                continue;
            }
            let work = queue.take();
            drop(queue);
            let rest = other.take_over(self.take_over(work));
            self.shared.count_dropped(&rest);
        }
        again
    }
}

/// Pushes all it can, and returns the rest.
fn rest<T>(all: Vec<T>, push: impl Fn(T) -> Offered<T>) -> Vec<T> {
    all.into_iter()
        .filter_map(|one| match push(one) {
            Offered::Taken => None,
            Offered::Refused(one, _) => Some(one),
        })
        .collect()
}
