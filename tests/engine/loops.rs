//! Signals that change: circuits over what the engine measures, and over what it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tower_aperture::engine::{
    CheckInput, Engine, EngineBuilder, LimiterDetails, LoopOutput, ManualClock, PendingReport,
    SignalSource,
};
use tower_aperture::{
    Check, Decider, FlowOutcome, FlowParams, FlowStatus, RejectReason, Ticket, Verdict,
};

use crate::queues::{Alarm, now, poll, poll_with, start, start_within};
use crate::support::*;

/// A source that answers `load`.
#[derive(Clone, Debug, Default)]
struct Load(Arc<AtomicU64>);

impl Load {
    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl SignalSource for Load {
    fn latest(&self, query: &str) -> Option<f64> {
        (query == "load").then(|| f64::from_bits(self.0.load(Ordering::Relaxed)))
    }
}

/// A bucket whose capacity falls to 1 when the load is above 10.
const BY_LOAD: &str = "
circuit:
  components:
  - query:
      promql: {query_string: load, evaluation_interval: 1s, out_ports: {output: {signal_name: LOAD}}}
  - decider:
      in_ports: {lhs: {signal_name: LOAD}, rhs: {constant_signal: {value: 10}}}
      operator: gt
      out_ports: {output: {signal_name: HIGH}}
  - switcher:
      in_ports:
        switch: {signal_name: HIGH}
        on_signal: {constant_signal: {value: 1}}
        off_signal: {constant_signal: {value: 3}}
      out_ports: {output: {signal_name: CAPACITY}}
  - flow_control:
      rate_limiter:
        selectors: [{control_point: here}]
        in_ports: {bucket_capacity: {signal_name: CAPACITY}, fill_amount: {constant_signal: {value: 100}}}
        parameters: {interval: 1s}
";

fn clocked(builder: EngineBuilder) -> (Engine, ManualClock) {
    let clock = ManualClock::new();
    let engine = builder.clock(clock.clone()).build();
    (engine.expect("the policy is right"), clock)
}

fn burst(engine: &Engine) -> usize {
    (0..10).filter(|_| check(engine, &[]).accepted()).count()
}

#[test]
fn a_bucket_follows_the_signal_of_a_source() {
    let load = Load::default();
    let builder = Engine::builder().policy_text("p.yaml", BY_LOAD);
    let (engine, clock) = clocked(builder.signal_source(load.clone()));
    assert_eq!(burst(&engine), 3);
    load.set(11.0);
    clock.advance(secs(1.0));
    assert_eq!(burst(&engine), 1);
    load.set(1.0);
    // Not before the next tick.
    clock.advance(secs(0.9));
    assert_eq!(burst(&engine), 1);
    clock.advance(secs(0.1));
    assert_eq!(
        engine.control_loops()[0].output,
        Some(LoopOutput::Bucket {
            bucket_capacity: 3.0,
            fill_amount: 100.0
        })
    );
    clock.advance(secs(0.5));
    assert_eq!(burst(&engine), 3);
}

#[test]
fn without_a_source_a_query_is_refused_by_line_component_and_text() {
    let error = Engine::builder()
        .policy_text("p.yaml", BY_LOAD)
        .build()
        .expect_err("nobody answers the query");
    let text = error.to_string();
    assert!(text.starts_with("p.yaml:5:"), "{text}");
    assert!(
        text.contains("`root.0`") && text.contains("`load`"),
        "{text}"
    );
}

#[test]
fn a_query_that_decides_nothing_needs_no_source() {
    let text = "
circuit:
  components:
  - query:
      promql: {query_string: load, evaluation_interval: 1s, out_ports: {output: {signal_name: LOAD}}}
  - alerter: {in_ports: {signal: {signal_name: LOAD}}, parameters: {alert_name: loaded}}
";
    let engine = Engine::builder().policy_text("p.yaml", text).build();
    assert!(
        engine
            .expect("nothing depends on it")
            .control_loops()
            .is_empty()
    );
}

const PROTECTED: &str = "
blueprint: load-scheduling/average-latency
policy:
  policy_name: protected
  load_scheduling_core:
    aimd_load_scheduler:
      load_scheduler: {selectors: [{control_point: here}]}
      load_multiplier_linear_increment: 0.2
      gradient: {slope: -1}
      alerter: {alert_name: overload}
  latency_baseliner:
    flux_meter: {selectors: [{control_point: here}]}
";

/// Ten flows a second, one after the other, that take so long; how many were let in.
fn second(engine: &Engine, clock: &ManualClock, took: Duration) -> usize {
    // No time to queue, so that nobody has to wait.
    let params = FlowParams::new().check_timeout(Duration::from_millis(11));
    let mut accepted = 0;
    for _ in 0..10 {
        match engine.decide(HERE, &params) {
            Check::Ready(Verdict::Accepted(ticket)) => {
                accepted += 1;
                clock.advance(took);
                ticket.end(FlowOutcome::new(FlowStatus::Ok));
                clock.advance(Duration::from_millis(100) - took);
            }
            Check::Ready(Verdict::Rejected(denial, ticket)) => {
                assert_eq!(denial.reason, RejectReason::NoTokens);
                ticket.end(FlowOutcome::new(FlowStatus::Unset));
                clock.advance(Duration::from_millis(100));
            }
            Check::Ready(Verdict::Unreachable(error)) => panic!("{error}"),
            // Given up at once.
            Check::Pending(_) => clock.advance(Duration::from_millis(100)),
        }
    }
    accepted
}

#[test]
fn average_latency_sheds_and_recovers_without_any_source() {
    let builder = Engine::builder().policy_text("p.yaml", PROTECTED);
    let (engine, clock) = clocked(builder);
    let millis = Duration::from_millis;
    let calm: usize = (0..120).map(|_| second(&engine, &clock, millis(10))).sum();
    assert_eq!(calm, 1200);
    let slow: Vec<usize> = (0..60)
        .map(|_| second(&engine, &clock, millis(80)))
        .collect();
    let shed: usize = slow[30..].iter().sum();
    assert!(shed < 150, "half at most is let in: {slow:?}");
    let recovery: Vec<usize> = (0..180)
        .map(|_| second(&engine, &clock, millis(10)))
        .collect();
    let recovered: usize = recovery[150..].iter().sum();
    assert_eq!(recovered, 300, "{recovery:?}");
}

#[test]
fn a_loop_that_did_not_change_goes_on_through_a_reload() {
    let load = Load::default();
    let ramp = |interval: u32| {
        format!(
            "
blueprint: load-ramping/base
policy:
  policy_name: ramp
  start: true
  load_ramp:
    sampler: {{selectors: [{{control_point: here}}]}}
    steps:
    - {{target_accept_percentage: 0, duration: 1s}}
    - {{target_accept_percentage: 100, duration: {interval}s}}
"
        )
    };
    let builder = Engine::builder().policy_text("ramp.yaml", ramp(100));
    let (engine, clock) = clocked(builder.signal_source(load));
    let percentage = || engine.control_loops()[0].output;
    clock.advance(secs(50.0));
    assert_eq!(percentage(), Some(LoopOutput::AcceptPercentage(50.0)));

    // The selector is no part of it.
    let moved = ramp(100).replace("control_point: here", "control_point: there");
    engine
        .reload_with([("ramp.yaml", moved), ("p.yaml", BY_LOAD.to_owned())])
        .expect("the policies are right");
    clock.advance(secs(10.0));
    assert_eq!(percentage(), Some(LoopOutput::AcceptPercentage(60.0)));

    engine
        .reload_with([("ramp.yaml", ramp(200))])
        .expect("the policy is right");
    assert_eq!(percentage(), Some(LoopOutput::AcceptPercentage(0.0)));
    clock.advance(secs(100.0));
    assert_eq!(percentage(), Some(LoopOutput::AcceptPercentage(50.0)));
}

#[test]
fn tokens_follow_the_latency_of_workloads() {
    let text = "
circuit:
  components:
  - flow_control:
      load_scheduler:
        in_ports: {load_multiplier: {constant_signal: {value: 1}}}
        parameters:
          selectors: [{control_point: here}]
          workload_latency_based_tokens: true
          scheduler: {workload_label_key: kind}
";
    let (engine, clock) = clocked(Engine::builder().policy_text("p.yaml", text));
    let tokens = |kind: &'static str| {
        let params = FlowParams::new().label("kind", kind);
        let report = engine.check(&CheckInput::new(HERE, &params));
        match &of(&report, "root.0").details {
            LimiterDetails::LoadScheduler { scheduler } => {
                scheduler.tokens.map_or(0.0, |tokens| tokens.consumed)
            }
            other => panic!("not a load scheduler: {other:?}"),
        }
    };
    for (kind, millis) in [("slow", 300), ("slow", 100), ("fast", 5)] {
        let params = FlowParams::new().label("kind", kind);
        let Check::Ready(Verdict::Accepted(ticket)) = engine.decide(HERE, &params) else {
            panic!("it is still learning");
        };
        clock.advance(Duration::from_millis(millis));
        ticket.end(FlowOutcome::new(FlowStatus::Ok));
    }
    assert_eq!((tokens("slow"), tokens("fast")), (1.0, 1.0));
    clock.advance(secs(10.0));
    assert_eq!(
        (tokens("slow"), tokens("fast"), tokens("new")),
        (200.0, 5.0, 1.0)
    );
}

