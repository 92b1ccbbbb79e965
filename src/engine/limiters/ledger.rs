//! The flows in flight of one key: a pure function of state, capacity and time.

use super::sums::Sums;
use crate::engine::clock::Nanos;
use crate::engine::request_id::RequestId;

/// Ends the list of entries.
const NONE: u32 = u32::MAX;
/// Whole numbers up to this one add up exactly, as many as there can be entries.
const WHOLE: f64 = 1_048_576.0;

/// Flows in flight, in the order in which they began, which is the order in which they expire.
#[derive(Debug)]
pub(crate) struct Ledger {
    entries: Vec<Entry>,
    oldest: u32,
    newest: u32,
    free: u32,
    /// What is in flight, while only whole numbers are.
    tokens: f64,
    /// What is in flight, from the first other number on until nothing is. Behind a pointer: most
    /// ledgers have none.
    mixed: Option<Box<Sums>>,
    latest: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// `None` of a free one. It names the place of the entry.
    id: Option<RequestId>,
    tokens: f64,
    expires_at: Nanos,
    older: u32,
    /// The next free one, of a free one.
    newer: u32,
}

/// What a ledger showed before it was asked for more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seen {
    /// The slot of a flow that was let in.
    pub(crate) slot: Option<RequestId>,
    pub(crate) remaining: f64,
    pub(crate) current: f64,
}

