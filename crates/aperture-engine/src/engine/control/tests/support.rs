//! Components that only record their settings, a source of signals, and policies for them.

use super::*;

pub(super) const SECOND: Nanos = 1_000_000_000;

/// Records the settings that are applied to it.
#[derive(Debug, Default)]
pub(super) struct RecordingActuator {
    pub(super) settings: Mutex<Vec<Setting>>,
    pub(super) demand: Mutex<Demand>,
    pub(super) latency: WorkloadLatency,
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
    pub(super) fn loads(&self) -> Vec<LoadDecision> {
        let settings = self.settings.lock().expect("the lock is not poisoned");
        let load = |setting: &Setting| match setting {
            Setting::Load(decision) => Some(decision.clone()),
            _ => None,
        };
        settings.iter().filter_map(load).collect()
    }

    pub(super) fn percentages(&self) -> Vec<f64> {
        let settings = self.settings.lock().expect("the lock is not poisoned");
        let percentage = |setting: &Setting| match setting {
            Setting::AcceptPercentage(percentage) => Some(*percentage),
            _ => None,
        };
        settings.iter().filter_map(percentage).collect()
    }
}

pub(super) fn component(id: &str, kind: ComponentKind) -> Component {
    Component {
        id: id.into(),
        selectors: Vec::new(),
        kind,
    }
}

pub(super) fn load_scheduler(load_multiplier: Port, by_latency: bool) -> ComponentKind {
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

pub(super) fn sampler(percentage: Port) -> ComponentKind {
    ComponentKind::Sampler(Sampler {
        accept_percentage: Some(percentage),
        session_label_key: None,
        ramp_mode: false,
        denied_response_status_code: 0,
        pass_through_label_values: Vec::new(),
    })
}

pub(super) fn query(text: &str) -> CircuitNode {
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

pub(super) fn policy_of(kind: ComponentKind, nodes: Vec<CircuitNode>) -> Policy {
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

pub(super) fn control_for(
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
pub(super) struct NumberSource {
    pub(super) bits: AtomicU64,
    pub(super) queries: AtomicU64,
}

impl NumberSource {
    pub(super) fn new(value: f64) -> Arc<Self> {
        Arc::new(Self {
            bits: AtomicU64::new(value.to_bits()),
            queries: AtomicU64::new(0),
        })
    }

    pub(super) fn set(&self, value: f64) {
        self.bits.store(value.to_bits(), Ordering::Relaxed);
    }

    pub(super) fn source(self: &Arc<Self>) -> Option<Arc<dyn SignalSource>> {
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
