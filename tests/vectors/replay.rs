//! Plays a conversation to an engine.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use tower_aperture::PolicyError;
use tower_aperture::engine::{Engine, ManualClock};

use crate::Verdict;
use crate::answer::{Answer, ask};
use crate::compare::Judge;
use crate::policy::{self, Rates};
use crate::recording::{Call, Recording};

/// Rows of the register that the engine refuses at load.
const REFUSED_ROWS: [u64; 4] = [30, 31, 33, 34];
/// Ramp mode: the engine knows no ramps yet, so both ways of it are the same.
const RAMP_MODE_ROW: u64 = 1;
/// Calls closer than this, in seconds, may have been decided in any order.
const TOGETHER: f64 = 0.001;
/// Calls of one burst are not further apart than this.
const BURST: f64 = 0.1;
/// Orders tried of calls that may have been decided in any order.
const MOST_ORDERS: usize = 120;

/// The order in which to decide a group of calls, where it is not that of the recording.
type Orders = BTreeMap<usize, Vec<usize>>;

pub(crate) fn replay(recording: &Recording) -> Verdict {
    let mut kinds = policy::other_kinds(&recording.policies);
    if recording.dynamic {
        kinds.push("dynamic configuration".into());
    }
    let loaded = load(recording);
    let rows = &recording.deviates;
    let all_rows = || {
        let rows: Vec<String> = rows.iter().map(|row| format!("row {row}")).collect();
        rows.join(", ")
    };
    match &loaded {
        Err(error) => {
            let text = error.to_string();
            if let Some(kind) = kinds.iter().find(|kind| text.contains(kind.as_str())) {
                return Verdict::Skipped(kind.clone());
            }
            if rows.iter().any(|row| REFUSED_ROWS.contains(row)) {
                return Verdict::Deviates(format!("{}: refused: {text}", all_rows()));
            }
            return Verdict::Differs(format!("is refused at load: {text}"));
        }
        Ok(_) if rows.iter().any(|row| REFUSED_ROWS.contains(row)) => {
            return Verdict::Differs(format!("{}: must be refused at load", all_rows()));
        }
        Ok(_) => {}
    }
    if let Some(missing) = missing(recording) {
        return Verdict::Skipped(missing);
    }

    let judge = Judge {
        recording,
        rates: Rates::of(&recording.policies),
    };
    if rows.iter().any(|row| *row != RAMP_MODE_ROW) {
        let groups = groups(&recording.calls);
        return match play(recording, &groups, &Orders::new(), |_, _| Ok(())) {
            Ok(()) => Verdict::Deviates(all_rows()),
            Err((_, error)) => Verdict::Differs(error),
        };
    }
    if recording.noisy {
        noisy(recording, &judge)
    } else {
        exact(recording, &judge)
    }
}

/// A call that the engine cannot answer yet.
fn missing(recording: &Recording) -> Option<String> {
    let other = recording.calls.iter().find(|call| {
        !matches!(
            &*call.rpc,
            "check" | "check_http" | "cache_lookup" | "cache_upsert" | "cache_delete"
        )
    });
    other.map(|call| call.rpc.clone())
}

fn exact(recording: &Recording, judge: &Judge<'_>) -> Verdict {
    let groups = groups(&recording.calls);
    let mut orders = Orders::new();
    let mut untried: BTreeMap<usize, Vec<Vec<usize>>> = BTreeMap::new();
    let mut told: BTreeMap<usize, String> = BTreeMap::new();
    loop {
        let result = play(
            recording,
            &groups,
            &orders,
            |calls, reports| match unmatched(judge, calls, reports).into_iter().next() {
                Some(difference) => Err(difference),
                None => Ok(()),
            },
        );
        let Err((group, difference)) = result else {
            return Verdict::Same;
        };
        // What the recorded order comes to says most.
        let told = told.entry(group).or_insert(difference).clone();
        let calls = &recording.calls[groups[group].clone()];
        let other = untried.entry(group).or_insert_with(|| other_orders(calls));
        match other.pop() {
            Some(order) => orders.insert(group, order),
            None => return Verdict::Differs(told),
        };
    }
}

/// Of a recording made on a busy machine, 95 % must agree.
fn noisy(recording: &Recording, judge: &Judge<'_>) -> Verdict {
    let groups = groups(&recording.calls);
    let mut wrong = Vec::new();
    let played = play(recording, &groups, &Orders::new(), |calls, reports| {
        wrong.extend(unmatched(judge, calls, reports));
        Ok(())
    });
    if let Err((_, error)) = played {
        return Verdict::Differs(error);
    }
    match wrong.first() {
        Some(first) if wrong.len() * 20 > recording.calls.len() => Verdict::Differs(format!(
            "{} of {} calls, first {first}",
            wrong.len(),
            recording.calls.len()
        )),
        _ => Verdict::Same,
    }
}

