//! Replays a conversation with an engine, and compares its answers and their times.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aperture_redis::Redis;
use serde_json::Value;
use tower_aperture::PolicyError;
use tower_aperture::engine::{Actuation, Clock, Engine, ManualClock, Shared};

use crate::answer::{self, Answer, EngineIds, PendingAnswer, StartedCall};
use crate::compare::{Judge, compare_shares};
use crate::loops::{Constants, QUERIES_PROMETHEUS, queries_prometheus};
use crate::orders::{Difference, Orders, Search, groups, matching};
use crate::over_grpc::Served;
use crate::policies::REFUSED_ROWS;
use crate::policy::Rates;
use crate::recording::{Call, Expected, Published, PublishedValue, Recording, decision};
use crate::{Verdict, is_unsupported};

/// The row about ramp mode. Its recordings are replayed with the engine option that follows the
/// Agent.
const RAMP_MODE_ROW: u64 = 1;
/// Time zero of the recording on the engine's clock, in seconds, because some recorded events are
/// earlier.
const ORIGIN: f64 = 40.0;
/// How long to wait for answers after the last recorded one, in seconds.
const MAX_WAIT: f64 = 60.0;
/// How late a sleep of the Agent may have ended, in seconds.
const LATEST_WAKE: f64 = 0.150;
/// How far from the recorded time a queued flow may be answered, in seconds.
const QUEUE_TOLERANCE: f64 = 0.012;

/// How the replay interprets the times of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timing {
    Recorded,
    /// Sleeps of the Agent may have ended late, so queued flows wake at the recorded times.
    LateSleeps,
    /// The Agent received the Controller's decisions when they were made. On a busy machine the
    /// recording may have seen a decision after the Agent received it.
    DecisionsAsMade,
}

pub(crate) fn replay(recording: &Recording) -> Verdict {
    let rows = &recording.deviates;
    let all_rows = || {
        let rows: Vec<String> = rows.iter().map(|row| format!("row {row}")).collect();
        rows.join(", ")
    };
    let must_be_refused = rows.iter().any(|row| REFUSED_ROWS.contains(row));
    match load(recording) {
        Err(error) => {
            let text = error.to_string();
            if must_be_refused {
                return Verdict::Deviates(format!("{}: refused: {text}", all_rows()));
            }
            if is_unsupported(&text) {
                return Verdict::Refused(text);
            }
            return Verdict::Differs(format!("is refused at load: {text}"));
        }
        Ok(_) if must_be_refused => {
            return Verdict::Differs(format!("{}: must be refused at load", all_rows()));
        }
        // The loop does not run if the recording has the decisions that it published.
        Ok((engine, _)) if recording.decisions.is_empty() && queries_prometheus(&engine) => {
            return Verdict::Skipped(QUERIES_PROMETHEUS.into());
        }
        Ok(_) => {}
    }
    if let Some(call) = unsupported_call(recording) {
        return Verdict::Skipped(call);
    }

    let judge = Judge {
        recording,
        rates: Rates::of(&recording.policies),
    };
    if rows.iter().any(|row| *row != RAMP_MODE_ROW) {
        let groups = groups(&recording.calls);
        return match play(recording, &groups, &Orders::new(), Timing::Recorded) {
            Ok(_) => Verdict::Deviates(all_rows()),
            Err(error) => Verdict::Differs(error),
        };
    }
    if recording.noisy {
        match_most(recording, &judge, 20)
    } else if recording.compact {
        match_most(recording, &judge, 50)
    } else {
        match_all(recording, &judge)
    }
}

/// Returns the name of a call that the replay does not support.
fn unsupported_call(recording: &Recording) -> Option<String> {
    let other = recording.calls.iter().find(|call| {
        !matches!(
            &*call.rpc,
            "check" | "check_http" | "end" | "cache_lookup" | "cache_upsert" | "cache_delete"
        )
    });
    other.map(|call| call.rpc.clone())
}

