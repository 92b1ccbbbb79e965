//! The flows in flight of one key, as a pure function of state, capacity and time.

use super::sum_tree::SumTree;
use crate::engine::clock::Nanos;
use crate::engine::request_id::RequestId;

/// Marks the end of a list of entries.
const NONE: u32 = u32::MAX;
/// Whole numbers up to this one add up exactly, for as many entries as fit in memory.
const WHOLE: f64 = 1_048_576.0;

/// The slots of the flows in flight, linked in the order in which they began, which is also the
/// order in which they expire.
#[derive(Debug)]
pub(crate) struct InFlightSlots {
    entries: Vec<SlotEntry>,
    oldest: u32,
    newest: u32,
    free: u32,
    /// The tokens in flight, while all of them are whole numbers.
    tokens: f64,
    /// The tokens in flight, from the first number on that is not whole until no slot is held.
    /// Boxed because most keys do not need it.
    mixed: Option<Box<SumTree>>,
    latest: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct SlotEntry {
    /// `None` for a free entry. The id contains the index of its entry.
    id: Option<RequestId>,
    tokens: f64,
    expires_at: Nanos,
    older: u32,
    /// For a free entry, the next free one.
    newer: u32,
}

/// The result of an attempt to take a slot. The amounts are those before the slot was taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Admission {
    /// The slot of an accepted flow; `None` if it was rejected.
    pub(crate) slot: Option<RequestId>,
    pub(crate) remaining: f64,
    pub(crate) current: f64,
}

impl InFlightSlots {
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

    /// Returns the tokens in flight.
    fn in_flight(&self) -> f64 {
        self.mixed.as_ref().map_or(self.tokens, |sums| sums.total())
    }

    /// Accepts a flow while less than the capacity is in flight. The tokens of the new flow do not
    /// count for that, so one that is larger than the capacity may be accepted.
    pub(crate) fn enter(
        &mut self,
        tokens: f64,
        capacity: f64,
        now: Nanos,
        lifetime: Nanos,
    ) -> Admission {
        let now = self.expire(now);
        let current = self.in_flight();
        let mut slot = None;
        if current < capacity {
            slot = Some(self.push(tokens, now.saturating_add(lifetime)));
        }
        Admission {
            slot,
            remaining: capacity - current,
            current,
        }
    }

    /// Returns a slot. Returns false if the slot is not held any more.
    pub(crate) fn leave(&mut self, id: RequestId, now: Nanos) -> bool {
        self.expire(now);
        self.remove(id)
    }

    /// Like [`leave`](Self::leave), without first removing expired slots: for callers that ignore
    /// whether the slot had expired.
    pub(crate) fn remove(&mut self, id: RequestId) -> bool {
        let at = id.slot_index();
        match self.entries.get(at as usize) {
            Some(entry) if entry.id == Some(id) => {
                self.unlink(at);
                true
            }
            _ => false,
        }
    }

    /// Returns true if the slot is held.
    pub(crate) fn is_held(&self, id: RequestId) -> bool {
        let entry = self.entries.get(id.slot_index() as usize);
        entry.is_some_and(|entry| entry.id == Some(id))
    }

    /// Returns when the next slot expires if none is returned before.
    pub(crate) fn next_expiry(&self) -> Option<Nanos> {
        let entry = self.entries.get(self.oldest as usize)?;
        Some(entry.expires_at.saturating_add(1))
    }

