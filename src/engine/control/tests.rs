//! Loops with components that only listen.

mod strategies;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::engine::control::running::Loop;
use crate::engine::flux_meter::FluxMeters;
use crate::policy::{
    Circuit, CircuitNode, Component, ComponentKind, LoadScheduler, Op, Policy, Port, RampStep,
    Sampler, Scheduler, SignalId, WorkloadParameters,
};

const SECOND: Nanos = 1_000_000_000;

/// Remembers what it is told.
#[derive(Debug, Default)]
struct Listener {
    heard: Mutex<Vec<Setting>>,
    demand: Mutex<Demand>,
    latency: WorkloadLatency,
}

impl Actuator for Listener {
    fn apply(&self, setting: Setting, _: Nanos) {
        self.heard
            .lock()
            .expect("no test panics here")
            .push(setting);
    }

    fn take_demand(&self) -> Demand {
        std::mem::take(&mut self.demand.lock().expect("no test panics here"))
    }

    fn workload_tokens(&self, now: Nanos) -> Option<WorkloadTokens> {
        Some(self.latency.tokens(now))
    }
}

impl Listener {
    fn loads(&self) -> Vec<LoadDecision> {
        let heard = self.heard.lock().expect("no test panics here");
        let load = |setting: &Setting| match setting {
            Setting::Load(decision) => Some(decision.clone()),
            _ => None,
        };
        heard.iter().filter_map(load).collect()
    }

