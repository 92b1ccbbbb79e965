//! A reload keeps buckets, slots, queues and control loops when only numbers of a policy change.

use futures_util::FutureExt;
use proptest::prelude::*;
use std::time::Duration;
use tower_aperture::Engine;
use tower_aperture::engine::{CheckInput, EngineTicket, LoopOutput, ManualClock};

use crate::queues::{self, policy_of};
use crate::support::*;

fn reload(engine: &Engine, text: String) {
    engine
        .reload_with([("test.yaml", text)])
        .expect("the policy is valid");
}

fn bucket(capacity: f64, fill: f64) -> String {
    policy("test", &[Limiter::new(capacity, fill)])
}

/// Returns how many flows are accepted before one is rejected.
fn count_accepted(engine: &Engine) -> usize {
    (0..100)
        .take_while(|_| check(engine, &[]).accepted())
        .count()
}

#[test]
fn raising_a_capacity_gives_each_key_at_most_the_difference() {
    for (from, to) in [(5.0, 6.0), (1.0, 10.0), (10.0, 10.5), (3.0, 3.0)] {
        for parameters in ["a: 1", "lazy_sync: {enabled: true, num_sync: 4}"] {
            let limiter = |capacity| {
                let by_user = Limiter::new(capacity, 0.0).by("user");
                policy(
                    "test",
                    &[if parameters == "a: 1" {
                        by_user
                    } else {
                        by_user.with(parameters)
                    }],
                )
            };
            let (engine, clock) = (
                Engine::builder().policy_text("test.yaml", limiter(from)),
                ManualClock::new(),
            );
            let engine = engine
                .clock(clock.clone())
                .build()
                .expect("the policy is valid");
            let spend = |user: &str| {
                let mut all = 0..100;
                all.by_ref()
                    .take_while(|_| check(&engine, &[("user", user)]).accepted())
                    .count()
            };
            let before = spend("a");
            reload(&engine, limiter(to));
            clock.advance(Duration::from_millis(1));
            let after = spend("a");
            assert!(
                (before + after) as f64 <= to,
                "{from} to {to}, {parameters}: {after}"
            );
            if parameters == "a: 1" {
                assert_eq!(before as f64, from);
            }
        }
    }
    let (engine, _) = engine(&[Limiter::new(5.0, 0.0)]);
    assert_eq!(count_accepted(&engine), 5);
    reload(&engine, bucket(6.0, 0.0));
    assert_eq!(count_accepted(&engine), 1);
    reload(&engine, bucket(9.0, 0.0));
    assert_eq!(count_accepted(&engine), 3);
}

#[test]
fn a_lowered_capacity_applies_at_once() {
    let (engine, _) = engine(&[Limiter::new(50.0, 0.0)]);
    assert!(check(&engine, &[]).accepted());
    reload(&engine, bucket(4.0, 0.0));
    assert_eq!(count_accepted(&engine), 4);
}

#[test]
fn time_before_a_reload_fills_at_the_old_rate() {
    let (engine, clock) = engine(&[Limiter::new(100.0, 0.0)]);
    assert_eq!(count_accepted(&engine), 100);
    clock.advance(secs(3600.0));
    reload(&engine, bucket(100.0, 1.0));
    assert_eq!(count_accepted(&engine), 0);
    clock.advance(secs(3.0));
    assert_eq!(count_accepted(&engine), 3);
    clock.advance(secs(7.0));
    reload(&engine, bucket(100.0, 0.0));
    assert_eq!(count_accepted(&engine), 7);
}

#[test]
fn changing_other_numbers_keeps_the_buckets() {
    let limiter = Limiter::new(3.0, 0.0);
    let (engine, _) = engine(std::slice::from_ref(&limiter));
    assert_eq!(count_accepted(&engine), 3);
    let mut plain = limiter.clone();
    plain.tokens_label = false;
    for changed in [
        plain,
        limiter.clone().interval(secs(7.0)),
        limiter.clone().with("max_idle_time: 60s"),
        limiter.clone().with("continuous_fill: false"),
        limiter.clone(),
    ] {
        reload(&engine, policy("test", std::slice::from_ref(&changed)));
        assert_eq!(count_accepted(&engine), 0, "{changed:?}");
    }
}

