//! Control loops: circuits over signals that the engine measures, and over those of a signal
//! source. A number in a test's name is its row in the register of quirks.

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

use crate::queues::{WakeCounter, decided, poll, poll_with, start, start_within};
use crate::support::*;

/// A signal source with one value, for the query `load`.
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

/// Builds an engine with a clock of its own.
fn build_with_clock(builder: EngineBuilder) -> (Engine, ManualClock) {
    let clock = ManualClock::new();
    let engine = builder.clock(clock.clone()).build();
    (engine.expect("the policy is valid"), clock)
}

/// Returns how many of ten flows are accepted at once.
fn count_accepted(engine: &Engine) -> usize {
    (0..10).filter(|_| check(engine, &[]).accepted()).count()
}

#[test]
fn a_bucket_follows_the_signal_of_a_source() {
    let load = Load::default();
    let builder = Engine::builder().policy_text("p.yaml", BY_LOAD);
    let (engine, clock) = build_with_clock(builder.signal_source(load.clone()));
    assert_eq!(count_accepted(&engine), 3);
    load.set(11.0);
    clock.advance(secs(1.0));
    assert_eq!(count_accepted(&engine), 1);
    load.set(1.0);
    // The bucket follows at the next tick.
    clock.advance(secs(0.9));
    assert_eq!(count_accepted(&engine), 1);
    clock.advance(secs(0.1));
    assert_eq!(
        engine.control_loops()[0].output,
        Some(LoopOutput::Bucket {
            bucket_capacity: 3.0,
            fill_amount: 100.0
        })
    );
    clock.advance(secs(0.5));
    assert_eq!(count_accepted(&engine), 3);
}

#[test]
fn a_query_without_a_source_is_refused_with_its_line_component_and_text() {
    let error = Engine::builder()
        .policy_text("p.yaml", BY_LOAD)
        .build()
        .expect_err("no source answers the query");
    let text = error.to_string();
    assert!(text.starts_with("p.yaml:5:"), "{text}");
    assert!(
        text.contains("`root.0`") && text.contains("`load`"),
        "{text}"
    );
}