    fn percentages(&self) -> Vec<f64> {
        let heard = self.heard.lock().expect("no test panics here");
        let percentage = |setting: &Setting| match setting {
            Setting::AcceptPercentage(percentage) => Some(*percentage),
            _ => None,
        };
        heard.iter().filter_map(percentage).collect()
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

fn running(
    policy: &Policy,
    source: Option<Arc<dyn SignalSource>>,
) -> (Control<Listener>, Arc<Listener>) {
    let listener = Arc::new(Listener::default());
    let components = [(policy.components[0].id.clone(), Arc::clone(&listener))];
    let parameters = Loop::<Listener>::parameters(policy);
    let one = Loop::new(
        policy,
        &components,
        &FluxMeters::default(),
        parameters,
        0,
        None,
    )
    .expect("something changes");
    (Control::new(vec![Arc::new(one)], source), listener)
}

/// A source with one number.
#[derive(Debug)]
struct Number {
    bits: AtomicU64,
    asked: AtomicU64,
}

impl Number {
    fn new(value: f64) -> Arc<Self> {
        Arc::new(Self {
            bits: AtomicU64::new(value.to_bits()),
            asked: AtomicU64::new(0),
        })
    }

    fn set(&self, value: f64) {
        self.bits.store(value.to_bits(), Ordering::Relaxed);
    }

    fn source(self: &Arc<Self>) -> Option<Arc<dyn SignalSource>> {
        Some(Arc::clone(self) as Arc<dyn SignalSource>)
    }
}

impl SignalSource for Number {
    fn latest(&self, query: &str) -> Option<f64> {
        assert_ne!(query, "panic", "on purpose");
        self.asked.fetch_add(1, Ordering::Relaxed);
        Some(f64::from_bits(self.bits.load(Ordering::Relaxed)))
    }
}

#[test]
fn a_load_scheduler_hears_of_its_multiplier_every_tenth_tick() {
    let number = Number::new(0.5);
    let changing = load_scheduler(Port::Changing(SignalId(0)), false);
    let (control, listener) = running(&policy_of(changing, vec![query("q")]), number.source());
    control.catch_up(8 * SECOND);
    assert!(listener.loads().is_empty());
    control.catch_up(9 * SECOND);
    number.set(-3.0);
    control.catch_up(19 * SECOND);
    number.set(f64::NAN);
    control.catch_up(29 * SECOND + 7);
    let heard: Vec<_> = listener
        .loads()
        .iter()
        .map(|one| (one.load_multiplier, one.pass_through, one.valid_until))
        .collect();
    assert_eq!(
        heard,
        [
            (0.5, false, 59 * SECOND),
            (0.0, false, 69 * SECOND),
            (0.0, true, 79 * SECOND),
        ]
    );
    // The source is asked once for each call of `catch_up`.
    assert_eq!(number.asked.load(Ordering::Relaxed), 4);
}

#[test]
fn a_ramp_is_told_only_when_it_moves() {
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
    let (control, listener) = running(&policy, None);
    control.catch_up(20 * SECOND);
    assert_eq!(listener.percentages(), [25.0, 62.5, 100.0]);
}

#[test]
fn nothing_is_made_for_what_never_changes() {
    let policy = policy_of(load_scheduler(Port::Constant(0.5), false), Vec::new());
    let listener = Arc::new(Listener::default());
    let components = [(policy.components[0].id.clone(), listener)];
    assert!(
        Loop::new(
            &policy,
            &components,
            &FluxMeters::default(),
            "".into(),
            0,
            None
        )
        .is_none()
    );
    let none: Control<Listener> = Control::new(Vec::new(), None);
    assert!(!none.is_on());
    none.catch_up(Nanos::MAX - 1);
}

#[test]
fn tokens_follow_latency_where_a_policy_wants_them_to() {
    let policy = Policy {
        circuit: None,
        ..policy_of(load_scheduler(Port::Constant(0.5), true), Vec::new())
    };
    let (control, listener) = running(&policy, None);
    control.catch_up(0);
    listener.latency.record("slow", 250.0, 0);
    control.catch_up(9 * SECOND);
    let loads = listener.loads();
    assert_eq!(loads.len(), 1);
    assert_eq!(loads[0].load_multiplier, 0.5);
    let tokens: HashMap<_, _> = loads[0].tokens.iter().collect();
    assert_eq!(tokens, HashMap::from([(&Arc::from("slow"), &250.0)]));
}

#[test]
fn a_silence_is_made_up_for_in_turns_and_not_without_end() {
    let policy = policy_of(load_scheduler(Port::Constant(1.0), true), Vec::new());
    let (control, listener) = running(&policy, None);
    // One decision in ten ticks.
    let decisions = || listener.loads().len() as u64;
    let hours = 3600 * SECOND;
    control.catch_up(hours);
    assert_eq!(decisions(), TURN / 10);
    for _ in 0..3 {
        control.catch_up(hours);
    }
    assert_eq!(decisions(), 360);
    control.catch_up(hours + 9 * SECOND - 1);
    assert_eq!(decisions(), 360);
    control.catch_up(hours + 9 * SECOND);
    assert_eq!(decisions(), 361);
    // The end of all time is no end of ticking.
    for _ in 0..2000 {
        control.catch_up(Nanos::MAX);
    }
    assert!(decisions().abs_diff(361 + BACKLOG / 10) <= 1);
}

/// A signal, and the load multipliers of a scheduler that follows it.
fn following() -> (Arc<Number>, Control<Listener>, Arc<Listener>) {
    let number = Number::new(0.5);
    let changing = load_scheduler(Port::Changing(SignalId(0)), false);
    let (control, listener) = running(&policy_of(changing, vec![query("q")]), number.source());
    (number, control, listener)
}

fn multipliers(listener: &Listener) -> Vec<f64> {
    let loads = listener.loads();
    loads.iter().map(|one| one.load_multiplier).collect()
}

#[test]
fn ticks_that_are_made_up_for_hold_the_last_answer_and_the_newest_asks_afresh() {
    let (number, control, listener) = following();
    control.catch_up(0);
    number.set(0.9);
    // The ticks 10, 20, 30 and 40 end periods, and the newest is 45.
    control.catch_up(44 * SECOND + 5);
    assert_eq!(multipliers(&listener), [0.5, 0.5, 0.5, 0.9]);
    let last = listener.loads().pop().expect("it was told");
    assert_eq!(last.valid_until, (44 + 50) * SECOND);
    assert_eq!(number.asked.load(Ordering::Relaxed), 2);
    // Periods go on as they would have.
    number.set(0.7);
    control.catch_up(48 * SECOND);
    assert_eq!(multipliers(&listener).len(), 4);
    control.catch_up(49 * SECOND);
    assert_eq!(multipliers(&listener)[4..], [0.7]);
}

#[test]
fn a_silence_longer_than_a_turn_asks_afresh_only_at_its_end() {
    let (number, control, listener) = following();
    control.catch_up(0);
    number.set(0.9);
    let end = (3 * TURN as Nanos + 4) * SECOND;
    for _ in 0..3 {
        control.catch_up(end);
        let told = multipliers(&listener);
        assert!(told.iter().all(|one| *one == 0.5), "{told:?}");
    }
    control.catch_up(end);
    let told = multipliers(&listener);
    let (last, before) = told.split_last().expect("it was told");
    assert_eq!(*last, 0.9);
    assert!(before.iter().all(|one| *one == 0.5));
    assert_eq!(told.len() as u64, (3 * TURN + 5) / 10);
}

#[test]
fn a_query_of_a_long_interval_that_was_missed_is_asked_at_the_newest_tick() {
    let mut node = query("q");
    if let Op::Query { interval, .. } = &mut node.op {
        *interval = Duration::from_secs(10);
    }
    let number = Number::new(1.0);
    let policy = policy_of(sampler(Port::Changing(SignalId(0))), vec![node]);
    let (control, listener) = running(&policy, number.source());
    control.catch_up(0);
    for (second, value) in [(8, 2.0), (11, 3.0), (18, 4.0), (19, 5.0)] {
        number.set(value);
        control.catch_up(second * SECOND);
    }
    assert_eq!(listener.percentages(), [1.0, 3.0, 5.0]);
}

/// Over a silence, a decider that takes its time has seen the new answer for no time at all.
#[test]
fn a_decider_does_not_think_that_the_newest_answer_held_during_a_silence() {
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
    let number = Number::new(0.0);
    let (control, listener) = running(&policy, number.source());
    control.catch_up(0);
    number.set(1.0);
    control.catch_up(600 * SECOND);
    control.catch_up(602 * SECOND);
    assert_eq!(listener.percentages(), [0.0]);
    control.catch_up(603 * SECOND);
    assert_eq!(listener.percentages(), [0.0, 1.0]);
}

#[test]
fn a_source_that_panics_loses_a_tick_and_no_state() {
    let number = Number::new(1.0);
    let mut policy = policy_of(sampler(Port::Changing(SignalId(0))), vec![query("q")]);
    if let Some(circuit) = &mut policy.circuit {
        circuit.nodes.push(query("panic"));
        circuit.nodes[1].outputs = vec![None];
    }
    let (control, listener) = running(&policy, number.source());
    for second in 0..3 {
        let panics = catch_unwind(AssertUnwindSafe(|| control.catch_up(second * SECOND)));
        assert!(panics.is_err());
    }
    assert_eq!(number.asked.load(Ordering::Relaxed), 3);
    assert!(listener.percentages().is_empty());
}

/// Asks the circuit to tick while it ticks.
#[derive(Debug, Default)]
struct Curious(Mutex<Option<Arc<Control<Listener>>>>);

impl SignalSource for Curious {
    fn latest(&self, _: &str) -> Option<f64> {
        let control = self.0.lock().expect("no test panics here").clone()?;
        control.catch_up(100 * SECOND);
        Some(7.0)
    }
}

#[test]
fn a_source_may_ask_the_engine_itself() {
    let curious = Arc::new(Curious::default());
    let source = Some(Arc::clone(&curious) as Arc<dyn SignalSource>);
    let policy = policy_of(sampler(Port::Changing(SignalId(0))), vec![query("q")]);
    let (control, listener) = running(&policy, source);
    let control = Arc::new(control);
    *curious.0.lock().expect("no test panics here") = Some(Arc::clone(&control));
    control.catch_up(0);
    control.catch_up(SECOND);
    assert_eq!(listener.percentages(), [7.0]);
    *curious.0.lock().expect("no test panics here") = None;
}

#[test]
fn threads_tick_each_tick_once() {
    let number = Number::new(1.0);
    let changing = load_scheduler(Port::Changing(SignalId(0)), false);
    let (control, listener) = running(&policy_of(changing, vec![query("q")]), number.source());
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
    let asked = number.asked.load(Ordering::Relaxed);
    assert!((2..=51).contains(&asked), "{asked}");
    let counted = listener.loads().len();
    assert_eq!(counted, 5);
}

#[test]
fn a_loop_is_known_by_what_it_computes() {
    let first = policy_of(sampler(Port::Changing(SignalId(0))), vec![query("q")]);
    let (control, _) = running(&first, None);
    let parameters = |policy: &Policy| Loop::<Listener>::parameters(policy);
    let known = control.of("p").expect("it has a loop");
    assert!(known.has(&parameters(&first.clone())));
    assert!(control.of("other").is_none());
    let other = policy_of(sampler(Port::Changing(SignalId(0))), vec![query("other")]);
    assert!(!known.has(&parameters(&other)));
}