/// With time to queue, which a dry run does not let anybody do.
#[test]
fn a_loop_in_a_dry_run_sheds_in_its_books_and_nowhere_else() {
    let builder = Engine::builder().policy_text("p.yaml", PROTECTED);
    let (engine, clock) = clocked(builder.dry_run("protected"));
    let second = |took: u64| {
        let params = FlowParams::new().check_timeout(secs(1.0));
        for _ in 0..10 {
            let Check::Ready(Verdict::Accepted(ticket)) = engine.decide(HERE, &params) else {
                panic!("it is let in, at once");
            };
            clock.advance(Duration::from_millis(took));
            ticket.end(FlowOutcome::new(FlowStatus::Ok));
            clock.advance(Duration::from_millis(100 - took));
        }
    };
    (0..120).for_each(|_| second(10));
    assert_eq!(engine.stats().dry_run_rejections, 0);
    (0..60).for_each(|_| second(80));
    assert!(engine.stats().dry_run_rejections > 0);
    let Some(LoopOutput::LoadMultiplier {
        load_multiplier, ..
    }) = engine.control_loops()[0].output
    else {
        panic!("a load scheduler")
    };
    assert!(
        load_multiplier < 0.3,
        "what it turned away counts: {load_multiplier}"
    );
}

/// As many slots as the load says.
const SLOTS_BY_LOAD: &str = "
circuit:
  components:
  - query:
      promql: {query_string: load, evaluation_interval: 1s, out_ports: {output: {signal_name: LOAD}}}
  - flow_control:
      concurrency_scheduler:
        selectors: [{control_point: here}]
        in_ports: {max_concurrency: {signal_name: LOAD}}
        concurrency_limiter: {max_inflight_duration: 60s}
        scheduler: {default_workload_parameters: {queue_timeout: 60s}}
