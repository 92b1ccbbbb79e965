//! Plays a conversation to an engine.

use std::collections::BTreeMap;
use std::ops::Range;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde_json::Value;
use tower_aperture::PolicyError;
use tower_aperture::engine::{Actuation, Clock, Engine, ManualClock};

use crate::answer::{self, Answer, Asked, Own, Waiting, ask};
use crate::compare::{Judge, shares};
use crate::loops::{ASKS_PROMETHEUS, Constants, asks_prometheus};
use crate::orders::{Difference, Orders, Search, groups, matching};
#[cfg(feature = "server")]
use crate::over_grpc::Served;
use crate::policy::Rates;
use crate::recording::{Call, Expected, Published, Recording, Told, decision};
use crate::{Verdict, names_unsupported};

/// Rows of the register that the engine refuses at load.
const REFUSED_ROWS: [u64; 4] = [30, 31, 33, 34];
/// Ramp mode: compared with the engine's option to do as the Agent does.
const RAMP_MODE_ROW: u64 = 1;
/// Where the recording's time zero is on our clock: some things are older.
const ORIGIN: f64 = 40.0;
/// How long after the last recorded answer others may come.
const PATIENCE: f64 = 60.0;
/// A sleep of the Agent may have ended as late as that.
const LATEST: f64 = 0.150;
/// How far from the recorded time a queued flow may be answered.
const QUEUED: f64 = 0.012;

/// What the times of a recording are taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timing {
    Recorded,
    /// Sleeps of the Agent ended as late as they did.
    LateSleeps,
    /// The Agent heard of the Controller's decisions when they were made: on a busy machine the
    /// recording has seen one of them later than the Agent has.
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
            if names_unsupported(&text) {
                return Verdict::Refused(text);
            }
            return Verdict::Differs(format!("is refused at load: {text}"));
        }
        Ok(_) if must_be_refused => {
            return Verdict::Differs(format!("{}: must be refused at load", all_rows()));
        }
        // Where the recording holds what the loop published, the loop does not run.
        Ok((engine, _)) if recording.decisions.is_empty() && asks_prometheus(&engine) => {
            return Verdict::Skipped(ASKS_PROMETHEUS.into());
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
        return match play(recording, &groups, &Orders::new(), Timing::Recorded) {
            Ok(_) => Verdict::Deviates(all_rows()),
            Err(error) => Verdict::Differs(error),
        };
    }
    if recording.noisy {
        mostly(recording, &judge, 20)
    } else if recording.compact {
        mostly(recording, &judge, 50)
    } else {
        exact(recording, &judge)
    }
}

/// A call that the engine cannot answer yet.
fn missing(recording: &Recording) -> Option<String> {
    let other = recording.calls.iter().find(|call| {
        !matches!(
            &*call.rpc,
            "check" | "check_http" | "end" | "cache_lookup" | "cache_upsert" | "cache_delete"
        )
    });
    other.map(|call| call.rpc.clone())
}

/// The recorded order first; then others, and sleeps that ended as late as they did.
fn exact(recording: &Recording, judge: &Judge<'_>) -> Verdict {
    let mut first = None;
    for timing in [Timing::Recorded, Timing::LateSleeps] {
        match in_some_order(recording, judge, timing) {
            Ok(()) => return Verdict::Same,
            Err(difference) => first = first.or(Some(difference)),
        }
        if !recording.calls.iter().any(waited) {
            break;
        }
    }
    Verdict::Differs(first.unwrap_or_default())
}

fn in_some_order(recording: &Recording, judge: &Judge<'_>, timing: Timing) -> Result<(), String> {
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
            shares(recording, &answers)?;
            return out_of_order(recording, &times).map_or(Ok(()), Err);
        };
        let group = &groups[number];
        // The difference in the recorded order is the most useful one to report.
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

/// Of a recording made on a busy machine, 95 % must agree; of rows, 98 %.
fn mostly(recording: &Recording, judge: &Judge<'_>, of: usize) -> Verdict {
    let groups = groups(&recording.calls);
    let mut told = None;
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
            Some(first) if wrong.len() * of > recording.calls.len() => {
                let all = recording.calls.len();
                told.get_or_insert(format!("{} of {all} calls, first {first}", wrong.len()));
            }
            _ => match shares(recording, &answers) {
                Ok(()) => return Verdict::Same,
                Err(difference) => {
                    told.get_or_insert(difference);
                }
            },
        }
    }
    Verdict::Differs(told.unwrap_or_default())
}

