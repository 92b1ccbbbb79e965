//! Groups calls that the Agent may have decided in any order, and searches for the order that
//! explains their outcomes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::recording::{Call, Expected, decision};

/// Calls closer than this, in seconds, may have been decided in any order.
const SAME_TIME: f64 = 0.001;
/// Largest gap between two calls of one burst, in seconds.
const BURST_GAP: f64 = 0.1;
/// Maximum number of orders to try for a group and a preference. A burst of twelve calls needs
/// about a hundred when each answer depends on the call decided before it.
const MAX_ORDERS: usize = 1000;

/// Describes how an answer differs from the recorded one.
pub(crate) type Difference = String;

/// The order in which to decide the calls of a group, by the number of the group. Other groups are
/// decided in the recorded order.
pub(crate) type Orders = BTreeMap<usize, Vec<usize>>;

/// Returns the groups of calls that may have been decided in any order.
pub(crate) fn groups(calls: &[Call]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for at in 0..calls.len() {
        let joins = at > 0 && {
            let gap = calls[at].at - calls[at - 1].at;
            gap < SAME_TIME || (gap < BURST_GAP && calls[at].burst && calls[at - 1].burst)
        };
        match groups.last_mut() {
            Some(group) if joins => group.end = at + 1,
            _ => groups.push(at..at + 1),
        }
    }
    groups
}

fn same_request(a: &Call, b: &Call) -> bool {
    a.rpc == b.rpc && a.request == b.request && a.deadline == b.deadline
}

fn is_rejected(call: &Call) -> bool {
    match &call.expected {
        Expected::Answer(answer) => {
            decision(answer)["decision_type"].as_str() == Some("DECISION_TYPE_REJECTED")
        }
        Expected::Row(accepted, _) => !accepted,
        Expected::Error(_) => true,
    }
}

/// Returns the differences of a group, after the best assignment of answers to calls with the same
/// request. `fits` compares a call with an answer.
pub(crate) fn matching(
    calls: &[Call],
    group: &Range<usize>,
    fits: impl Fn(usize, usize) -> Result<(), Difference>,
) -> Vec<Difference> {
    let size = group.len();
    let fitting: Vec<Vec<usize>> = (0..size)
        .map(|call| {
            let call = group.start + call;
            (0..size)
                .filter(|at| same_request(&calls[call], &calls[group.start + at]))
                .filter(|at| fits(call, group.start + at).is_ok())
                .collect()
        })
        .collect();
    let mut taken: Vec<Option<usize>> = vec![None; size];
    let mut differences = Vec::new();
    for call in 0..size {
        if !assign(call, &fitting, &mut taken, &mut BTreeSet::new()) {
            let call = group.start + call;
            let difference = match fits(call, call) {
                Err(difference) => difference,
                Ok(()) => "too few answers like the recorded one".into(),
            };
            differences.push(format!("call {}: {difference}", calls[call].number));
        }
    }
    differences
}

/// Assigns a fitting answer to one more call, and moves earlier calls to other answers if
/// necessary.
///
/// This is the augmenting path of a bipartite matching.
fn assign(
    call: usize,
    fitting: &[Vec<usize>],
    taken: &mut [Option<usize>],
    seen: &mut BTreeSet<usize>,
) -> bool {
    for &answer in &fitting[call] {
        if !seen.insert(answer) {
            continue;
        }
        let free = match taken[answer] {
            None => true,
            Some(other) => assign(other, fitting, taken, seen),
        };
        if free {
            taken[answer] = Some(call);
            return true;
        }
    }
    false
}

/// A search through the orders of a group, depth first.
///
/// The search abandons an order at the first call whose outcome matches no recorded call, and skips
/// all orders with the same beginning. Of the remaining calls with the same request it tries only
/// the first at each position, because any of them may get any of their outcomes.
pub(crate) struct Search {
    /// For each call, the first call of the group with the same request.
    classes: Vec<usize>,
    /// Preferred orders, used from the last to the first: as recorded; rejected calls before
    /// others; by the time of the answer. A rejection usually changes no state, so the search can
    /// place it as soon as it fits.
    preferences: Vec<Vec<usize>>,
    order: Vec<usize>,
    tried: usize,
}