#[test]
fn a_query_that_no_limiter_depends_on_needs_no_source() {
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
            .expect("no limiter depends on the query")
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

/// Runs ten flows of this latency one after the other in a second, and returns how many were
/// accepted.
fn run_second(engine: &Engine, clock: &ManualClock, latency: Duration) -> usize {
    // The timeout is too short to wait in a queue.
    let params = FlowParams::new().check_timeout(Duration::from_millis(11));
    let mut accepted = 0;
    for _ in 0..10 {
        match engine.decide(HERE, &params) {
            Check::Ready(Verdict::Accepted(ticket)) => {
                accepted += 1;
                clock.advance(latency);
                ticket.end(FlowOutcome::new(FlowStatus::Ok));
                clock.advance(Duration::from_millis(100) - latency);
            }
            Check::Ready(Verdict::Rejected(denial, ticket)) => {
                assert_eq!(denial.reason, RejectReason::NoTokens);
                ticket.end(FlowOutcome::new(FlowStatus::Unset));
                clock.advance(Duration::from_millis(100));
            }
            Check::Ready(Verdict::Unreachable(error)) => panic!("{error}"),
            // The flow leaves the queue at once.
            Check::Pending(_) => clock.advance(Duration::from_millis(100)),
        }
    }
    accepted
}

#[test]
fn average_latency_scheduling_sheds_and_recovers_without_a_source() {
    let builder = Engine::builder().policy_text("p.yaml", PROTECTED);
    let (engine, clock) = build_with_clock(builder);
    let millis = Duration::from_millis;
    let calm: usize = (0..120)
        .map(|_| run_second(&engine, &clock, millis(10)))
        .sum();
    assert_eq!(calm, 1200);
    let slow: Vec<usize> = (0..60)
        .map(|_| run_second(&engine, &clock, millis(80)))
        .collect();
    let shed: usize = slow[30..].iter().sum();
    assert!(
        shed < 150,
        "at most half of the flows are accepted: {slow:?}"
    );
    let recovery: Vec<usize> = (0..180)
        .map(|_| run_second(&engine, &clock, millis(10)))
        .collect();
    let recovered: usize = recovery[150..].iter().sum();
    assert_eq!(recovered, 300, "{recovery:?}");
}

#[test]
fn an_unchanged_control_loop_continues_through_a_reload() {
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
    let (engine, clock) = build_with_clock(builder.signal_source(load));
    let percentage = || engine.control_loops()[0].output;
    clock.advance(secs(50.0));
    assert_eq!(percentage(), Some(LoopOutput::AcceptPercentage(50.0)));

    // Selectors are no part of a control loop.
    let moved = ramp(100).replace("control_point: here", "control_point: there");
    engine
        .reload_with([("ramp.yaml", moved), ("p.yaml", BY_LOAD.to_owned())])
        .expect("the policies are valid");
    clock.advance(secs(10.0));
    assert_eq!(percentage(), Some(LoopOutput::AcceptPercentage(60.0)));

    engine
        .reload_with([("ramp.yaml", ramp(200))])
        .expect("the policy is valid");
    assert_eq!(percentage(), Some(LoopOutput::AcceptPercentage(0.0)));
    clock.advance(secs(100.0));
    assert_eq!(percentage(), Some(LoopOutput::AcceptPercentage(50.0)));
}

#[test]
fn latency_based_tokens_follow_the_latency_of_each_workload() {
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
    let (engine, clock) = build_with_clock(Engine::builder().policy_text("p.yaml", text));
    let tokens = |kind: &'static str| {
        let params = FlowParams::new().label("kind", kind);
        let report = engine.check(&CheckInput::new(HERE, &params));
        match &decision_of(&report, "root.0").details {
            LimiterDetails::LoadScheduler { scheduler } => {
                scheduler.tokens.map_or(0.0, |tokens| tokens.consumed)
            }
            other => panic!("not a load scheduler: {other:?}"),
        }
    };
    for (kind, millis) in [("slow", 300), ("slow", 100), ("fast", 5)] {
        let params = FlowParams::new().label("kind", kind);
        let Check::Ready(Verdict::Accepted(ticket)) = engine.decide(HERE, &params) else {
            panic!("the scheduler accepts all flows while it measures the demand");
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

/// The flows have time to queue, but no flow waits in a dry run.
#[test]
fn a_dry_run_control_loop_counts_its_rejections_and_enforces_none() {
    let builder = Engine::builder().policy_text("p.yaml", PROTECTED);
    let (engine, clock) = build_with_clock(builder.dry_run("protected"));
    let run_second = |latency: u64| {
        let params = FlowParams::new().check_timeout(secs(1.0));
        for _ in 0..10 {
            let Check::Ready(Verdict::Accepted(ticket)) = engine.decide(HERE, &params) else {
                panic!("the flow is not accepted at once");
            };
            clock.advance(Duration::from_millis(latency));
            ticket.end(FlowOutcome::new(FlowStatus::Ok));
            clock.advance(Duration::from_millis(100 - latency));
        }
    };
    (0..120).for_each(|_| run_second(10));
    assert_eq!(engine.stats().dry_run_rejections, 0);
    (0..60).for_each(|_| run_second(80));
    assert!(engine.stats().dry_run_rejections > 0);
    let Some(LoopOutput::LoadMultiplier {
        load_multiplier, ..
    }) = engine.control_loops()[0].output
    else {
        panic!("the output is no load multiplier")
    };
    assert!(
        load_multiplier < 0.3,
        "dry-run rejections lower the multiplier: {load_multiplier}"
    );
}

/// A concurrency scheduler whose number of slots is the load.
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
fn a_higher_limit_wakes_as_many_waiters_as_it_has_slots_for() {
    let load = Load::default();
    load.set(1.0);
    let builder = Engine::builder().policy_text("p.yaml", SLOTS_BY_LOAD);
    let (engine, clock) = build_with_clock(builder.signal_source(load.clone()));
    let (_, _first) = decided(start(&engine, &[]));
    let counters: [Arc<WakeCounter>; 3] = Default::default();
    let mut waiting = counters.each_ref().map(|counter| {
        let mut pending = start(&engine, &[]);
        assert!(poll_with(&mut pending, &Arc::clone(counter).into()).is_none());
        pending
    });
    load.set(3.0);
    clock.advance(secs(1.0));
    let before = counters.each_ref().map(|counter| counter.wakes());
    // A flow of another control point runs the tick.
    let elsewhere = params(&[]);
    assert!(
        engine
            .check(&CheckInput::new("there", &elsewhere))
            .accepted()
    );
    let woken = counters
        .iter()
        .zip(before)
        .map(|(counter, before)| counter.wakes() - before);
    assert!(woken.take(2).all(|woken| woken > 0));
    let decisions = waiting.each_mut().map(poll);
    let [second, third, fourth] = decisions.each_ref().map(Option::is_some);
    assert!(second && third && !fourth);
}

/// Returns a policy of a control loop of this kind, which sheds flows while the load is above 1.
fn shedding(kind: &str, parameters: &str) -> String {
    format!(
        "
circuit:
  components:
  - query: {{promql: {{query_string: load, out_ports: {{output: {{signal_name: LOAD}}}}}}}}
  - flow_control:
      {kind}:
        in_ports: {{signal: {{signal_name: LOAD}}, setpoint: {{constant_signal: {{value: 1}}}}}}
        parameters:
          load_scheduler: {{selectors: [{{control_point: here}}], scheduler: {{tokens_label_key: tokens}}}}
          alerter: {{alert_name: overload}}
          {parameters}
"
    )
}

fn multiplier(engine: &Engine) -> f64 {
    match engine.control_loops()[0].output {
        Some(LoopOutput::LoadMultiplier {
            load_multiplier,
            pass_through,
        }) if !pass_through => load_multiplier,
        other => panic!("the loop does not throttle: {other:?}"),
    }
}

/// A way in which a flow arrives, and leaves if the load scheduler does not accept it at once. A
/// flow that keeps waiting is added to the list.
type Arrival = fn(&Engine, &mut Vec<PendingReport>);

const TIMES_OUT: Arrival = |engine, waiting| {
    let mut pending = start_within(engine, &[], 30);
    if poll(&mut pending).is_none() {
        waiting.push(pending);
    }
};
const DOES_NOT_WAIT: Arrival = |engine, _| {
    check(engine, &[]);
};
const IS_DROPPED: Arrival = |engine, _| drop(start(engine, &[]));
const IS_DECIDED_AND_DROPPED: Arrival = |engine, _| drop(engine.decide(HERE, &FlowParams::new()));
const GIVES_UP: Arrival = |engine, _| {
    let mut pending = start(engine, &[]);
    if poll(&mut pending).is_none() {
        pending.give_up();
        assert!(
            !poll(&mut pending)
                .expect("a flow that gave up is decided")
                .0
                .accepted()
        );
    }
};
const LEAVES_LATER: Arrival = |engine, waiting| {
    let mut pending = start(engine, &[]);
    if poll(&mut pending).is_none() {
        waiting.push(pending);
    }
    if waiting.len() > 5 {
        drop(waiting.remove(0));
    }
};
const IS_SHADOW: Arrival = |engine, _| {
    let mut params = FlowParams::new();
    params.shadow = true;
    drop(engine.decide(HERE, &params));
};

#[test]
fn a_control_loop_counts_rejections_however_the_flows_leave() {
    let policy = shedding("aimd_load_scheduler", "gradient: {slope: -1}");
    let final_multiplier = |arrive: Arrival| {
        let load = Load::default();
        load.set(2.0);
        let builder = Engine::builder().policy_text("p.yaml", &*policy);
        let (engine, clock) = build_with_clock(builder.signal_source(load));
        let mut waiting = Vec::new();
        for _ in 0..2000 {
            clock.advance(secs(0.1));
            arrive(&engine, &mut waiting);
            waiting.retain_mut(|one| poll(one).is_none());
        }
        multiplier(&engine)
    };
    // The load is twice the setpoint, so each tick lowers the multiplier further.
    for arrive in [
        TIMES_OUT,
        DOES_NOT_WAIT,
        IS_DROPPED,
        IS_DECIDED_AND_DROPPED,
        GIVES_UP,
        LEAVES_LATER,
        IS_SHADOW,
    ] {
        let multiplier = final_multiplier(arrive);
        assert!(multiplier < 0.1, "{multiplier}");
    }
}

/// The output is the same whether flows arrived every second or not at all for a while.
#[test]
fn the_load_after_a_silence_does_not_count_for_the_silence() {
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
        let policy = shedding(kind, more);
        for (calm, overloaded) in [(360, 12), (7, 10), (3600, 12), (20_000, 15)] {
            let run = |busy: bool| {
                let load = Load::default();
                let builder = Engine::builder().policy_text("p.yaml", &*policy);
                let (engine, clock) = build_with_clock(builder.signal_source(load.clone()));
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
                // Several flows share the missed ticks of a long silence.
                (0..30).for_each(|_| flow());
                engine.control_loops()[0].output
            };
            let (busy, silent) = (run(true), run(false));
            assert_eq!(busy, silent, "{calm} s, then {overloaded} s of overload");
        }
    }
}

#[test]
fn an_overload_in_the_last_second_of_a_silence_counts_as_one_step() {
    let load = Load::default();
    let policy = shedding(
        "aiad_load_scheduler",
        "load_multiplier_linear_decrement: 0.1",
    );
    let builder = Engine::builder().policy_text("p.yaml", policy);
    let (engine, clock) = build_with_clock(builder.signal_source(load.clone()));
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

/// Returns how many of the last 1000 flows are accepted. If there is a cost, one earlier flow has
/// it.
fn accepted_after(cost: Option<&str>, timeout_millis: u64, policy: &str, load: &Load) -> usize {
    let builder = Engine::builder().policy_text("p.yaml", policy);
    let (engine, clock) = build_with_clock(builder.signal_source(load.clone()));
    let mut waiting: Vec<(u32, PendingReport)> = Vec::new();
    let mut accepted = 0;
    for tenth in 0..3000 {
        clock.advance(secs(0.1));
        let odd = cost.filter(|_| tenth == 1000).map(|cost| ("tokens", cost));
        let pending = start_within(&engine, odd.as_slice(), timeout_millis);
        waiting.push((tenth, pending));
        waiting.retain_mut(|(came, pending)| {
            let Some((report, _)) = poll(pending) else {
                return true;
            };
            accepted += usize::from(*came >= 2000 && report.accepted());
            false
        });
    }
    accepted
}

const ODD_COSTS: [&str; 8] = [
    "1e17", "1e308", "-1e17", "-1e308", "-1000", "-100000", "-1e-300", "1.7e308",
];

#[test]
fn row_46_an_odd_cost_does_not_change_how_many_later_flows_a_load_scheduler_accepts() {
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
        for timeout_millis in [30, 500] {
            let policy = policy(multiplier);
            let load = Load::default();
            let usual = accepted_after(None, timeout_millis, &policy, &load);
            for cost in ODD_COSTS {
                let odd = accepted_after(Some(cost), timeout_millis, &policy, &load);
                assert!(
                    odd.abs_diff(usual) <= 20,
                    "{cost}: {odd} instead of {usual}"
                );
            }
        }
    }
}

#[test]
fn row_46_an_odd_cost_does_not_keep_a_control_loop_from_shedding() {
    let policy = shedding("aimd_load_scheduler", "gradient: {slope: -1}");
    let load = Load::default();
    load.set(1.25);
    for cost in ODD_COSTS {
        let odd = accepted_after(Some(cost), 30, &policy, &load);
        assert!(odd < 300, "{cost}: {odd} of 1000 during an overload");
    }
}

/// A load scheduler still sheds while other flows return tokens.
#[test]
fn row_46_returned_tokens_do_not_open_a_load_scheduler() {
    let load = Load::default();
    let policy = shedding(
        "aiad_load_scheduler",
        "load_multiplier_linear_decrement: 0.5",
    );
    let builder = Engine::builder().policy_text("p.yaml", policy);
    load.set(2.0);
    let (engine, clock) = build_with_clock(builder.signal_source(load));
    let mut accepted = 0;
    for tenth in 0..1000 {
        clock.advance(secs(0.1));
        check(&engine, &[("tokens", "-1e12")]);
        accepted += usize::from(check(&engine, &[]).accepted() && tenth >= 500);
    }
    assert!(accepted < 50, "{accepted} of 500 with a multiplier of zero");
}