";

#[test]
fn a_higher_limit_wakes_as_many_as_it_has_room_for() {
    let load = Load::default();
    load.set(1.0);
    let builder = Engine::builder().policy_text("p.yaml", SLOTS_BY_LOAD);
    let (engine, clock) = clocked(builder.signal_source(load.clone()));
    let (_, _first) = now(start(&engine, &[]));
    let alarms: [Arc<Alarm>; 3] = Default::default();
    let mut waiting = alarms.each_ref().map(|alarm| {
        let mut starting = start(&engine, &[]);
        assert!(poll_with(&mut starting, &Arc::clone(alarm).into()).is_none());
        starting
    });
    load.set(3.0);
    clock.advance(secs(1.0));
    let before = alarms.each_ref().map(|alarm| alarm.rung());
    // Some flow that has nothing to do with it.
    let elsewhere = params(&[]);
    assert!(
        engine
            .check(&CheckInput::new("there", &elsewhere))
            .accepted()
    );
    let woken = alarms
        .iter()
        .zip(before)
        .map(|(alarm, before)| alarm.rung() - before);
    assert!(woken.take(2).all(|woken| woken > 0));
    let answers = waiting.each_mut().map(poll);
    let [second, third, fourth] = answers.each_ref().map(Option::is_some);
    assert!(second && third && !fourth);
}