impl Search {
    /// Starts a search with the recorded order.
    pub(crate) fn new(calls: &[Call]) -> Self {
        let classes = calls
            .iter()
            .map(|call| {
                let same = |other: &Call| same_request(call, other);
                calls.iter().position(same).unwrap_or_default()
            })
            .collect();
        let recorded: Vec<usize> = (0..calls.len()).collect();
        let mut answered = recorded.clone();
        answered.sort_by(|a, b| calls[*a].until.total_cmp(&calls[*b].until));
        let mut rejected_first = recorded.clone();
        rejected_first.sort_by_key(|at| !is_rejected(&calls[*at]));
        Self {
            classes,
            order: recorded.clone(),
            preferences: vec![answered, rejected_first, recorded],
            // With the first preference, try only the recorded order itself.
            tried: MAX_ORDERS,
        }
    }

    /// Returns the next order to try, given the answers for the last one, or `None` if no order is
    /// left.
    ///
    /// `immediate` returns whether a call of the group was answered without waiting. `fits` returns
    /// whether a recorded call matches the answer to a call.
    pub(crate) fn next(
        &mut self,
        immediate: impl Fn(usize) -> bool,
        fits: impl Fn(usize, usize) -> bool,
    ) -> Option<Vec<usize>> {
        self.tried += 1;
        let mismatch = self.first_mismatch(immediate, fits);
        let preferred = self.preferences.last()?;
        let next = self.next_order(preferred, mismatch);
        self.order = match next.filter(|_| self.tried < MAX_ORDERS) {
            Some(order) => order,
            None => {
                self.tried = 0;
                self.preferences.pop();
                self.complete(self.preferences.last()?, Vec::new())
            }
        };
        Some(self.order.clone())
    }

    /// Returns the position of the first call whose outcome, together with those before it, matches
    /// no recorded calls. Skips answers that were waited for, because they may depend on later
    /// calls.
    fn first_mismatch(
        &self,
        immediate: impl Fn(usize) -> bool,
        fits: impl Fn(usize, usize) -> bool,
    ) -> usize {
        let size = self.order.len();
        let fitting: Vec<Vec<usize>> = (0..size)
            .map(|answer| {
                (0..size)
                    .filter(|call| self.classes[*call] == self.classes[answer])
                    .filter(|call| fits(*call, answer))
                    .collect()
            })
            .collect();
        let mut taken = vec![None; size];
        self.order
            .iter()
            .position(|answer| {
                immediate(*answer) && !assign(*answer, &fitting, &mut taken, &mut BTreeSet::new())
            })
            .unwrap_or(size - 1)
    }

    /// Returns the first order that differs from the last one at or before a position.
    fn next_order(&self, preferred: &[usize], position: usize) -> Option<Vec<usize>> {
        (0..=position).rev().find_map(|position| {
            let before = &self.order[..position];
            let candidates = self.candidates(preferred, before);
            let tried = candidates
                .iter()
                .position(|at| *at == self.order[position])?;
            let next = *candidates.get(tried + 1)?;
            Some(self.complete(preferred, [before, &[next]].concat()))
        })
    }

    fn complete(&self, preferred: &[usize], mut order: Vec<usize>) -> Vec<usize> {
        while let Some(next) = self.candidates(preferred, &order).first() {
            order.push(*next);
        }
        order
    }

    /// Returns the calls that may follow these, one of each class.
    fn candidates(&self, preferred: &[usize], before: &[usize]) -> Vec<usize> {
        let mut classes = BTreeSet::new();
        let remaining = preferred.iter().filter(|at| !before.contains(at));
        remaining
            .filter(|at| classes.insert(self.classes[**at]))
            .copied()
            .collect()
    }
}
