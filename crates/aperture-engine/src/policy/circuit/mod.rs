//! Builds the circuit of a policy: collects its components, connects their signals, and folds it to
//! the components that decide.
//!
//! Signals that depend only on constants are computed here, once. A signal that changes while the
//! engine runs and reaches a component that decides becomes part of the circuit of the policy.
//! Other signals are left out.

mod component;
mod order;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub(super) use self::component::{
    ComponentBehaviour, ComponentLocation, RuntimeComponent, SelectedComponent, SignalForwarder,
    WiredComponent,
};
use self::order::evaluation_order;
use super::PolicyError;
use super::decode::DocumentNode;
use super::model::{self, CircuitNode, Component, ComponentKind, Op, SignalId, SignalName};
use super::ports::{
    FoldedSignal, InPort, InputSignals, OutPort, OutPortIndex, PortSource, ScopeIndex,
};
use super::suggest::hint;
use super::yaml::shortened;

/// The components of a policy, including those of nested circuits.
pub(super) struct CircuitBuilder<'t> {
    policy: String,
    components: Vec<WiredComponent<'t>>,
    scopes: Vec<CircuitScope<'t>>,
    /// The values of dynamic configuration by key, each with a flag that is set once a component
    /// reads it.
    dynamic: HashMap<&'t str, (DocumentNode<'t>, Cell<bool>)>,
    /// The first component that scales, if there is one.
    scaling: Option<DocumentNode<'t>>,
}

/// A circuit whose constant signals have been computed.
pub(super) struct FoldedCircuit {
    /// The components that decide, in the order of the text.
    pub(super) deciding: Vec<Component>,
    /// The nodes that compute the signals which change.
    pub(super) circuit: Option<model::Circuit>,
    /// See [`model::Policy::unanswered_queries`].
    pub(super) unanswered_queries: Vec<PolicyError>,
    /// See [`model::Policy::signals`].
    pub(super) signals: Vec<SignalName>,
}

/// The scope of the names of signals: the root circuit or a nested one.
pub(super) struct CircuitScope<'t> {
    id: String,
    /// The named ports of a nested circuit, with the ports of the outer circuit that they map to.
    pub(super) in_ports: Vec<(&'t str, InPort<'t>)>,
    pub(super) out_ports: Vec<(&'t str, OutPort<'t>)>,
    /// The out-ports that an egress inside of the circuit feeds.
    pub(super) fed_out_ports: Vec<&'t str>,
}

impl<'t> CircuitBuilder<'t> {
    pub(super) const ROOT: ScopeIndex = 0;

    pub(super) fn new(policy: &str) -> Self {
        let mut circuit = Self {
            policy: policy.to_owned(),
            components: Vec::new(),
            scopes: Vec::new(),
            dynamic: HashMap::new(),
            scaling: None,
        };
        circuit.open_scope("root");
        circuit
    }

    /// Adds the values of a document of dynamic configuration. They replace earlier values of the
    /// same keys.
    pub(super) fn add_dynamic_config(
        &mut self,
        node: &DocumentNode<'t>,
    ) -> Result<(), PolicyError> {
        let values = node.free_map()?.into_iter();
        self.dynamic
            .extend(values.map(|(key, node)| (key, (node, Cell::new(false)))));
        Ok(())
    }

    /// Records that a component scales.
    pub(super) fn record_scaling(&mut self, node: &DocumentNode<'t>) {
        self.scaling.get_or_insert_with(|| node.clone());
    }