/// Replays a recording until all answers agree: in the recorded order, then in other orders, then
/// with late sleeps.
fn match_all(recording: &Recording, judge: &Judge<'_>) -> Verdict {
    let mut first = None;
    for timing in [Timing::Recorded, Timing::LateSleeps] {
        match match_in_some_order(recording, judge, timing) {
            Ok(()) => return Verdict::Same,
            Err(difference) => first = first.or(Some(difference)),
        }
        if !recording.calls.iter().any(was_queued) {
            break;
        }
    }
    Verdict::Differs(first.unwrap_or_default())
}

fn match_in_some_order(
    recording: &Recording,
    judge: &Judge<'_>,
    timing: Timing,
) -> Result<(), String> {
    let groups = groups(&recording.calls);
    let mut orders = Orders::new();
    let mut searches: BTreeMap<usize, (Search, Difference)> = BTreeMap::new();
    loop {
        let Played { answers, times } = play(recording, &groups, &orders, timing)?;
        let fits = |call: usize, answer: usize| {
            let (call, times) = (&recording.calls[call], times[answer]);
            fits(judge, call, &answers[answer], times)
        };
        let wrong = groups.iter().enumerate().find_map(|(number, group)| {
            let differences = matching(&recording.calls, group, fits);
            Some((number, differences.into_iter().next()?))
        });
        let Some((number, difference)) = wrong else {
            compare_shares(recording, &answers)?;
            return compare_queue_order(recording, &times).map_or(Ok(()), Err);
        };
        let group = &groups[number];
        // Report the difference of the recorded order, which is the most useful one.
        let (search, reported) = searches
            .entry(number)
            .or_insert_with(|| (Search::new(&recording.calls[group.clone()]), difference));
        let immediate = |at: usize| !times[group.start + at].waited;
        match search.next(immediate, |call, answer| {
            fits(group.start + call, group.start + answer).is_ok()
        }) {
            Some(order) => orders.insert(number, order),
            None => return Err(reported.clone()),
        };
    }
}

/// Replays a recording in which some answers may differ: at most one of `one_in` calls.
fn match_most(recording: &Recording, judge: &Judge<'_>, one_in: usize) -> Verdict {
    let groups = groups(&recording.calls);
    let mut first_problem = None;
    for timing in [
        Timing::Recorded,
        Timing::LateSleeps,
        Timing::DecisionsAsMade,
    ] {
        let Played { answers, times } = match play(recording, &groups, &Orders::new(), timing) {
            Ok(played) => played,
            Err(error) => return Verdict::Differs(error),
        };
        let wrong: Vec<String> = groups
            .iter()
            .flat_map(|group| {
                matching(&recording.calls, group, |call, answer| {
                    let (call, times) = (&recording.calls[call], times[answer]);
                    fits(judge, call, &answers[answer], times)
                })
            })
            .collect();
        match wrong.first() {
            Some(first) if wrong.len() * one_in > recording.calls.len() => {
                let all = recording.calls.len();
                first_problem
                    .get_or_insert(format!("{} of {all} calls, first {first}", wrong.len()));
            }
            _ => match compare_shares(recording, &answers) {
                Ok(()) => return Verdict::Same,
                Err(difference) => {
                    first_problem.get_or_insert(difference);
                }
            },
        }
    }
    Verdict::Differs(first_problem.unwrap_or_default())
}

fn load(recording: &Recording) -> Result<(Engine<Shared>, ManualClock), PolicyError> {
    let clock = ManualClock::new();
    // A new load scheduler measures the demand for 31 seconds.
    let first = recording.calls.first().map_or(0.0, |call| call.at);
    let created = recording
        .learned_at
        .map_or(first, |at| (at - 31.0).min(first));
    clock.advance_to(to_clock(created));
    let builder = Engine::builder()
        .clock(clock.clone())
        .actuated_by_hand(!recording.decisions.is_empty())
        .signal_source(Constants)
        .upstream_buckets(true)
        .upstream_ramp_mode(recording.deviates.contains(&RAMP_MODE_ROW));
    let mut builder = match &recording.shared {
        Some(url) => builder.shared(store(url, &clock)),
        None => builder.into(),
    };
    if let Some(group) = &recording.agent_group {
        builder = builder.agent_group(group);
    }
    for (at, text) in recording.policies.iter().enumerate() {
        builder = builder.policy_text(format!("policy-{at}.yaml"), text);
    }
    Ok((builder.build()?, clock))
}