/// A loop that cuts by how far the signal is off, and what it cuts.
fn cutting(signal: &str, more: &str) -> String {
    format!(
        "
circuit:
  components:
  - query: {{promql: {{query_string: load, out_ports: {{output: {{signal_name: LOAD}}}}}}}}
  - flow_control:
      {signal}:
        in_ports: {{signal: {{signal_name: LOAD}}, setpoint: {{constant_signal: {{value: 1}}}}}}
        parameters:
          load_scheduler: {{selectors: [{{control_point: here}}], scheduler: {{tokens_label_key: tokens}}}}
          alerter: {{alert_name: overload}}
          {more}
"
    )
}

fn multiplier(engine: &Engine) -> f64 {
    match engine.control_loops()[0].output {
        Some(LoopOutput::LoadMultiplier {
            load_multiplier,
            pass_through,
        }) if !pass_through => load_multiplier,
        other => panic!("it throttles: {other:?}"),
    }
}

/// Ways in which a flow comes that the load scheduler does not let in at once.
type Comes = fn(&Engine, &mut Vec<PendingReport>);

const IS_LATE: Comes = |engine, waiting| {
    let mut starting = start_within(engine, &[], 30);
    if poll(&mut starting).is_none() {
        waiting.push(starting);
    }
};
const ASKS_ONLY: Comes = |engine, _| {
    check(engine, &[]);
};
const HANGS_UP: Comes = |engine, _| drop(start(engine, &[]));
const DECIDES_AND_HANGS_UP: Comes = |engine, _| drop(engine.decide(HERE, &FlowParams::new()));
const IS_CROWDED_OUT: Comes = |engine, _| {
    let mut starting = start(engine, &[]);
    if poll(&mut starting).is_none() {
        starting.give_up();
        assert!(!poll(&mut starting).expect("it gave up").0.accepted());
    }
};
const LEAVES_LATER: Comes = |engine, waiting| {
    let mut starting = start(engine, &[]);
    if poll(&mut starting).is_none() {
        waiting.push(starting);
    }
    if waiting.len() > 5 {
        drop(waiting.remove(0));
    }
};
const IN_THE_SHADOW: Comes = |engine, _| {
    let mut params = FlowParams::new();
    params.shadow = true;
    drop(engine.decide(HERE, &params));
};

#[test]
fn a_loop_sees_refusals_however_they_came_about() {
    let policy = cutting("aimd_load_scheduler", "gradient: {slope: -1}");
    let ends_at = |comes: Comes| {
        let load = Load::default();
        load.set(2.0);
        let builder = Engine::builder().policy_text("p.yaml", &*policy);
        let (engine, clock) = clocked(builder.signal_source(load));
        let mut waiting = Vec::new();
        for _ in 0..2000 {
            clock.advance(secs(0.1));
            comes(&engine, &mut waiting);
            waiting.retain_mut(|one| poll(one).is_none());
        }
        multiplier(&engine)
    };
    // Twice the setpoint, and it compounds.
    for comes in [
        IS_LATE,
        ASKS_ONLY,
        HANGS_UP,
        DECIDES_AND_HANGS_UP,
        IS_CROWDED_OUT,
        LEAVES_LATER,
        IN_THE_SHADOW,
    ] {
        let multiplier = ends_at(comes);
        assert!(multiplier < 0.1, "{multiplier}");
    }
}

/// Whether a flow came every second, or none came for a while.
#[test]
fn a_loop_does_not_take_what_is_now_for_what_was_in_a_silence() {
    let steps = [
        (
            "aiad_load_scheduler",
            "load_multiplier_linear_decrement: 0.05",
        ),
        (
            "aiad_load_scheduler",
            "load_multiplier_linear_decrement: 0.3",
        ),
    ];
    for (kind, more) in steps {
        let policy = cutting(kind, more);
        for (calm, overloaded) in [(360, 12), (7, 10), (3600, 12), (20_000, 15)] {
            let run = |busy: bool| {
                let load = Load::default();
                let builder = Engine::builder().policy_text("p.yaml", &*policy);
                let (engine, clock) = clocked(builder.signal_source(load.clone()));
                let flow = || drop(check(&engine, &[]));
                let pass = |seconds: u32, busy: bool| {
                    for _ in 0..seconds {
                        clock.advance(secs(1.0));
                        if busy {
                            flow();
                        }
                    }
                };
                pass(120, true);
                pass(calm, busy);
                load.set(2.0);
                pass(overloaded, busy);
                // A long silence is made up for in turns.
                (0..30).for_each(|_| flow());
                engine.control_loops()[0].output
            };
            let (busy, silent) = (run(true), run(false));
            assert_eq!(busy, silent, "{calm} s, then {overloaded} s of overload");
        }
    }
}