fn load(recording: &Recording) -> Result<(Engine, ManualClock), PolicyError> {
    let clock = ManualClock::new();
    // A load scheduler learns for 31 seconds from when it is made.
    let first = recording.calls.first().map_or(0.0, |call| call.at);
    let made = recording
        .learned_at
        .map_or(first, |at| (at - 31.0).min(first));
    clock.advance_to(time(made));
    let mut builder = Engine::builder()
        .clock(clock.clone())
        .actuated_by_hand(!recording.decisions.is_empty())
        .signal_source(Constants)
        .upstream_buckets(true)
        .upstream_ramp_mode(recording.deviates.contains(&RAMP_MODE_ROW));
    if let Some(group) = &recording.agent_group {
        builder = builder.agent_group(group);
    }
    for (at, text) in recording.policies.iter().enumerate() {
        builder = builder.policy_text(format!("policy-{at}.yaml"), text);
    }
    Ok((builder.build()?, clock))
}

/// A time of the recording on our clock, which has no times before its origin.
fn time(at: f64) -> Duration {
    Duration::from_secs_f64((at + ORIGIN).max(0.0))
}

/// What the calls of a recording came to, in their order, and when.
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
    engine: Engine,
    #[cfg(feature = "server")]
    served: Option<Served>,
    clock: ManualClock,
    timing: Timing,
    waiting: Vec<(usize, Waiting)>,
    answers: Vec<Option<(Answer, Times)>>,
    published: usize,
}

/// Plays all calls, group by group, and waits for all answers.
fn play(
    recording: &Recording,
    groups: &[Range<usize>],
    orders: &Orders,
    timing: Timing,
) -> Result<Played, String> {
    let (engine, clock) = load(recording).map_err(|error| error.to_string())?;
    let mut player = Player {
        recording,
        #[cfg(feature = "server")]
        served: recording.over_grpc.then(|| Served::start(engine.clone())),
        engine,
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
            player.go_on_to(at);
            player.ask(call);
        }
    }
    let last = recording.calls.iter().map(|call| call.until);
    player.go_on_to(last.fold(0.0, f64::max) + PATIENCE);
    let mut played = Played {
        answers: Vec::new(),
        times: Vec::new(),
    };
    for (call, answer) in player.answers.into_iter().enumerate() {
        let (answer, times) = answer.ok_or_else(|| format!("call {call}: no answer, ever"))?;
        played.answers.push(answer);
        played.times.push(times);
    }
    Ok(played)
}