impl Ledger {
    pub(crate) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            oldest: NONE,
            newest: NONE,
            free: NONE,
            tokens: 0.0,
            mixed: None,
            latest: Nanos::MIN,
        }
    }

    /// The tokens in flight.
    fn in_flight(&self) -> f64 {
        self.mixed.as_ref().map_or(self.tokens, |sums| sums.total())
    }

    /// Lets a flow in while less than the capacity is in flight; what it brings is not looked at,
    /// so one that is too big gets in too.
    pub(crate) fn enter(
        &mut self,
        tokens: f64,
        capacity: f64,
        now: Nanos,
        lifetime: Nanos,
    ) -> Seen {
        let now = self.expire(now);
        let current = self.in_flight();
        let mut slot = None;
        if current < capacity {
            slot = Some(self.push(tokens, now.saturating_add(lifetime)));
        }
        Seen {
            slot,
            remaining: capacity - current,
            current,
        }
    }

    /// Gives a slot back; false when there is none of that name any more.
    pub(crate) fn leave(&mut self, id: RequestId, now: Nanos) -> bool {
        self.expire(now);
        self.forget(id)
    }

    /// The same where nobody asks whether it had expired: it is gone one way or the other.
    pub(crate) fn forget(&mut self, id: RequestId) -> bool {
        let at = id.place();
        match self.entries.get(at as usize) {
            Some(entry) if entry.id == Some(id) => {
                self.unlink(at);
                true
            }
            _ => false,
        }
    }

    /// When the next slot expires if nobody gives one back.
    pub(crate) fn next_expiry(&self) -> Option<Nanos> {
        let entry = self.entries.get(self.oldest as usize)?;
        Some(entry.expires_at.saturating_add(1))
    }

    /// How many tokens are in flight; `None` when no slot is taken.
    pub(crate) fn taken(&mut self, now: Nanos) -> Option<f64> {
        self.expire(now);
        (self.oldest != NONE).then(|| self.in_flight())
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry.id.is_some())
            .count()
    }

    /// Drops what is past its time; a slot counts to the end of its last nanosecond. Threads read
    /// the clock before they get the lock, so a later time may come first: it stays.
    fn expire(&mut self, now: Nanos) -> Nanos {
        self.latest = self.latest.max(now);
        while let Some(entry) = self.entries.get(self.oldest as usize)
            && entry.expires_at < self.latest
        {
            self.unlink(self.oldest);
        }
        self.latest
    }

    fn push(&mut self, tokens: f64, expires_at: Nanos) -> RequestId {
        // Infinities would add up to NaN.
        let tokens = tokens.clamp(f64::MIN, f64::MAX);
        let mut entry = Entry {
            id: None,
            tokens,
            expires_at,
            older: self.newest,
            newer: NONE,
        };
        let (at, id) = match self.entries.get_mut(self.free as usize) {
            Some(place) => {
                let at = self.free;
                let id = RequestId::new(at);
                entry.id = Some(id);
                self.free = place.newer;
                *place = entry;
                (at, id)
            }
            None => {
                // Four thousand million flows in flight would not fit in memory.
                let at = u32::try_from(self.entries.len()).unwrap_or(NONE);
                let id = RequestId::new(at);
                entry.id = Some(id);
                self.entries.push(entry);
                (at, id)
            }
        };
        match self.entries.get_mut(self.newest as usize) {
            Some(newest) => newest.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
        self.add(at, tokens);
        id
    }

    fn add(&mut self, at: u32, tokens: f64) {
        let whole = tokens.fract() == 0.0 && tokens.abs() <= WHOLE;
        match &mut self.mixed {
            Some(sums) => sums.set(at as usize, tokens),
            None if whole => self.tokens += tokens,
            None => {
                let all = self.entries.iter();
                let sums = Sums::new(all.map(|entry| match entry.id {
                    Some(_) => entry.tokens,
                    None => 0.0,
                }));
                self.mixed = Some(Box::new(sums));
            }
        }
    }

    fn unlink(&mut self, at: u32) {
        let Entry {
            tokens,
            older,
            newer,
            ..
        } = self.entries[at as usize];
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        let entry = &mut self.entries[at as usize];
        entry.id = None;
        entry.newer = self.free;
        self.free = at;
        if self.oldest == NONE {
            self.tokens = 0.0;
            self.mixed = None;
            return;
        }
        match &mut self.mixed {
            Some(sums) => sums.set(at as usize, 0.0),
            None => self.tokens -= tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn enter(ledger: &mut Ledger, at: Nanos, tokens: f64) -> (RequestId, Seen) {
        let seen = ledger.enter(tokens, 2.0, at, 10 * SECOND);
        // One that is not let in has an id that nothing is held under.
        (seen.slot.unwrap_or_else(|| RequestId::new(0)), seen)
    }

    #[test]
    fn slots_are_counted_before_the_new_one_and_expire() {
        let mut ledger = Ledger::new();
        let showed = |(id, told): (RequestId, Seen)| {
            (id, (told.slot.is_some(), told.remaining, told.current))
        };
        let (a, told) = showed(enter(&mut ledger, 0, 1.0));
        assert_eq!(told, (true, 2.0, 0.0));
        let (b, told) = showed(enter(&mut ledger, SECOND, 1.0));
        assert_eq!(told, (true, 1.0, 1.0));
        let (c, told) = showed(enter(&mut ledger, 2 * SECOND, 1.0));
        assert_eq!(told, (false, 0.0, 2.0));
        assert!(ledger.leave(a, 2 * SECOND));
        assert!(!ledger.leave(a, 2 * SECOND));
        assert!(!ledger.leave(c, 2 * SECOND));
        let lets_in = |ledger: &mut Ledger, at, tokens| enter(ledger, at, tokens).1.slot.is_some();
        assert!(lets_in(&mut ledger, 3 * SECOND, 1.0));
        assert!(!lets_in(&mut ledger, 11 * SECOND, 1.0));
        assert_eq!(ledger.next_expiry(), Some(11 * SECOND + 1));
        assert!(lets_in(&mut ledger, 11 * SECOND + 1, 1.0));
        assert!(!ledger.leave(b, 11 * SECOND + 1));
        assert_eq!(ledger.len(), 2);
    }

    #[test]
    fn one_that_is_too_big_gets_in_and_leaves_no_trace() {
        let mut ledger = Ledger::new();
        let (small, _) = enter(&mut ledger, 0, 0.1);
        let (big, told) = enter(&mut ledger, 0, 1e300);
        assert!(told.slot.is_some());
        assert!(enter(&mut ledger, 0, 1.0).1.slot.is_none());
        assert!(ledger.leave(big, 0));
        assert_eq!(enter(&mut ledger, 0, 1.0).1.current, 0.1);
        assert!(ledger.leave(small, 0));
    }

    #[test]
    fn mixed_costs_that_go_in_any_order_leave_what_is_there() {
        let costs = [0.1, 1e17, -1e17, 3.0, 1e300, 0.25, -1e300, 7.0];
        let mut ledger = Ledger::new();
        let mut slots: Vec<(RequestId, f64)> = Vec::new();
        for (at, cost) in costs.into_iter().cycle().take(100).enumerate() {
            let seen = ledger.enter(cost, f64::INFINITY, 0, 10 * SECOND);
            slots.push((seen.slot.expect("there is room"), cost));
            if at % 3 == 2 {
                let (id, _) = slots.swap_remove(at * 7 % slots.len());
                assert!(ledger.leave(id, 0));
            }
        }
        // The small ones, when all the large ones have gone.
        while let Some(large) = slots.iter().position(|(_, cost)| cost.abs() > 1e10) {
            assert!(ledger.leave(slots.swap_remove(large).0, 0));
        }
        let left: f64 = slots.iter().map(|(_, cost)| cost).sum();
        let current = ledger.enter(0.0, 0.0, 0, SECOND).current;
        assert!((current - left).abs() < 1e-9, "{current}, not {left}");
        assert_eq!(ledger.enter(0.0, 0.0, 11 * SECOND, SECOND).current, 0.0);
    }

    #[test]
    fn slots_go_in_any_order_and_their_places_are_used_again() {
        let mut ledger = Ledger::new();
        for round in 0..50 {
            let ids: Vec<RequestId> = (0..7)
                .map(|_| {
                    let seen = ledger.enter(1.0, 100.0, round, 10 * SECOND);
                    seen.slot.expect("there is room")
                })
                .collect();
            for at in [3, 0, 6, 1, 5, 2, 4] {
                assert!(ledger.leave(ids[at], round));
            }
        }
        assert_eq!((ledger.len(), ledger.entries.len()), (0, 7));
        assert_eq!(ledger.tokens, 0.0);
    }
}