#[test]
fn an_overload_in_the_last_second_of_a_silence_is_one_step() {
    let load = Load::default();
    let policy = cutting(
        "aiad_load_scheduler",
        "load_multiplier_linear_decrement: 0.1",
    );
    let builder = Engine::builder().policy_text("p.yaml", policy);
    let (engine, clock) = clocked(builder.signal_source(load.clone()));
    check(&engine, &[]);
    clock.advance(secs(8.0 * 3600.0));
    load.set(2.0);
    for _ in 0..40 {
        check(&engine, &[]);
    }
    assert_eq!(multiplier(&engine), 0.9);
    clock.advance(secs(10.0));
    check(&engine, &[]);
    assert!((multiplier(&engine) - 0.8).abs() < 1e-9);
}

/// How many of those who come after it are let in, with one flow of an odd cost among those before.
fn let_in_after(cost: Option<&str>, patience: u64, policy: &str, load: &Load) -> usize {
    let builder = Engine::builder().policy_text("p.yaml", policy);
    let (engine, clock) = clocked(builder.signal_source(load.clone()));
    let mut waiting: Vec<(u32, PendingReport)> = Vec::new();
    let mut let_in = 0;
    for tenth in 0..3000 {
        clock.advance(secs(0.1));
        let odd = cost.filter(|_| tenth == 1000).map(|cost| ("tokens", cost));
        let starting = start_within(&engine, odd.as_slice(), patience);
        waiting.push((tenth, starting));
        waiting.retain_mut(|(came, starting)| {
            let Some((report, _)) = poll(starting) else {
                return true;
            };
            let_in += usize::from(*came >= 2000 && report.accepted());
            false
        });
    }
    let_in
}

const ODD_COSTS: [&str; 8] = [
    "1e17", "1e308", "-1e17", "-1e308", "-1000", "-100000", "-1e-300", "1.7e308",
];

#[test]
fn row_46_an_odd_cost_does_not_change_what_a_load_scheduler_lets_in_later() {
    let policy = |multiplier: f64| {
        format!(
            "
circuit:
  components:
  - flow_control:
      load_scheduler:
        in_ports: {{load_multiplier: {{constant_signal: {{value: {multiplier}}}}}}}
        parameters: {{selectors: [{{control_point: here}}], scheduler: {{tokens_label_key: tokens}}}}
"
        )
    };
    for multiplier in [0.5, 0.9] {
        for patience in [30, 500] {
            let policy = policy(multiplier);
            let load = Load::default();
            let usual = let_in_after(None, patience, &policy, &load);
            for cost in ODD_COSTS {
                let odd = let_in_after(Some(cost), patience, &policy, &load);
                assert!(
                    odd.abs_diff(usual) <= 20,
                    "{cost}: {odd} instead of {usual}"
                );
            }
        }
    }
}

#[test]
fn row_46_an_odd_cost_does_not_blind_a_loop() {
    let policy = cutting("aimd_load_scheduler", "gradient: {slope: -1}");
    let load = Load::default();
    load.set(1.25);
    for cost in ODD_COSTS {
        let odd = let_in_after(Some(cost), 30, &policy, &load);
        assert!(odd < 300, "{cost}: {odd} of 1000 during an overload");
    }
}

/// While one flow asks for tokens back, a load scheduler still sheds.
#[test]
fn row_46_tokens_given_back_do_not_open_a_load_scheduler() {
    let load = Load::default();
    let policy = cutting(
        "aiad_load_scheduler",
        "load_multiplier_linear_decrement: 0.5",
    );
    let builder = Engine::builder().policy_text("p.yaml", policy);
    load.set(2.0);
    let (engine, clock) = clocked(builder.signal_source(load));
    let mut let_in = 0;
    for tenth in 0..1000 {
        clock.advance(secs(0.1));
        check(&engine, &[("tokens", "-1e12")]);
        let_in += usize::from(check(&engine, &[]).accepted() && tenth >= 500);
    }
    assert!(let_in < 50, "{let_in} of 500 with a multiplier of zero");
}