#[test]
fn changing_the_label_or_the_kind_starts_with_fresh_state() {
    let (engine, _) = engine(&[Limiter::new(1.0, 0.0).by("user")]);
    let labels = [("user", "1"), ("tenant", "1")];
    assert!(check(&engine, &labels).accepted());
    assert!(!check(&engine, &labels).accepted());
    reload(
        &engine,
        policy("test", &[Limiter::new(1.0, 0.0).by("tenant")]),
    );
    assert!(check(&engine, &labels).accepted());
    assert!(!check(&engine, &labels).accepted());
    reload(&engine, policy_of(&[queues::limiter(1.0, "")]));
    assert!(check(&engine, &labels).accepted());
}

proptest! {
    /// However the capacity changes, a bucket accepts no more flows than its highest capacity.
    #[test]
    fn capacities_that_go_up_and_down_create_no_tokens(
        changes in prop::collection::vec((1..20_u32, 0..5_usize), 1..20),
    ) {
        let (engine, _) = engine(&[Limiter::new(1.0, 0.0)]);
        let (mut highest, mut accepted) = (1, 0);
        for (capacity, flows) in changes {
            reload(&engine, bucket(f64::from(capacity), 0.0));
            highest = highest.max(capacity);
            accepted += (0..flows).filter(|_| check(&engine, &[]).accepted()).count();
            prop_assert!(accepted <= highest as usize);
        }
    }

    /// However the limit changes, flows in flight count against it.
    #[test]
    fn concurrency_limits_that_go_up_and_down_are_kept(
        changes in prop::collection::vec((1..6_u32, 0..8_usize, 0..3_usize), 1..20),
        scheduled in any::<bool>(),
    ) {
        let text = |max: u32| {
            let max = f64::from(max);
            policy_of(&[match scheduled {
                true => queues::slots(max, "", ""),
                false => queues::limiter(max, ""),
            }])
        };
        let engine = Engine::builder().policy_text("test.yaml", text(3)).clock(ManualClock::new());
        let engine = engine.build().expect("the policy is valid");
        let mut held: Vec<EngineTicket> = Vec::new();
        for (max, begin, end) in changes {
            reload(&engine, text(max));
            for _ in 0..begin {
                let before = held.len();
                let params = params(&[]);
                let input = CheckInput::new(HERE, &params);
                let started = engine.start(&input).now_or_never();
                let (report, ticket) = started.expect("the flow is decided without waiting");
                prop_assert_eq!(report.accepted(), before < max as usize);
                if report.accepted() {
                    held.push(ticket);
                }
            }
            held.truncate(held.len().saturating_sub(end));
        }
    }
}

#[test]
fn a_limit_that_alternates_between_3_and_4_has_at_most_4_flows_in_flight() {
    for kind in [
        |max| queues::limiter(max, ""),
        |max| queues::slots(max, "", ""),
    ] {
        let (engine, _) = queues::engine_of(&[kind(3.0)]);
        let mut held = Vec::new();
        for max in [3.0, 4.0, 3.0, 4.0] {
            reload(&engine, policy_of(&[kind(max)]));
            for _ in 0..10 {
                let params = params(&[]);
                let input = CheckInput::new(HERE, &params);
                let (report, ticket) = engine
                    .start(&input)
                    .now_or_never()
                    .expect("the flow is decided without waiting");
                if report.accepted() {
                    held.push(ticket);
                }
            }
            assert!(held.len() <= 4, "{} in flight", held.len());
        }
        assert_eq!(held.len(), 4);
    }
}