/// Returns a store whose keys no other replay has.
fn store(url: &str, clock: &ManualClock) -> Redis {
    static REPLAYS: AtomicU64 = AtomicU64::new(0);
    let number = REPLAYS.fetch_add(1, Ordering::Relaxed);
    Redis::builder(url)
        .prefix(format!("replay-{number}"))
        .clock(Arc::new(clock.clone()))
        .deadline(Duration::from_secs(10))
        .build()
        .expect("valid settings")
}

/// Converts a time of the recording to the engine's clock, which has no times before its origin.
fn to_clock(at: f64) -> Duration {
    Duration::from_secs_f64((at + ORIGIN).max(0.0))
}

/// The answers to the calls of a recording and their times, in the order of the calls.
struct Played {
    answers: Vec<Answer>,
    times: Vec<Times>,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    until: f64,
    waited: bool,
}

struct Player<'r> {
    recording: &'r Recording,
    engine: Engine<Shared>,
    served: Option<Served>,
    /// Waits for the replies of a shared store.
    store_replies: tokio::runtime::Runtime,
    clock: ManualClock,
    timing: Timing,
    waiting: Vec<(usize, PendingAnswer)>,
    answers: Vec<Option<(Answer, Times)>>,
    published: usize,
}

/// Sends all calls, group by group, and waits for all answers.
fn play(
    recording: &Recording,
    groups: &[Range<usize>],
    orders: &Orders,
    timing: Timing,
) -> Result<Played, String> {
    let (engine, clock) = load(recording).map_err(|error| error.to_string())?;
    let mut player = Player {
        recording,
        served: recording.over_grpc.then(|| Served::start(engine.clone())),
        engine,
        store_replies: tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| error.to_string())?,
        clock,
        timing,
        waiting: Vec::new(),
        answers: recording.calls.iter().map(|_| None).collect(),
        published: 0,
    };
    for (number, group) in groups.iter().enumerate() {
        let calls: Vec<usize> = match orders.get(&number) {
            Some(order) => order.iter().map(|at| group.start + at).collect(),
            None => group.clone().collect(),
        };
        let times = recording.calls[group.clone()].iter().map(|call| call.at);
        for (call, at) in calls.into_iter().zip(times) {
            player.advance_to(at);
            player.start(call);
        }
    }
    let last = recording.calls.iter().map(|call| call.until);
    player.advance_to(last.fold(0.0, f64::max) + MAX_WAIT);
    let mut played = Played {
        answers: Vec::new(),
        times: Vec::new(),
    };
    for (call, answer) in player.answers.into_iter().enumerate() {
        let (answer, times) =
            answer.ok_or_else(|| format!("call {call}: no answer before the end of the replay"))?;
        played.answers.push(answer);
        played.times.push(times);
    }
    Ok(played)
}

