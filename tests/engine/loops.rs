//! Signals that change: circuits over what the engine measures, and over what it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tower_aperture::engine::{
    CheckInput, Engine, EngineBuilder, LimiterDetails, LoopOutput, ManualClock, SignalSource,
};
use tower_aperture::{
    Check, Decider, FlowOutcome, FlowParams, FlowStatus, RejectReason, Ticket, Verdict,
};

use crate::queues::{Alarm, now, poll, poll_with, start};
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
