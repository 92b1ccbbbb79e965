//! Calls that may have been decided in any order, and the search for the order that explains their
//! outcomes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::recording::{Call, Expected, decision};

/// Calls closer than this, in seconds, may have been decided in any order.
const TOGETHER: f64 = 0.001;
/// Calls of one burst are not further apart than this.
const BURST: f64 = 0.1;
/// Orders that are tried of one group. A burst of twelve needs about a hundred when each answer
/// tells which call was decided before.
const MOST_ORDERS: usize = 1000;

/// What an answer differs in.
pub(crate) type Difference = String;

/// The order in which to decide a group of calls, where it is not that of the recording.
pub(crate) type Orders = BTreeMap<usize, Vec<usize>>;

/// Returns the groups of calls that may have been decided in any order.
pub(crate) fn groups(calls: &[Call]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for at in 0..calls.len() {
        let joins = at > 0 && {
            let gap = calls[at].at - calls[at - 1].at;
            gap < TOGETHER || (gap < BURST && calls[at].burst && calls[at - 1].burst)
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
                Ok(()) => "one answer too few like it".into(),
            };
            differences.push(format!("call {}: {difference}", calls[call].number));
        }
    }
    differences
}

/// Finds a partner for one more, and other partners for those before where necessary.
fn assign(
    one: usize,
    fitting: &[Vec<usize>],
    taken: &mut [Option<usize>],
    seen: &mut BTreeSet<usize>,
) -> bool {
    for &partner in &fitting[one] {
        if !seen.insert(partner) {
            continue;
        }
        let free = match taken[partner] {
            None => true,
            Some(other) => assign(other, fitting, taken, seen),
        };
        if free {
            taken[partner] = Some(one);
            return true;
        }
    }
    false
}

/// A search through the orders of a group, depth first.
///
/// An order is given up at the first call whose outcome no recorded call had: all orders that begin
/// like it are skipped. Of calls with the same request only the first one left is tried at each
/// place, because any of them may get any of their outcomes.
pub(crate) struct Search {
    /// The first call of the group with the same request, for each call.
    classes: Vec<usize>,
    /// Calls by preference, the last one first: as recorded, then those that were rejected before
    /// the others, then by when they were answered. A rejection usually changes nothing, so it is
    /// safe to place it as soon as it fits.
    preferences: Vec<Vec<usize>>,
    order: Vec<usize>,
    tried: usize,
}

impl Search {
    /// Begins with the recorded order.
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
            // Of the first preference only the recorded order itself is tried.
            tried: MOST_ORDERS,
        }
    }

    /// Returns the order to try after the last one, whose answers are known now; `None` when there
    /// is no other. `immediate` says whether a call of the group was answered without waiting, and
    /// `fits` whether a recorded call has the answer of another one.
    pub(crate) fn next(
        &mut self,
        immediate: impl Fn(usize) -> bool,
        fits: impl Fn(usize, usize) -> bool,
    ) -> Option<Vec<usize>> {
        self.tried += 1;
        let wrong = self.wrong_at(immediate, fits);
        let preferred = self.preferences.last()?;
        let next = self.after(preferred, wrong);
        self.order = match next.filter(|_| self.tried < MOST_ORDERS) {
            Some(order) => order,
            None => {
                self.tried = 0;
                self.preferences.pop();
                self.completed(self.preferences.last()?, Vec::new())
            }
        };
        Some(self.order.clone())
    }

    /// The place of the first call whose outcome, with those before it, nothing explains. An answer
    /// that was waited for may depend on calls behind it, so it explains anything.
    fn wrong_at(
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

    /// The first order that differs from the last one at a place, or before it.
    fn after(&self, preferred: &[usize], place: usize) -> Option<Vec<usize>> {
        (0..=place).rev().find_map(|place| {
            let before = &self.order[..place];
            let candidates = self.candidates(preferred, before);
            let tried = candidates.iter().position(|at| *at == self.order[place])?;
            let next = *candidates.get(tried + 1)?;
            Some(self.completed(preferred, [before, &[next]].concat()))
        })
    }

    fn completed(&self, preferred: &[usize], mut order: Vec<usize>) -> Vec<usize> {
        while let Some(next) = self.candidates(preferred, &order).first() {
            order.push(*next);
        }
        order
    }

    /// What may come after these, one of each class.
    fn candidates(&self, preferred: &[usize], before: &[usize]) -> Vec<usize> {
        let mut classes = BTreeSet::new();
        let left = preferred.iter().filter(|at| !before.contains(at));
        left.filter(|at| classes.insert(self.classes[**at]))
            .copied()
            .collect()
    }
}