#[test]
fn waiters_stay_queued_through_reloads_and_run_when_the_limit_rises() {
    let text = |max| policy_of(&[queues::slots(max, "", queues::QUEUE_TIMEOUT_5S)]);
    let engine = Engine::builder()
        .policy_text("test.yaml", text(1.0))
        .clock(ManualClock::new());
    let engine = engine.build().expect("the policy is valid");
    let first = queues::start(&engine, &[])
        .now_or_never()
        .expect("a slot is free");
    let mut waiting: Vec<_> = (0..3).map(|_| queues::start(&engine, &[])).collect();
    let mut reload_and_poll = |engine: &Engine, max| {
        reload(engine, text(max));
        let mut tickets = Vec::new();
        waiting.retain_mut(|one| match one.now_or_never() {
            Some((report, ticket)) => {
                assert!(report.accepted());
                tickets.push(ticket);
                false
            }
            None => true,
        });
        tickets
    };
    assert_eq!(reload_and_poll(&engine, 1.0).len(), 0);
    let second = reload_and_poll(&engine, 2.0);
    assert_eq!(second.len(), 1);
    assert_eq!(reload_and_poll(&engine, 1.0).len(), 0);
    let third = reload_and_poll(&engine, 3.0);
    assert_eq!(third.len(), 1);
    drop((first, second, third));
}

#[test]
fn a_faster_fill_rate_reaches_waiters() {
    let text = |fill| policy_of(&[queues::quota(1.0, fill, queues::QUEUE_TIMEOUT_5S)]);
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("test.yaml", text(0.25))
        .clock(clock.clone());
    let engine = engine.build().expect("the policy is valid");
    assert!(
        queues::start(&engine, &[])
            .now_or_never()
            .expect("a token is there")
            .0
            .accepted()
    );
    let mut waiter = queues::start(&engine, &[]);
    assert!((&mut waiter).now_or_never().is_none());
    reload(&engine, text(10.0));
    assert!((&mut waiter).now_or_never().is_none());
    clock.advance(secs(0.2));
    let _ = check(&engine, &[]);
    assert!(
        waiter
            .now_or_never()
            .expect("the waiter has its token")
            .0
            .accepted()
    );
}

/// Returns a policy of a load scheduler with this multiplier. With a multiplier of zero it accepts
/// no flow, once it has measured the demand.
fn load_scheduler(tokens: u32, load_multiplier: &str) -> String {
    policy_of(&[format!(
        "load_scheduler: {{in_ports: {{load_multiplier: {load_multiplier}}}, parameters: {{selectors: \
         [{{control_point: {HERE}}}], scheduler: {{default_workload_parameters: {{tokens: {tokens}, \
         queue_timeout: 0.1s}}}}}}}}"
    )])
}

#[test]
fn a_load_scheduler_keeps_its_measured_demand_when_a_number_changes() {
    const ZERO: &str = "{constant_signal: {value: 0}}";
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("test.yaml", load_scheduler(1, ZERO))
        .clock(clock.clone());
    let engine = engine.build().expect("the policy is valid");
    for _ in 0..40 {
        let _ = check(&engine, &[]);
        clock.advance(secs(1.0));
    }
    assert!(!check(&engine, &[]).accepted());
    reload(&engine, load_scheduler(3, ZERO));
    assert!(!check(&engine, &[]).accepted());
    reload(&engine, load_scheduler(3, "{constant_signal: {value: 50}}"));
    clock.advance(secs(1.0));
    assert!(check(&engine, &[]).accepted());
}

fn ramp(group: &str, tokens: u32) -> String {
    format!(
        "
blueprint: load-ramping/base
policy:
  policy_name: ramp
  start: true
  load_ramp:
    sampler: {{selectors: [{{control_point: {HERE}, agent_group: {group}}}]}}
    steps:
    - {{target_accept_percentage: 0, duration: 1s}}
    - {{target_accept_percentage: 100, duration: 10s}}
    - {{target_accept_percentage: 100, duration: 10s}}
  components:
  - flow_control:
      rate_limiter:
        selectors: [{{control_point: elsewhere}}]
        in_ports:
          bucket_capacity: {{constant_signal: {{value: {tokens}}}}}
          fill_amount: {{constant_signal: {{value: 1}}}}
        parameters: {{interval: 1s}}
"
    )
}

/// Returns how many of 100 flows in ramp mode are accepted.
fn count_accepted_by_ramp(engine: &Engine) -> usize {
    let params = params(&[]).ramp_mode(true);
    let flows = (0..100).filter(|_| engine.check(&CheckInput::new(HERE, &params)).accepted());
    flows.count()
}