impl Player<'_> {
    fn ask(&mut self, number: usize) {
        let call = &self.recording.calls[number];
        #[cfg(feature = "server")]
        if let Some(served) = &self.served {
            let answer = self.call(served, call);
            self.answered(number, answer, false);
            return;
        }
        let asked = match &*call.rpc {
            "end" => Asked::Answer(self.end(call)),
            _ => ask(&self.engine, call),
        };
        match asked {
            Asked::Answer(answer) => self.answered(number, answer, false),
            Asked::Waits(starting) => {
                self.waiting.push((number, starting));
                self.poll(|one| one == number, false);
            }
        }
        // Slots that were given back went to somebody.
        self.poll_due();
    }

    fn end(&self, call: &Call) -> Answer {
        let (recorded, own) = self.ended(call);
        answer::end(&self.engine, call, recorded, &own)
    }

    #[cfg(feature = "server")]
    fn call(&self, served: &Served, call: &Call) -> Answer {
        let mut request = call.request.clone();
        if call.rpc == "end" {
            let (recorded, own) = self.ended(call);
            let slots = answer::references(call, recorded, &own);
            for (at, slot) in slots.into_iter().enumerate() {
                request["inflight_requests"][at]["policy_hash"] = slot.policy_hash.into();
                request["inflight_requests"][at]["request_id"] = slot.request_id.into();
            }
        }
        let answer = served.call(&call.rpc, &request, call.deadline);
        Answer::Message(answer.unwrap_or_else(|error| panic!("{}: {error}", call.number)))
    }

    /// The recorded decision that an end is of, and our own.
    fn ended(&self, call: &Call) -> (Option<&Value>, Own) {
        let named = |other: &&Call| other.id.is_some() && other.id == call.of;
        let Some(check) = self.recording.calls.iter().find(named) else {
            return (None, Own::default());
        };
        let position = self
            .recording
            .calls
            .iter()
            .position(|one| one.number == check.number);
        let own = match position.and_then(|at| self.answers[at].as_ref()) {
            Some((Answer::Check(report), _)) => Own::of(report),
            Some((Answer::Http(report), _)) => {
                let report = report.as_ref().as_ref();
                report.map_or_else(|_| Own::default(), |one| Own::of(&one.check))
            }
            #[cfg(feature = "server")]
            Some((Answer::Message(Ok(answer)), _)) => Own::of_message(decision(answer)),
            _ => Own::default(),
        };
        let recorded = match &check.expected {
            Expected::Answer(answer) => Some(decision(answer)),
            _ => None,
        };
        (recorded, own)
    }

    fn answered(&mut self, number: usize, answer: Answer, waited: bool) {
        let until = self.clock.now().as_secs_f64() - ORIGIN;
        self.answers[number] = Some((answer, Times { until, waited }));
    }

    /// Asks those who wait, in the order in which they came.
    fn poll(&mut self, which: impl Fn(usize) -> bool, waited: bool) {
        for (number, mut starting) in std::mem::take(&mut self.waiting) {
            if !which(number) {
                self.waiting.push((number, starting));
                continue;
            }
            let mut context = Context::from_waker(Waker::noop());
            match starting.as_mut().poll(&mut context) {
                Poll::Ready((answer, ticket)) => {
                    ticket.leave_open();
                    self.answered(number, answer, waited);
                }
                Poll::Pending => self.waiting.push((number, starting)),
            }
        }
    }

    /// Those who sleep may be left to sleep as long as the recorded ones did.
    fn poll_due(&mut self) {
        let now = self.clock.now().as_secs_f64() - ORIGIN;
        let calls = &self.recording.calls;
        let late = self.timing == Timing::LateSleeps;
        self.poll(
            |number| {
                let until = calls[number].until;
                !late || until <= now + 1e-6 || until > now + LATEST
            },
            true,
        );
    }

    /// Moves the clock on, and stops wherever something happens on the way.
    fn go_on_to(&mut self, at: f64) {
        loop {
            let now = self.clock.now();
            let alarm = self.clock.next_alarm().filter(|alarm| *alarm > now);
            let publish = self.recording.decisions.get(self.published);
            let publish = publish.map(|one| self.heard_at(one).max(now));
            let leave = self.waiting.iter().filter_map(|(number, _)| {
                let call = &self.recording.calls[*number];
                let left = [call.cancel, call.deadline].into_iter().flatten();
                left.min_by(f64::total_cmp).map(|left| time(call.at + left))
            });
            let leave = leave.min();
            let waker = self
                .waiting
                .iter()
                .map(|(number, _)| time(self.recording.calls[*number].until));
            let late = self.timing == Timing::LateSleeps;
            let woken = waker.filter(|until| late && *until > now).min();
            let next = [alarm, publish, leave, woken].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= time(at)) else {
                break;
            };
            self.clock.advance_to(next);
            self.publish();
            self.poll_due();
            self.leave();
            self.poll_due();
        }
        self.clock.advance_to(time(at));
    }

    /// When the Agent heard of a decision.
    fn heard_at(&self, decision: &Published) -> Duration {
        let at = match self.timing {
            Timing::DecisionsAsMade => decision.made_at.unwrap_or(decision.at),
            _ => decision.at,
        };
        time(at.max(-ORIGIN))
    }

    fn publish(&mut self) {
        let now = self.clock.now();
        while let Some(one) = self.recording.decisions.get(self.published)
            && self.heard_at(one) <= now
        {
            let actuation = match one.told {
                Told::AcceptPercentage(percentage) => Actuation::AcceptPercentage(percentage),
                Told::Load(load_multiplier, pass_through, valid_until) => Actuation::Load {
                    load_multiplier,
                    pass_through,
                    valid_until: valid_until.map(time),
                },
            };
            assert!(
                self.engine.actuate(&one.component, actuation),
                "there is no {}",
                one.component
            );
            self.published += 1;
        }
    }

    /// Clients give up.
    fn leave(&mut self) {
        let now = self.clock.now();
        for (number, starting) in std::mem::take(&mut self.waiting) {
            let call = &self.recording.calls[number];
            let left = [call.cancel, call.deadline].into_iter().flatten();
            let gone = left
                .min_by(f64::total_cmp)
                .is_some_and(|left| time(call.at + left) <= now);
            if gone {
                drop(starting);
                self.answered(number, Answer::Left, true);
            } else {
                self.waiting.push((number, starting));
            }
        }
    }
}

/// No flow was left waiting.
#[cfg(feature = "server")]
pub(crate) fn nobody_waits(recording: &Recording) -> bool {
    let gone = |call: &Call| call.cancel.is_some();
    !recording
        .calls
        .iter()
        .any(|call| waited(call) || gone(call))
}

/// A scheduler of the Agent made it wait.
fn waited(call: &Call) -> bool {
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
    queued && call.until - call.at > QUEUED
}

/// Those who waited were answered in the recorded order.
fn out_of_order(recording: &Recording, times: &[Times]) -> Option<String> {
    let calls: Vec<(&Call, &Times)> = recording
        .calls
        .iter()
        .zip(times)
        .filter(|(call, times)| times.waited && waited(call) && call.deviates.is_empty())
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

/// Compares an answer of the engine, and when it came, with a recorded call.
fn fits(judge: &Judge<'_>, call: &Call, answer: &Answer, times: Times) -> Result<(), String> {
    judge.compare(call, answer)?;
    let Times { until, waited: own } = times;
    let off = until - call.until;
    let free = call.cancel.is_some() || !call.deviates.is_empty() || call.noisy;
    // Where its deadline passed first, `until` is the client's: the flow was refused before that.
    let gave_up = matches!(call.expected, Expected::Error(_)) && off < 0.0;
    if (own || waited(call)) && !free && !gave_up && off.abs() > QUEUED {
        return Err(format!("until: expected {}, got {until}", call.until));
    }
    Ok(())
}
