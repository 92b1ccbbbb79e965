//! Tests of control loops with components that only record their settings.

mod overdue;
mod strategies;
mod support;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use self::support::*;
use super::*;
use crate::engine::control::policy_loop::PolicyLoop;
use crate::engine::flux_meter::FluxMeters;
use crate::engine::workload_latency::WorkloadLatency;
use crate::policy::{
    Circuit, CircuitNode, Component, ComponentKind, LoadScheduler, Op, Policy, Port, RampStep,
    Sampler, Scheduler, SignalId, WorkloadParameters,
};

#[test]
fn a_load_scheduler_gets_its_multiplier_every_tenth_tick() {
    let number = NumberSource::new(0.5);
    let changing = load_scheduler(Port::Changing(SignalId(0)), false);
    let (control, actuator) = control_for(&policy_of(changing, vec![query("q")]), number.source());
    control.catch_up(8 * SECOND);
    assert!(actuator.loads().is_empty());
    control.catch_up(9 * SECOND);
    number.set(-3.0);
    control.catch_up(19 * SECOND);
    number.set(f64::NAN);
    control.catch_up(29 * SECOND + 7);
    let decisions: Vec<_> = actuator
        .loads()
        .iter()
        .map(|load| (load.load_multiplier, load.pass_through, load.valid_until))
        .collect();
    assert_eq!(
        decisions,
        [
            (0.5, false, Some(59 * SECOND)),
            (0.0, false, Some(69 * SECOND)),
            (0.0, true, Some(79 * SECOND)),
        ]
    );
    // The source is queried once per call of `catch_up`.
    assert_eq!(number.queries.load(Ordering::Relaxed), 4);
}

#[test]
fn a_ramp_is_applied_only_when_its_percentage_changes() {
    let generator = CircuitNode {
        id: "root.0.0".into(),
        op: Op::SignalGenerator {
            steps: [(25.0, 3), (25.0, 2), (100.0, 2), (100.0, 1)]
                .map(|(target, seconds)| RampStep {
                    target_accept_percentage: target,
                    duration: Duration::from_secs(seconds),
                })
                .to_vec(),
        },
        inputs: vec![
            Port::Constant(1.0),
            Port::Constant(f64::NAN),
            Port::Constant(f64::NAN),
        ],
        outputs: vec![Some(SignalId(0)), None, None],
    };
    let policy = policy_of(sampler(Port::Changing(SignalId(0))), vec![generator]);
    let (control, actuator) = control_for(&policy, None);
    control.catch_up(20 * SECOND);
    assert_eq!(actuator.percentages(), [25.0, 62.5, 100.0]);
}

#[test]
fn a_policy_with_constant_ports_has_no_loop() {
    let policy = policy_of(load_scheduler(Port::Constant(0.5), false), Vec::new());
    let actuator = Arc::new(RecordingActuator::default());
    let components = [(policy.components[0].id.clone(), actuator)];
    assert!(
        PolicyLoop::new(
            &policy,
            &components,
            &FluxMeters::default(),
            "".into(),
            0,
            None
        )
        .is_none()
    );
    let none: Control<RecordingActuator> = Control::new(Vec::new(), None);
    assert!(!none.is_on());
    none.catch_up(Nanos::MAX - 1);
}

#[test]
fn tokens_follow_latency_if_the_policy_enables_it() {
    let policy = Policy {
        circuit: None,
        ..policy_of(load_scheduler(Port::Constant(0.5), true), Vec::new())
    };
    let (control, actuator) = control_for(&policy, None);
    control.catch_up(0);
    actuator.latency.record("slow", 250.0, 0);
    control.catch_up(9 * SECOND);
    let loads = actuator.loads();
    assert_eq!(loads.len(), 1);
    assert_eq!(loads[0].load_multiplier, 0.5);
    let tokens = loads[0].tokens.as_ref().expect("tokens were derived");
    let tokens: HashMap<_, _> = tokens.iter().collect();
    assert_eq!(tokens, HashMap::from([(&Arc::from("slow"), &250.0)]));
}

#[test]
fn a_panicking_source_loses_one_tick_and_no_state() {
    let number = NumberSource::new(1.0);
    let mut policy = policy_of(sampler(Port::Changing(SignalId(0))), vec![query("q")]);
    if let Some(circuit) = &mut policy.circuit {
        circuit.nodes.push(query("panic"));
        circuit.nodes[1].outputs = vec![None];
    }
    let (control, actuator) = control_for(&policy, number.source());
    for second in 0..3 {
        let panics = catch_unwind(AssertUnwindSafe(|| control.catch_up(second * SECOND)));
        assert!(panics.is_err());
    }
    assert_eq!(number.queries.load(Ordering::Relaxed), 3);
    assert!(actuator.percentages().is_empty());
}

/// A source that evaluates the circuit while the circuit is evaluated.
#[derive(Debug, Default)]
struct ReentrantSource(Mutex<Option<Arc<Control<RecordingActuator>>>>);

impl SignalSource for ReentrantSource {
    fn latest(&self, _: &str) -> Option<f64> {
        let control = self.0.lock().expect("the lock is not poisoned").clone()?;
        control.catch_up(100 * SECOND);
        Some(7.0)
    }
}

#[test]
fn a_source_may_call_the_engine() {
    let reentrant = Arc::new(ReentrantSource::default());
    let source = Some(Arc::clone(&reentrant) as Arc<dyn SignalSource>);
    let policy = policy_of(sampler(Port::Changing(SignalId(0))), vec![query("q")]);
    let (control, actuator) = control_for(&policy, source);
    let control = Arc::new(control);
    *reentrant.0.lock().expect("the lock is not poisoned") = Some(Arc::clone(&control));
    control.catch_up(0);
    control.catch_up(SECOND);
    assert_eq!(actuator.percentages(), [7.0]);
    *reentrant.0.lock().expect("the lock is not poisoned") = None;
}

#[test]
fn concurrent_threads_evaluate_each_tick_once() {
    let number = NumberSource::new(1.0);
    let changing = load_scheduler(Port::Changing(SignalId(0)), false);
    let (control, actuator) = control_for(&policy_of(changing, vec![query("q")]), number.source());
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for millis in 0..5000 {
                    control.catch_up(millis * SECOND / 100);
                }
            });
        }
    });
    control.catch_up(50 * SECOND);
    let queries = number.queries.load(Ordering::Relaxed);
    assert!((2..=51).contains(&queries), "{queries}");
    let counted = actuator.loads().len();
    assert_eq!(counted, 5);
}

#[test]
fn a_loop_is_identified_by_its_parameters() {
    let first = policy_of(sampler(Port::Changing(SignalId(0))), vec![query("q")]);
    let (control, _) = control_for(&first, None);
    let parameters = |policy: &Policy| PolicyLoop::<RecordingActuator>::parameters(policy);
    let known = control.loop_of("p").expect("the policy has a loop");
    assert!(known.computes(&parameters(&first.clone())));
    assert!(control.loop_of("other").is_none());
    let other = policy_of(sampler(Port::Changing(SignalId(0))), vec![query("other")]);
    assert!(!known.computes(&parameters(&other)));
}