impl Player<'_> {
    fn start(&mut self, number: usize) {
        let call = &self.recording.calls[number];
        if let Some(served) = &self.served {
            let answer = self.call(served, call);
            self.record_answer(number, answer, false);
            return;
        }
        let started = match &*call.rpc {
            "end" => StartedCall::Answer(self.end(call)),
            _ => answer::start(&self.engine, call),
        };
        match started {
            StartedCall::Answer(answer) => self.record_answer(number, answer, false),
            StartedCall::Pending(pending) if self.recording.shared.is_some() => {
                // The clock stands still meanwhile.
                let (answer, ticket) = self.store_replies.block_on(pending);
                ticket.leave_open();
                self.record_answer(number, answer, false);
            }
            StartedCall::Pending(pending) => {
                self.waiting.push((number, pending));
                self.poll(|one| one == number, false);
            }
        }
        // A returned slot may have gone to a waiting flow.
        self.poll_due();
    }

    fn end(&self, call: &Call) -> Answer {
        let (recorded, own) = self.ended_check(call);
        answer::end(&self.engine, call, recorded, &own)
    }
    fn call(&self, served: &Served, call: &Call) -> Answer {
        let mut request = call.request.clone();
        if call.rpc == "end" {
            let (recorded, own) = self.ended_check(call);
            let slots = answer::references(call, recorded, &own);
            for (at, slot) in slots.into_iter().enumerate() {
                request["inflight_requests"][at]["policy_hash"] = slot.policy_hash.into();
                request["inflight_requests"][at]["request_id"] = slot.request_id.into();
            }
        }
        let answer = served.call(&call.rpc, &request, call.deadline);
        Answer::Message(answer.unwrap_or_else(|error| panic!("{}: {error}", call.number)))
    }

    /// Returns the recorded check response of the flow that a call ends, and the engine's ids.
    fn ended_check(&self, call: &Call) -> (Option<&Value>, EngineIds) {
        let named = |other: &&Call| other.id.is_some() && other.id == call.of;
        let Some(check) = self.recording.calls.iter().find(named) else {
            return (None, EngineIds::default());
        };
        let position = self
            .recording
            .calls
            .iter()
            .position(|one| one.number == check.number);
        let own = match position.and_then(|at| self.answers[at].as_ref()) {
            Some((Answer::Check(report), _)) => EngineIds::of(report),
            Some((Answer::Http(report), _)) => {
                let report = report.as_ref().as_ref();
                report.map_or_else(|_| EngineIds::default(), |one| EngineIds::of(&one.check))
            }
            Some((Answer::Message(Ok(answer)), _)) => EngineIds::of_message(decision(answer)),
            _ => EngineIds::default(),
        };
        let recorded = match &check.expected {
            Expected::Answer(answer) => Some(decision(answer)),
            _ => None,
        };
        (recorded, own)
    }

    fn record_answer(&mut self, number: usize, answer: Answer, waited: bool) {
        let until = self.clock.now().as_secs_f64() - ORIGIN;
        self.answers[number] = Some((answer, Times { until, waited }));
    }

    /// Polls the selected waiting calls, in the order in which they started.
    fn poll(&mut self, selects: impl Fn(usize) -> bool, waited: bool) {
        for (number, mut pending) in std::mem::take(&mut self.waiting) {
            if !selects(number) {
                self.waiting.push((number, pending));
                continue;
            }
            let mut context = Context::from_waker(Waker::noop());
            match pending.as_mut().poll(&mut context) {
                Poll::Ready((answer, ticket)) => {
                    ticket.leave_open();
                    self.record_answer(number, answer, waited);
                }
                Poll::Pending => self.waiting.push((number, pending)),
            }
        }
    }

    /// Polls all waiting calls. With late sleeps, each one sleeps as long as the recorded call did.
    fn poll_due(&mut self) {
        let now = self.clock.now().as_secs_f64() - ORIGIN;
        let calls = &self.recording.calls;
        let late = self.timing == Timing::LateSleeps;
        self.poll(
            |number| {
                let until = calls[number].until;
                !late || until <= now + 1e-6 || until > now + LATEST_WAKE
            },
            true,
        );
    }

    /// Advances the clock to a time, and stops at each event before it.
    fn advance_to(&mut self, at: f64) {
        loop {
            let now = self.clock.now();
            let alarm = self.clock.next_alarm().filter(|alarm| *alarm > now);
            let publish = self.recording.decisions.get(self.published);
            let publish = publish.map(|one| self.received_at(one).max(now));
            let give_up = self.waiting.iter().filter_map(|(number, _)| {
                let call = &self.recording.calls[*number];
                let limits = [call.cancel, call.deadline].into_iter().flatten();
                limits
                    .min_by(f64::total_cmp)
                    .map(|limit| to_clock(call.at + limit))
            });
            let give_up = give_up.min();
            let wake_times = self
                .waiting
                .iter()
                .map(|(number, _)| to_clock(self.recording.calls[*number].until));
            let late = self.timing == Timing::LateSleeps;
            let wake = wake_times.filter(|until| late && *until > now).min();
            let next = [alarm, publish, give_up, wake].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= to_clock(at)) else {
                break;
            };
            self.clock.advance_to(next);
            self.publish();
            self.poll_due();
            self.give_up();
            self.poll_due();
        }
        self.clock.advance_to(to_clock(at));
    }

    /// Returns when the Agent received a decision.
    fn received_at(&self, decision: &Published) -> Duration {
        let at = match self.timing {
            Timing::DecisionsAsMade => decision.made_at.unwrap_or(decision.at),
            _ => decision.at,
        };
        to_clock(at.max(-ORIGIN))
    }

    fn publish(&mut self) {
        let now = self.clock.now();
        while let Some(one) = self.recording.decisions.get(self.published)
            && self.received_at(one) <= now
        {
            let actuation = match one.value {
                PublishedValue::AcceptPercentage(percentage) => {
                    Actuation::AcceptPercentage(percentage)
                }
                PublishedValue::Load(load_multiplier, pass_through, valid_until) => {
                    Actuation::Load {
                        load_multiplier,
                        pass_through,
                        valid_until: valid_until.map(to_clock),
                    }
                }
            };
            assert!(
                self.engine.actuate(&one.component, actuation),
                "the engine has no component {}",
                one.component
            );
            self.published += 1;
        }
    }

    /// Drops the calls whose clients have given up.
    fn give_up(&mut self) {
        let now = self.clock.now();
        for (number, pending) in std::mem::take(&mut self.waiting) {
            let call = &self.recording.calls[number];
            let limits = [call.cancel, call.deadline].into_iter().flatten();
            let gave_up = limits
                .min_by(f64::total_cmp)
                .is_some_and(|limit| to_clock(call.at + limit) <= now);
            if gave_up {
                drop(pending);
                self.record_answer(number, Answer::GaveUp, true);
            } else {
                self.waiting.push((number, pending));
            }
        }
    }
}

