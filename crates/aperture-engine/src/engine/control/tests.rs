//! Tests of control loops with components that only record their settings.

mod strategies;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::engine::control::policy_loop::PolicyLoop;
use crate::engine::flux_meter::FluxMeters;
use crate::engine::workload_latency::WorkloadLatency;
use crate::policy::{
    Circuit, CircuitNode, Component, ComponentKind, LoadScheduler, Op, Policy, Port, RampStep,
    Sampler, Scheduler, SignalId, WorkloadParameters,
};

const SECOND: Nanos = 1_000_000_000;

/// Records the settings that are applied to it.
#[derive(Debug, Default)]
struct RecordingActuator {
    settings: Mutex<Vec<Setting>>,
    demand: Mutex<Demand>,
    latency: WorkloadLatency,
}

impl Actuator for RecordingActuator {
    fn apply(&self, setting: Setting, _: Nanos) -> bool {
        self.settings
            .lock()
            .expect("the lock is not poisoned")
            .push(setting);
        true
    }

    fn take_demand(&self) -> Demand {
        std::mem::take(&mut self.demand.lock().expect("the lock is not poisoned"))
    }

    fn workload_tokens(&self, now: Nanos) -> Option<WorkloadTokens> {
        Some(self.latency.tokens(now))
    }
}

impl RecordingActuator {
    fn loads(&self) -> Vec<LoadDecision> {
        let settings = self.settings.lock().expect("the lock is not poisoned");
        let load = |setting: &Setting| match setting {
            Setting::Load(decision) => Some(decision.clone()),
            _ => None,
        };
        settings.iter().filter_map(load).collect()
    }

    fn percentages(&self) -> Vec<f64> {
        let settings = self.settings.lock().expect("the lock is not poisoned");
        let percentage = |setting: &Setting| match setting {
            Setting::AcceptPercentage(percentage) => Some(*percentage),
            _ => None,
        };
        settings.iter().filter_map(percentage).collect()
    }
}

fn component(id: &str, kind: ComponentKind) -> Component {
    Component {
        id: id.into(),
        selectors: Vec::new(),
        kind,
    }
}

fn load_scheduler(load_multiplier: Port, by_latency: bool) -> ComponentKind {
    ComponentKind::LoadScheduler(LoadScheduler {
        dry_run: false,
        load_multiplier,
        workload_latency_based_tokens: by_latency,
        scheduler: Scheduler {
            workloads: Vec::new(),
            default_workload: WorkloadParameters {
                priority: 1.0,
                tokens: 1.0,
                queue_timeout: None,
            },
            decision_deadline_margin: Duration::ZERO,
            tokens_label_key: None,
            priority_label_key: None,
            workload_label_key: None,
            fairness_label_key: None,
            denied_response_status_code: 0,
        },
    })
}

fn sampler(percentage: Port) -> ComponentKind {
    ComponentKind::Sampler(Sampler {
        accept_percentage: Some(percentage),
        session_label_key: None,
        ramp_mode: false,
        denied_response_status_code: 0,
        pass_through_label_values: Vec::new(),
    })
}

fn query(text: &str) -> CircuitNode {
    CircuitNode {
        id: "root.0".into(),
        op: Op::Query {
            text: text.into(),
            interval: Duration::from_secs(1),
        },
        inputs: Vec::new(),
        outputs: vec![Some(SignalId(0))],
    }
}

fn policy_of(kind: ComponentKind, nodes: Vec<CircuitNode>) -> Policy {
    let circuit = Circuit {
        evaluation_interval: Duration::from_secs(1),
        nodes,
        signals: 1,
    };
    Policy {
        name: "p".into(),
        hash: "h".into(),
        components: vec![component("root.1", kind)],
        circuit: Some(circuit),
        classifiers: Vec::new(),
        flux_meters: Vec::new(),
        unanswered_queries: Vec::new(),
        signals: Vec::new(),
    }
}

fn control_for(
    policy: &Policy,
    source: Option<Arc<dyn SignalSource>>,
) -> (Control<RecordingActuator>, Arc<RecordingActuator>) {
    let actuator = Arc::new(RecordingActuator::default());
    let components = [(policy.components[0].id.clone(), Arc::clone(&actuator))];
    let parameters = PolicyLoop::<RecordingActuator>::parameters(policy);
    let policy_loop = PolicyLoop::new(
        policy,
        &components,
        &FluxMeters::default(),
        parameters,
        0,
        None,
    )
    .expect("the policy has a changing signal");
    (Control::new(vec![Arc::new(policy_loop)], source), actuator)
}

/// A source that answers each query with one number.
#[derive(Debug)]
struct NumberSource {
    bits: AtomicU64,
    queries: AtomicU64,
}

impl NumberSource {
    fn new(value: f64) -> Arc<Self> {
        Arc::new(Self {
            bits: AtomicU64::new(value.to_bits()),
            queries: AtomicU64::new(0),
        })
    }

    fn set(&self, value: f64) {
        self.bits.store(value.to_bits(), Ordering::Relaxed);
    }

    fn source(self: &Arc<Self>) -> Option<Arc<dyn SignalSource>> {
        Some(Arc::clone(self) as Arc<dyn SignalSource>)
    }
}