fn load(recording: &Recording) -> Result<(Engine, ManualClock), PolicyError> {
    let clock = ManualClock::new();
    let mut builder = Engine::builder().clock(clock.clone());
    if let Some(group) = &recording.agent_group {
        builder = builder.agent_group(group);
    }
    for (at, text) in recording.policies.iter().enumerate() {
        builder = builder.policy_text(format!("policy-{at}.yaml"), text);
    }
    Ok((builder.build()?, clock))
}

/// Plays all calls, group by group, until the judge finds a difference.
fn play<'r>(
    recording: &'r Recording,
    groups: &[Range<usize>],
    orders: &Orders,
    mut judge: impl FnMut(&[&'r Call], &[Answer]) -> Result<(), String>,
) -> Result<(), (usize, String)> {
    let (engine, clock) = load(recording).map_err(|error| (0, error.to_string()))?;
    for (number, group) in groups.iter().enumerate() {
        let calls: Vec<&Call> = match orders.get(&number) {
            Some(order) => order
                .iter()
                .map(|at| &recording.calls[group.start + at])
                .collect(),
            None => recording.calls[group.clone()].iter().collect(),
        };
        let times = recording.calls[group.clone()].iter().map(|call| call.at);
        let reports: Vec<Answer> = calls
            .iter()
            .zip(times)
            .map(|(call, at)| {
                // The first call of a recording made by hand may come before zero.
                clock.advance_to(Duration::from_secs_f64((at + 1.0).max(0.0)));
                ask(&engine, call)
            })
            .collect();
        judge(&calls, &reports).map_err(|difference| (number, difference))?;
    }
    Ok(())
}

/// Calls that may have been decided in any order, with their neighbours.
fn groups(calls: &[Call]) -> Vec<Range<usize>> {
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

/// The differences of a group, after the best assignment of answers to the same calls.
fn unmatched(judge: &Judge<'_>, calls: &[&Call], reports: &[Answer]) -> Vec<String> {
    let fits: Vec<Vec<usize>> = calls
        .iter()
        .map(|call| {
            (0..reports.len())
                .filter(|at| same_request(call, calls[*at]))
                .filter(|at| judge.compare(call, &reports[*at]).is_ok())
                .collect()
        })
        .collect();
    let mut taken: Vec<Option<usize>> = vec![None; reports.len()];
    let mut unmatched = Vec::new();
    for call in 0..calls.len() {
        if !assign(call, &fits, &mut taken, &mut BTreeSet::new()) {
            let own = judge.compare(calls[call], &reports[call]);
            let difference = own
                .err()
                .unwrap_or_else(|| "one answer too few like it".into());
            let number = calls[call].number;
            unmatched.push(format!("call {number}: {difference}"));
        }
    }
    unmatched
}

fn assign(
    call: usize,
    fits: &[Vec<usize>],
    taken: &mut [Option<usize>],
    seen: &mut BTreeSet<usize>,
) -> bool {
    for &report in &fits[call] {
        if !seen.insert(report) {
            continue;
        }
        let free = match taken[report] {
            None => true,
            Some(other) => assign(other, fits, taken, seen),
        };
        if free {
            taken[report] = Some(call);
            return true;
        }
    }
    false
}

/// Orders that differ in more than which of the same calls comes first; the last one is the
/// nearest to the recording.
fn other_orders(calls: &[Call]) -> Vec<Vec<usize>> {
    // Calls by what they ask, so that the same ones are not told apart.
    let classes: Vec<usize> = calls
        .iter()
        .map(|call| {
            let same = |other: &Call| same_request(call, other);
            calls.iter().position(same).unwrap_or_default()
        })
        .collect();
    let mut orders = Vec::new();
    let mut order = Vec::new();
    extend_orders(&classes, &mut order, &mut orders);
    let recorded: Vec<usize> = (0..calls.len()).collect();
    orders.retain(|order| *order != recorded);
    orders.reverse();
    orders
}

fn extend_orders(classes: &[usize], order: &mut Vec<usize>, orders: &mut Vec<Vec<usize>>) {
    if orders.len() >= MOST_ORDERS {
        return;
    }
    if order.len() == classes.len() {
        orders.push(order.clone());
        return;
    }
    let mut tried = BTreeSet::new();
    for at in 0..classes.len() {
        if !order.contains(&at) && tried.insert(classes[at]) {
            order.push(at);
            extend_orders(classes, order, orders);
            order.pop();
        }
    }
}