/// Returns whether no recorded flow was queued, and no call was cancelled.
pub(crate) fn no_flow_waits(recording: &Recording) -> bool {
    let cancelled = |call: &Call| call.cancel.is_some();
    !recording
        .calls
        .iter()
        .any(|call| was_queued(call) || cancelled(call))
}

/// Returns whether a scheduler of the Agent queued the flow.
fn was_queued(call: &Call) -> bool {
    let queued = match &call.expected {
        Expected::Answer(answer) => decision(answer)["limiter_decisions"]
            .as_array()
            .is_some_and(|all| {
                all.iter().any(|decision| {
                    let kinds = ["quota", "concurrency", "load"];
                    kinds
                        .iter()
                        .any(|kind| decision.get(format!("{kind}_scheduler_info")).is_some())
                })
            }),
        Expected::Row(..) => true,
        Expected::Error(_) => false,
    };
    queued && call.until - call.at > QUEUE_TOLERANCE
}

/// Returns the first difference in the order in which queued flows were answered.
fn compare_queue_order(recording: &Recording, times: &[Times]) -> Option<String> {
    let calls: Vec<(&Call, &Times)> = recording
        .calls
        .iter()
        .zip(times)
        .filter(|(call, times)| times.waited && was_queued(call) && call.deviates.is_empty())
        .collect();
    for (first, own_first) in &calls {
        for (second, own_second) in &calls {
            if first.until + 0.002 <= second.until && own_first.until > own_second.until + 1e-6 {
                return Some(format!(
                    "call {} was answered before call {}",
                    second.number, first.number
                ));
            }
        }
    }
    None
}

/// Compares an answer of the engine and its time with a recorded call.
fn fits(judge: &Judge<'_>, call: &Call, answer: &Answer, times: Times) -> Result<(), String> {
    judge.compare(call, answer)?;
    let Times { until, waited } = times;
    let offset = until - call.until;
    let any_time = call.cancel.is_some() || !call.deviates.is_empty() || call.noisy;
    // If the deadline passed first, `until` is when the client gave up, and the engine may have
    // rejected the flow before that.
    let gave_up = matches!(call.expected, Expected::Error(_)) && offset < 0.0;
    if (waited || was_queued(call)) && !any_time && !gave_up && offset.abs() > QUEUE_TOLERANCE {
        return Err(format!("until: expected {}, got {until}", call.until));
    }
    Ok(())
}