    /// Returns the first component that scales.
    pub(super) fn scaling(&self) -> Option<DocumentNode<'t>> {
        self.scaling.clone()
    }

    /// Returns the value that dynamic configuration sets for a `config_key`, and marks it as used.
    pub(super) fn dynamic_value(&self, key: &str) -> Option<DocumentNode<'t>> {
        let (node, used) = self.dynamic.get(key)?;
        used.set(true);
        (!node.is_null()).then(|| node.clone())
    }

    /// Returns the name of the policy.
    pub(super) fn policy(&self) -> &str {
        &self.policy
    }

    /// Opens a scope for the names of a circuit.
    pub(super) fn open_scope(&mut self, id: &str) -> ScopeIndex {
        self.scopes.push(CircuitScope {
            id: id.to_owned(),
            in_ports: Vec::new(),
            out_ports: Vec::new(),
            fed_out_ports: Vec::new(),
        });
        self.scopes.len() - 1
    }

    pub(super) fn scope_mut(&mut self, scope: ScopeIndex) -> &mut CircuitScope<'t> {
        &mut self.scopes[scope]
    }

    pub(super) fn add(&mut self, component: WiredComponent<'t>) {
        self.components.push(component);
    }

    pub(super) fn location(&self, scope: ScopeIndex, index: usize) -> ComponentLocation {
        let id = format!("{}.{index}", self.scopes[scope].id);
        ComponentLocation { id, scope }
    }

    /// Computes the constant signals, and leaves out components on which no component that decides
    /// depends.
    pub(super) fn fold(self, evaluation_interval: Duration) -> Result<FoldedCircuit, PolicyError> {
        let mut unused: Vec<_> = self
            .dynamic
            .iter()
            .filter(|(_, (_, used))| !used.get())
            .collect();
        unused.sort_unstable_by_key(|(key, _)| **key);
        for (_, (node, _)) in unused {
            node.warn("has no effect: no component of the policy has this `config_key`");
        }
        let sources = self.find_sources()?;
        let groups = evaluation_order(&sources);
        let values = self.fold_outputs(&sources, &groups);
        let needed = self.out_ports_reaching(&sources, &values, |behaviour| behaviour.decides());
        // A query needs a source only if its result affects a decision at present.
        let queried = self.out_ports_reaching(&sources, &values, |behaviour| {
            behaviour.decides() && !behaviour.passes_everything()
        });
        let order = || groups.iter().flatten().copied();
        let mut signals = HashMap::new();
        for index in order() {
            for port in 0..self.components[index].outputs.len() {
                if needed.contains(&(index, port)) {
                    // The size of a text bounds the number of signals, so the cast does not
                    // truncate.
                    let number = SignalId(signals.len() as u32);
                    signals.insert((index, port), number);
                }
            }
        }

        let mut nodes = Vec::new();
        let mut unanswered_queries = Vec::new();
        for index in order() {
            let component = &self.components[index];
            let outputs: Vec<_> = (0..component.outputs.len())
                .map(|port| signals.get(&(index, port)).copied())
                .collect();
            let Some(op) = component.behaviour.op() else {
                continue;
            };
            if outputs.iter().all(Option::is_none) {
                continue;
            }
            if let (Op::Query { text, .. }, Some(output)) = (&op, component.outputs.first())
                && queried.contains(&(index, 0))
            {
                unanswered_queries.push(output.node.error(format!(
                    "`{}` needs the result of the query `{text}`, which the engine cannot measure \
                     itself: provide a SignalSource with EngineBuilder::signal_source",
                    component.id
                )));
            }
            let input_signals = input_signals(component, &sources[index], &values);
            let inputs = inputs(index, component, &input_signals, &signals);
            nodes.push(CircuitNode {
                id: Arc::from(component.id.as_str()),
                op,
                inputs: (0..input_signals.len())
                    .map(|port| inputs.port(port))
                    .collect::<Result<_, _>>()?,
                outputs,
            });
        }

        let mut deciding = Vec::new();
        for (index, component) in self.components.iter().enumerate() {
            let input_signals = input_signals(component, &sources[index], &values);
            let inputs = inputs(index, component, &input_signals, &signals);
            if let Some((selectors, kind)) = component.behaviour.build(&inputs)? {
                deciding.push(Component {
                    id: Arc::from(component.id.as_str()),
                    selectors,
                    kind,
                });
            }
        }
        let actuated =
            |component: &Component| matches!(component.kind, ComponentKind::LoadScheduler(_));
        let has_circuit = !nodes.is_empty() || deciding.iter().any(actuated);
        let circuit = has_circuit.then_some(model::Circuit {
            evaluation_interval,
            nodes,
            signals: signals.len() as u32,
        });
        Ok(FoldedCircuit {
            deciding,
            circuit,
            unanswered_queries,
            signals: self.signal_names(&values, &signals),
        })
    }

    /// Returns the names of the signals that change.
    fn signal_names(
        &self,
        values: &[Vec<FoldedSignal>],
        signals: &HashMap<OutPortIndex, SignalId>,
    ) -> Vec<SignalName> {
        let circuits: Vec<Arc<str>> = self
            .scopes
            .iter()
            .map(|scope| Arc::from(scope.id.as_str()))
            .collect();
        let components = self.components.iter().zip(values);
        let outputs =
            components.flat_map(|(component, values)| component.outputs.iter().zip(values));
        outputs
            .filter_map(|(output, value)| {
                let FoldedSignal::Changing(out_port) = value else {
                    return None;
                };
                Some(SignalName {
                    id: *signals.get(out_port)?,
                    circuit: Arc::clone(&circuits[output.scope]),
                    name: Arc::from(output.name?),
                })
            })
            .collect()
    }

    /// Returns the out-ports whose signals reach a component for which `selected` is true.
    fn out_ports_reaching(
        &self,
        sources: &[Vec<Option<OutPortIndex>>],
        values: &[Vec<FoldedSignal>],
        selected: impl Fn(&dyn ComponentBehaviour) -> bool,
    ) -> HashSet<OutPortIndex> {
        let mut needed = HashSet::new();
        let mut seen = HashSet::new();
        let is_selected = |index: &usize| selected(&*self.components[*index].behaviour);
        let mut pending: Vec<usize> = (0..self.components.len()).filter(is_selected).collect();
        while let Some(index) = pending.pop() {
            if !seen.insert(index) {
                continue;
            }
            for value in input_signals(&self.components[index], &sources[index], values) {
                if let FoldedSignal::Changing(out_port) = value {
                    needed.insert(out_port);
                    pending.push(out_port.0);
                }
            }
        }
        needed
    }

    /// Returns the out-port that feeds each in-port of each component; `None` for constants.
    fn find_sources(&self) -> Result<Vec<Vec<Option<OutPortIndex>>>, PolicyError> {
        let mut producers: HashMap<(ScopeIndex, &str), OutPortIndex> = HashMap::new();
        for (index, component) in self.components.iter().enumerate() {
            for (port, output) in component.outputs.iter().enumerate() {
                let Some(name) = output.name else { continue };
                if producers
                    .insert((output.scope, name), (index, port))
                    .is_some()
                {
                    let shown = shortened(name);
                    return Err(output
                        .node
                        .error(format!("the signal `{shown}` is produced twice")));
                }
            }
        }
        let out_port = |input: &InPort<'t>| match input.source {
            PortSource::Constant(_) => Ok(None),
            PortSource::Signal { scope, name } => match producers.get(&(scope, name)) {
                Some(out_port) => Ok(Some(*out_port)),
                None => {
                    let known = producers.keys().filter(|(other, _)| *other == scope);
                    let hint = hint(name, known.map(|(_, name)| *name));
                    let (shown, circuit) = (shortened(name), &self.scopes[scope].id);
                    Err(input.node.error(format!(
                        "no component of the circuit `{circuit}` produces the signal `{shown}`{hint}"
                    )))
                }
            },
        };
        self.components
            .iter()
            .map(|component| component.inputs.iter().map(out_port).collect())
            .collect()
    }

    /// Returns the signal at every out-port.
    fn fold_outputs(
        &self,
        sources: &[Vec<Option<OutPortIndex>>],
        groups: &[Vec<usize>],
    ) -> Vec<Vec<FoldedSignal>> {
        let no_signal_ids = HashMap::new();
        let mut values: Vec<Vec<FoldedSignal>> = self
            .components
            .iter()
            .map(|component| vec![FoldedSignal::INVALID; component.outputs.len()])
            .collect();
        let evaluate = |index: usize, values: &[Vec<FoldedSignal>]| {
            let component = &self.components[index];
            let input_signals = input_signals(component, &sources[index], values);
            let inputs = inputs(index, component, &input_signals, &no_signal_ids);
            let mut outputs = component.behaviour.fold_outputs(&inputs);
            outputs.resize(component.outputs.len(), FoldedSignal::INVALID);
            outputs
        };
        for group in groups {
            // All signals of a loop start invalid. If one evaluation leaves them all invalid, they
            // stay so; otherwise the loop changes, which is not supported.
            let outputs: Vec<_> = group
                .iter()
                .map(|&index| evaluate(index, &values))
                .collect();
            let is_loop = group.len() > 1 || feeds_itself(sources, group[0]);
            let stays_invalid = outputs.iter().flatten().all(FoldedSignal::is_invalid);
            for (&index, outputs) in group.iter().zip(outputs) {
                values[index] = if is_loop && !stays_invalid {
                    let origin: Rc<str> = Rc::from(format!(
                        "a loop of signals through `{}`",
                        self.components[index].id
                    ));
                    vec![FoldedSignal::Unsupported(origin); outputs.len()]
                } else {
                    outputs
                };
            }
        }
        values
    }
}

fn inputs<'a, 't>(
    index: usize,
    component: &'a WiredComponent<'t>,
    values: &'a [FoldedSignal],
    signals: &'a HashMap<OutPortIndex, SignalId>,
) -> InputSignals<'a, 't> {
    InputSignals {
        component_index: index,
        ports: &component.inputs,
        values,
        signal_ids: signals,
    }
}

fn input_signals(
    component: &WiredComponent<'_>,
    sources: &[Option<OutPortIndex>],
    values: &[Vec<FoldedSignal>],
) -> Vec<FoldedSignal> {
    component
        .inputs
        .iter()
        .zip(sources)
        .map(|(input, source)| match (source, &input.source) {
            (Some((index, port)), _) => values[*index][*port].clone(),
            (None, PortSource::Constant(value)) => FoldedSignal::Constant(*value),
            (None, PortSource::Signal { .. }) => FoldedSignal::INVALID,
        })
        .collect()
}

fn feeds_itself(sources: &[Vec<Option<OutPortIndex>>], index: usize) -> bool {
    sources[index]
        .iter()
        .flatten()
        .any(|(from, _)| *from == index)
}
