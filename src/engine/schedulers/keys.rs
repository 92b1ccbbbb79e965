//! A queue a key.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::line::Line;
use super::supply::Source;
use crate::engine::clock::{Clock, Nanos};
use crate::engine::store::{Kept, Limits, Loss, Store};

/// The queues of one component.
#[derive(Debug)]
pub(crate) struct Keys<S: Source> {
    store: Store<Entry<S>>,
    rules: Arc<S::Rules>,
    clock: Arc<dyn Clock>,
    max_idle: AtomicI64,
    /// How long a use counts at least.
    lasts: AtomicI64,
}

#[derive(Debug)]
struct Entry<S: Source> {
    line: Option<Arc<Line<S>>>,
    used: Nanos,
    lasts: Nanos,
}

impl<S: Source> Kept for Entry<S> {
    type Rules = S::Rules;

    fn new() -> Self {
        Self {
            line: None,
            used: Nanos::MIN,
            lasts: 0,
        }
    }

    fn forget_at(&self, max_idle: Nanos) -> Nanos {
        self.used().saturating_add(max_idle.max(self.lasts))
    }

    fn loss(&self, rules: &S::Rules, now: Nanos) -> Loss {
        let Some(line) = &self.line else {
            return Loss::none(self.used);
        };
        let loss = line.with(|_, source| source.loss(rules, self.used, now));
        match self.is_in_use() {
            // Flows wait there, hold slots, or are being decided.
            true => Loss {
                until: Nanos::MAX,
                ..loss
            },
            false => loss,
        }
    }
}

impl<S: Source> Entry<S> {
    /// Flows that wait and slots that are held keep their queue alive.
    fn is_in_use(&self) -> bool {
        self.line
            .as_ref()
            .is_some_and(|line| Arc::strong_count(line) > 1)
    }

    /// The last use; none is the last while the key is in use.
    fn used(&self) -> Nanos {
        match self.is_in_use() {
            true => Nanos::MAX,
            false => self.used,
        }
    }
}

impl<S: Source> Keys<S> {
    pub(crate) fn new(
        rules: S::Rules,
        limits: Limits,
        lasts: Nanos,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        Self {
            store: Store::new(limits),
            rules: Arc::new(rules),
            clock: Arc::clone(clock),
            max_idle: AtomicI64::new(limits.max_idle),
            lasts: AtomicI64::new(lasts),
        }
    }

    pub(crate) fn rules(&self) -> &S::Rules {
        &self.rules
    }

    pub(crate) fn line(&self, key: &str, now: Nanos) -> Arc<Line<S>> {
        let max_idle = self.max_idle.load(Ordering::Relaxed);
        let lasts = self.lasts.load(Ordering::Relaxed);
        self.store.update(key, now, &self.rules, |entry| {
            if entry.forget_at(max_idle) <= now {
                entry.line = None;
            }
            entry.used = now.max(entry.used);
            entry.lasts = lasts.max(entry.lasts);
            let line = entry
                .line
                .get_or_insert_with(|| Line::new(&self.rules, &self.clock, now));
            Arc::clone(line)
        })
    }

    /// The queue of a key that is known.
    pub(crate) fn known(&self, key: &str) -> Option<Arc<Line<S>>> {
        self.store.look(key, |entry| entry.line.clone()).flatten()
    }

    /// Keys are forgotten after another time from now on.
    pub(crate) fn set_times(&self, max_idle: Nanos, lasts: Nanos) {
        self.max_idle.store(max_idle, Ordering::Relaxed);
        self.lasts.store(lasts, Ordering::Relaxed);
        self.store.set_max_idle(max_idle);
    }

    /// Carries all sources over to changed rules, and decides for those that wait.
    pub(crate) fn change(&self, again: bool, now: Nanos, mut change: impl FnMut(&mut S)) {
        let mut lines = Vec::new();
        self.store.each(|entry| lines.extend(entry.line.clone()));
        for line in lines {
            line.change(again, now, &mut change);
        }
    }

    /// Looks again at what those who wait wait for: there may be more of it.
    pub(crate) fn serve(&self, now: Nanos) {
        let mut lines = Vec::new();
        self.store.each(|entry| {
            // Who waits holds on to its queue.
            let waits = |line: &&Arc<Line<S>>| Arc::strong_count(line) > 1;
            lines.extend(entry.line.as_ref().filter(waits).cloned());
        });
        for line in lines {
            line.serve(now);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.store.len()
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.store.evicted()
    }
}