#[test]
fn a_component_that_returns_to_the_agent_group_follows_its_control_loop() {
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("test.yaml", ramp("default", 1))
        .clock(clock.clone());
    let engine = engine.build().expect("the policy is valid");
    assert_eq!(count_accepted_by_ramp(&engine), 0);
    clock.advance(secs(60.0));
    assert_eq!(count_accepted_by_ramp(&engine), 100);
    reload(&engine, ramp("other", 1));
    clock.advance(secs(5.0));
    // Without a ramp, flows in ramp mode are rejected.
    assert_eq!(count_accepted_by_ramp(&engine), 0);
    reload(&engine, ramp("default", 1));
    clock.advance(secs(600.0));
    assert_eq!(count_accepted_by_ramp(&engine), 100);
}

#[test]
fn a_ramp_keeps_its_progress_when_an_unrelated_number_changes() {
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("test.yaml", ramp("default", 1))
        .clock(clock.clone());
    let engine = engine.build().expect("the policy is valid");
    assert_eq!(count_accepted_by_ramp(&engine), 0);
    clock.advance(secs(60.0));
    assert_eq!(count_accepted_by_ramp(&engine), 100);
    reload(&engine, ramp("default", 2));
    assert_eq!(count_accepted_by_ramp(&engine), 100);
}

#[test]
fn a_component_that_joins_the_agent_group_later_takes_its_signal_at_once() {
    let text = |group: &str| {
        format!(
            "
circuit:
  components:
  - signal_generator:
      in_ports: {{forward: {{constant_signal: {{value: 1}}}}}}
      out_ports: {{output: {{signal_name: P}}}}
      parameters: {{steps: [{{target_output: {{value: 7}}, duration: 1s}}, {{target_output: {{value: 7}}, duration: 9s}}]}}
  - flow_control: {{sampler: {{in_ports: {{accept_percentage: {{signal_name: P}}}}, parameters: {{selectors: [{{control_point: there}}]}}}}}}
  - flow_control: {{rate_limiter: {{in_ports: {{bucket_capacity: {{signal_name: P}}, fill_amount: {{constant_signal: {{value: 0}}}}}}, parameters: {{interval: 3600s}}, selectors: [{{control_point: {HERE}, agent_group: {group}}}]}}}}
"
        )
    };
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("two.yaml", text("other"))
        .clock(clock.clone());
    let engine = engine.build().expect("the policy is valid");
    assert_eq!(count_accepted(&engine), 100);
    clock.advance(secs(60.0));
    let _ = engine.control_loops();
    engine
        .reload_with([("two.yaml", text("default"))])
        .expect("the policy is valid");
    assert_eq!(count_accepted(&engine), 7);
}

/// Returns a policy whose component takes its limit from a signal, which is 7 from the first tick
/// on.
fn driven_by_signal(component: &str, more: &str) -> String {
    format!(
        "
circuit:
  evaluation_interval: 10s
  components:
  - signal_generator:
      in_ports: {{forward: {{constant_signal: {{value: 1}}}}}}
      out_ports: {{output: {{signal_name: LIMIT}}}}
      parameters: {{steps: [{{target_output: {{value: 7}}, duration: 10s}}, {{target_output: {{value: 7}}, duration: 90s}}]}}
  - flow_control: {{{component}}}
{more}"
    )
}

