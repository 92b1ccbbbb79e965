//! Counts the values of the signals of a circuit, for metrics.

use std::sync::Arc;

use super::circuit::RunningCircuit;
use crate::engine::sync::Mutex;
use crate::policy::{Port, SignalName};

/// The readings of one signal, one for each evaluation of its circuit.
#[derive(Clone, Debug)]
pub struct SignalReadings {
    /// The name of the policy.
    pub policy_name: Arc<str>,
    /// The id of the circuit in the policy, `root` or nested.
    pub circuit: Arc<str>,
    /// The name of the signal.
    pub name: Arc<str>,
    /// The number of finite readings.
    pub count: u64,
    /// The sum of the finite readings.
    pub sum: f64,
    /// The number of readings without a valid value.
    pub invalid: u64,
    /// The number of infinite readings.
    pub infinite: u64,
}

/// The readings of the named signals of one circuit, as many as its policy names.
#[derive(Debug)]
pub(super) struct CircuitReadings(Mutex<Box<[(Port, SignalReadings)]>>);

impl CircuitReadings {
    pub(super) fn new(policy: &Arc<str>, signals: &[SignalName]) -> Self {
        let all = signals.iter().map(|signal| {
            let readings = SignalReadings {
                policy_name: Arc::clone(policy),
                circuit: Arc::clone(&signal.circuit),
                name: Arc::clone(&signal.name),
                count: 0,
                sum: 0.0,
                invalid: 0,
                infinite: 0,
            };
            (Port::Changing(signal.id), readings)
        });
        Self(Mutex::new(all.collect()))
    }

    /// Records the values of the signals after a tick.
    pub(super) fn record(&self, circuit: &RunningCircuit) {
        for (port, readings) in &mut *super::loop_state::lock(&self.0) {
            let value = circuit.read(*port);
            if value.is_nan() {
                readings.invalid += 1;
            } else if value.is_infinite() {
                readings.infinite += 1;
            } else {
                readings.count += 1;
                readings.sum += value;
            }
        }
    }

    pub(super) fn all(&self) -> Vec<SignalReadings> {
        let all = super::loop_state::lock(&self.0);
        all.iter().map(|(_, readings)| readings.clone()).collect()
    }
}