impl SignalSource for NumberSource {
    fn latest(&self, query: &str) -> Option<f64> {
        assert_ne!(query, "panic", "on purpose");
        self.queries.fetch_add(1, Ordering::Relaxed);
        Some(f64::from_bits(self.bits.load(Ordering::Relaxed)))
    }
}

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
fn overdue_ticks_are_evaluated_in_bounded_batches() {
    let policy = policy_of(load_scheduler(Port::Constant(1.0), true), Vec::new());
    let (control, actuator) = control_for(&policy, None);
    // There is one decision in ten ticks.
    let decisions = || actuator.loads().len() as u64;
    let hours = 3600 * SECOND;
    control.catch_up(hours);
    assert_eq!(decisions(), MAX_TICKS_PER_CALL / 10);
    for _ in 0..3 {
        control.catch_up(hours);
    }
    assert_eq!(decisions(), 360);
    control.catch_up(hours + 9 * SECOND - 1);
    assert_eq!(decisions(), 360);
    control.catch_up(hours + 9 * SECOND);
    assert_eq!(decisions(), 361);
    // Ticks are evaluated up to the end of time.
    for _ in 0..2000 {
        control.catch_up(Nanos::MAX);
    }
    assert!(decisions().abs_diff(361 + MAX_BACKLOG_TICKS / 10) <= 1);
}

/// Returns a signal, and a loop with a load scheduler whose multiplier follows it.
fn following() -> (
    Arc<NumberSource>,
    Control<RecordingActuator>,
    Arc<RecordingActuator>,
) {
    let number = NumberSource::new(0.5);
    let changing = load_scheduler(Port::Changing(SignalId(0)), false);
    let (control, actuator) = control_for(&policy_of(changing, vec![query("q")]), number.source());
    (number, control, actuator)
}

fn multipliers(actuator: &RecordingActuator) -> Vec<f64> {
    let loads = actuator.loads();
    loads.iter().map(|load| load.load_multiplier).collect()
}

#[test]
fn overdue_ticks_hold_the_last_value_and_the_newest_queries_again() {
    let (number, control, actuator) = following();
    control.catch_up(0);
    number.set(0.9);
    // The ticks 10, 20, 30 and 40 end periods, and the newest is 45.
    control.catch_up(44 * SECOND + 5);
    assert_eq!(multipliers(&actuator), [0.5, 0.5, 0.5, 0.9]);
    let last = actuator.loads().pop().expect("a decision was applied");
    assert_eq!(last.valid_until, Some((44 + 50) * SECOND));
    assert_eq!(number.queries.load(Ordering::Relaxed), 2);
    // The deferred end does not shift later periods.
    number.set(0.7);
    control.catch_up(48 * SECOND);
    assert_eq!(multipliers(&actuator).len(), 4);
    control.catch_up(49 * SECOND);
    assert_eq!(multipliers(&actuator)[4..], [0.7]);
}

#[test]
fn a_backlog_of_several_batches_queries_again_only_at_the_newest_tick() {
    let (number, control, actuator) = following();
    control.catch_up(0);
    number.set(0.9);
    let end = (3 * MAX_TICKS_PER_CALL as Nanos + 4) * SECOND;
    for _ in 0..3 {
        control.catch_up(end);
        let multipliers_so_far = multipliers(&actuator);
        assert!(
            multipliers_so_far
                .iter()
                .all(|multiplier| *multiplier == 0.5),
            "{multipliers_so_far:?}"
        );
    }
    control.catch_up(end);
    let multipliers_so_far = multipliers(&actuator);
    let (last, before) = multipliers_so_far
        .split_last()
        .expect("a decision was applied");
    assert_eq!(*last, 0.9);
    assert!(before.iter().all(|multiplier| *multiplier == 0.5));
    assert_eq!(
        multipliers_so_far.len() as u64,
        (3 * MAX_TICKS_PER_CALL + 5) / 10
    );
}

#[test]
fn a_missed_query_with_a_long_interval_runs_at_the_newest_tick() {
    let mut node = query("q");
    if let Op::Query { interval, .. } = &mut node.op {
        *interval = Duration::from_secs(10);
    }
    let number = NumberSource::new(1.0);
    let policy = policy_of(sampler(Port::Changing(SignalId(0))), vec![node]);
    let (control, actuator) = control_for(&policy, number.source());
    control.catch_up(0);
    for (second, value) in [(8, 2.0), (11, 3.0), (18, 4.0), (19, 5.0)] {
        number.set(value);
        control.catch_up(second * SECOND);
    }
    assert_eq!(actuator.percentages(), [1.0, 3.0, 5.0]);
}

/// For a decider with `true_for`, the new answer has held for no time during a silence.
#[test]
fn a_decider_does_not_count_the_newest_value_for_overdue_ticks() {
    let decider = CircuitNode {
        id: "root.2".into(),
        op: Op::Decider {
            comparison: crate::policy::Comparison::Gt,
            true_for: Duration::from_secs(3),
        },
        inputs: vec![Port::Changing(SignalId(0)), Port::Constant(0.5)],
        outputs: vec![Some(SignalId(1))],
    };
    let mut policy = policy_of(
        sampler(Port::Changing(SignalId(1))),
        vec![query("q"), decider],
    );
    if let Some(circuit) = &mut policy.circuit {
        circuit.signals = 2;
    }
    let number = NumberSource::new(0.0);
    let (control, actuator) = control_for(&policy, number.source());
    control.catch_up(0);
    number.set(1.0);
    control.catch_up(600 * SECOND);
    control.catch_up(602 * SECOND);
    assert_eq!(actuator.percentages(), [0.0]);
    control.catch_up(603 * SECOND);
    assert_eq!(actuator.percentages(), [0.0, 1.0]);
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