#[test]
fn a_component_that_starts_fresh_takes_the_last_limit_of_its_control_loop_at_once() {
    const SELECTORS: &str = "selectors: [{control_point: here}]";
    type Text = fn(&str) -> String;
    let kinds: [Text; 4] = [
        |key| {
            format!(
                "rate_limiter: {{in_ports: {{bucket_capacity: {{signal_name: LIMIT}}, fill_amount: \
                 {{constant_signal: {{value: 0}}}}}}, parameters: {{interval: 3600s, \
                 limit_by_label_key: {key}}}, {SELECTORS}}}"
            )
        },
        |key| {
            format!(
                "quota_scheduler: {{in_ports: {{bucket_capacity: {{signal_name: LIMIT}}, fill_amount: \
                 {{constant_signal: {{value: 0}}}}}}, rate_limiter: {{interval: 3600s, \
                 limit_by_label_key: {key}}}, {SELECTORS}}}"
            )
        },
        |key| {
            format!(
                "concurrency_limiter: {{in_ports: {{max_concurrency: {{signal_name: LIMIT}}}}, \
                 parameters: {{max_inflight_duration: 60s, limit_by_label_key: {key}}}, {SELECTORS}}}"
            )
        },
        |key| {
            format!(
                "concurrency_scheduler: {{in_ports: {{max_concurrency: {{signal_name: LIMIT}}}}, \
                 concurrency_limiter: {{max_inflight_duration: 60s, limit_by_label_key: {key}}}, \
                 {SELECTORS}}}"
            )
        },
    ];
    let labels = [("user", "1"), ("tenant", "1")];
    // The reload keeps the circuit, or adds an unrelated component to it.
    let unrelated = "  - inverter: {in_ports: {input: {signal_name: LIMIT}}, out_ports: {output: {signal_name: NEGATED}}}\n";
    for kind in kinds {
        for more in ["", unrelated] {
            let text = driven_by_signal(&kind("user"), "");
            let clock = ManualClock::new();
            let engine = Engine::builder()
                .policy_text("test.yaml", text)
                .clock(clock.clone());
            let engine = engine.build().expect("the policy is valid");
            clock.advance(secs(25.0));
            let mut held = Vec::new();
            let mut count_accepted = || {
                (0..30)
                    .filter(|_| {
                        let params = params(&labels);
                        let input = CheckInput::new(HERE, &params);
                        let Some((report, ticket)) = engine.start(&input).now_or_never() else {
                            return false;
                        };
                        let accepted = report.accepted();
                        held.push(ticket);
                        accepted
                    })
                    .count()
            };
            assert_eq!(count_accepted(), 7, "{}", kind("user"));
            // The reload happens between two ticks.
            clock.advance(secs(1.0));
            reload(&engine, driven_by_signal(&kind("tenant"), more));
            assert_eq!(count_accepted(), 7, "{}", kind("tenant"));
            clock.advance(secs(30.0));
            assert_eq!(count_accepted(), 0, "{}", kind("tenant"));
        }
    }
}

#[test]
fn a_load_scheduler_that_returns_to_the_agent_group_takes_the_last_multiplier_at_once() {
    let text = |group: &str| {
        driven_by_signal(
            &format!(
                "load_scheduler: {{in_ports: {{load_multiplier: {{signal_name: NONE}}}}, parameters: \
                 {{selectors: [{{control_point: {HERE}, agent_group: {group}}}], scheduler: \
                 {{default_workload_parameters: {{queue_timeout: 0.1s}}}}}}}}"
            ),
            "  - arithmetic_combinator: {operator: sub, in_ports: {lhs: {signal_name: LIMIT}, \
                 rhs: {signal_name: LIMIT}}, out_ports: {output: {signal_name: NONE}}}
  - flow_control: {sampler: {in_ports: {accept_percentage: {signal_name: LIMIT}}, parameters: \
                 {selectors: [{control_point: there}]}}}\n",
        )
    };
    let clock = ManualClock::new();
    let engine = Engine::builder().policy_text("test.yaml", text("default"));
    let engine = engine
        .clock(clock.clone())
        .build()
        .expect("the policy is valid");
    let output = || {
        let loops = engine.control_loops().into_iter();
        loops
            .filter(|one| &*one.component_id == "root.1")
            .find_map(|one| one.output)
    };
    let closed = Some(LoopOutput::LoadMultiplier {
        load_multiplier: 0.0,
        pass_through: false,
    });
    clock.advance(secs(25.0));
    let _ = check(&engine, &[]);
    assert_eq!(output(), closed);
    reload(&engine, text("other"));
    assert_eq!(output(), None);
    clock.advance(secs(12.0));
    let _ = check(&engine, &[]);
    reload(&engine, text("default"));
    assert_eq!(output(), closed);
}