    /// Returns the tokens in flight, or `None` if no slot is held.
    pub(crate) fn tokens_in_flight(&mut self, now: Nanos) -> Option<f64> {
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

    /// Removes expired slots and returns the current time. A slot counts to the end of its last
    /// nanosecond. Threads read the clock before they take the lock, so a later time may arrive
    /// first; it is kept.
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
        let mut entry = SlotEntry {
            id: None,
            tokens,
            expires_at,
            older: self.newest,
            newer: NONE,
        };
        let (at, id) = match self.entries.get_mut(self.free as usize) {
            Some(free_entry) => {
                let at = self.free;
                let id = RequestId::new(at);
                entry.id = Some(id);
                self.free = free_entry.newer;
                *free_entry = entry;
                (at, id)
            }
            None => {
                // Four billion flows in flight would not fit in memory.
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
        // The conversion of a number within the bounds cuts its fraction off. Not `f64::fract`, which
        // is a function call on processors without SSE 4.1.
        let whole = tokens.abs() <= WHOLE && f64::from(tokens as i32) == tokens;
        match &mut self.mixed {
            Some(sums) => sums.set(at as usize, tokens),
            None if whole => self.tokens += tokens,
            None => {
                let all = self.entries.iter();
                let sums = SumTree::new(all.map(|entry| match entry.id {
                    Some(_) => entry.tokens,
                    None => 0.0,
                }));
                self.mixed = Some(Box::new(sums));
            }
        }
    }

    fn unlink(&mut self, at: u32) {
        let SlotEntry {
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

    fn enter(slots: &mut InFlightSlots, at: Nanos, tokens: f64) -> (RequestId, Admission) {
        let admission = slots.enter(tokens, 2.0, at, 10 * SECOND);
        // A rejected flow has an id that no slot is held under.
        (
            admission.slot.unwrap_or_else(|| RequestId::new(0)),
            admission,
        )
    }

    #[test]
    fn reported_amounts_are_those_before_the_new_slot_and_slots_expire() {
        let mut slots = InFlightSlots::new();
        let id_and_amounts = |(id, admission): (RequestId, Admission)| {
            (
                id,
                (
                    admission.slot.is_some(),
                    admission.remaining,
                    admission.current,
                ),
            )
        };
        let (a, admission) = id_and_amounts(enter(&mut slots, 0, 1.0));
        assert_eq!(admission, (true, 2.0, 0.0));
        let (b, admission) = id_and_amounts(enter(&mut slots, SECOND, 1.0));
        assert_eq!(admission, (true, 1.0, 1.0));
        let (c, admission) = id_and_amounts(enter(&mut slots, 2 * SECOND, 1.0));
        assert_eq!(admission, (false, 0.0, 2.0));
        assert!(slots.leave(a, 2 * SECOND));
        assert!(!slots.leave(a, 2 * SECOND));
        assert!(!slots.leave(c, 2 * SECOND));
        let accepts =
            |slots: &mut InFlightSlots, at, tokens| enter(slots, at, tokens).1.slot.is_some();
        assert!(accepts(&mut slots, 3 * SECOND, 1.0));
        assert!(!accepts(&mut slots, 11 * SECOND, 1.0));
        assert_eq!(slots.next_expiry(), Some(11 * SECOND + 1));
        assert!(accepts(&mut slots, 11 * SECOND + 1, 1.0));
        assert!(!slots.leave(b, 11 * SECOND + 1));
        assert_eq!(slots.len(), 2);
    }

    #[test]
    fn a_flow_larger_than_the_capacity_is_accepted_and_leaves_no_rounding_error() {
        let mut slots = InFlightSlots::new();
        let (small, _) = enter(&mut slots, 0, 0.1);
        let (big, admission) = enter(&mut slots, 0, 1e300);
        assert!(admission.slot.is_some());
        assert!(enter(&mut slots, 0, 1.0).1.slot.is_none());
        assert!(slots.leave(big, 0));
        assert_eq!(enter(&mut slots, 0, 1.0).1.current, 0.1);
        assert!(slots.leave(small, 0));
    }

    #[test]
    fn returning_fractional_costs_in_any_order_leaves_the_exact_sum() {
        let costs = [0.1, 1e17, -1e17, 3.0, 1e300, 0.25, -1e300, 7.0];
        let mut in_flight = InFlightSlots::new();
        let mut slots: Vec<(RequestId, f64)> = Vec::new();
        for (at, cost) in costs.into_iter().cycle().take(100).enumerate() {
            let admission = in_flight.enter(cost, f64::INFINITY, 0, 10 * SECOND);
            slots.push((admission.slot.expect("there is room"), cost));
            if at % 3 == 2 {
                let (id, _) = slots.swap_remove(at * 7 % slots.len());
                assert!(in_flight.leave(id, 0));
            }
        }
        // Remove the large costs first, so that the small ones are left.
        while let Some(large) = slots.iter().position(|(_, cost)| cost.abs() > 1e10) {
            assert!(in_flight.leave(slots.swap_remove(large).0, 0));
        }
        let remaining: f64 = slots.iter().map(|(_, cost)| cost).sum();
        let current = in_flight.enter(0.0, 0.0, 0, SECOND).current;
        assert!(
            (current - remaining).abs() < 1e-9,
            "{current}, not {remaining}"
        );
        assert_eq!(in_flight.enter(0.0, 0.0, 11 * SECOND, SECOND).current, 0.0);
    }

    #[test]
    fn slots_are_returned_in_any_order_and_their_entries_are_reused() {
        let mut slots = InFlightSlots::new();
        for round in 0..50 {
            let ids: Vec<RequestId> = (0..7)
                .map(|_| {
                    let admission = slots.enter(1.0, 100.0, round, 10 * SECOND);
                    admission.slot.expect("there is room")
                })
                .collect();
            for at in [3, 0, 6, 1, 5, 2, 4] {
                assert!(slots.leave(ids[at], round));
            }
        }
        assert_eq!((slots.len(), slots.entries.len()), (0, 7));
        assert_eq!(slots.tokens, 0.0);
    }
}
