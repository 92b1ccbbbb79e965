//! A circuit of components: read, wired, and folded to what decides.
//!
//! Signals that come from constants are computed once, here. What changes while the engine runs and
//! reaches something that decides becomes the policy's circuit; all else is left out.

mod order;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use self::order::in_order;
use super::PolicyError;
use super::components::{self, Place, Wired};
use super::decode::At;
use super::model::{self, Component, ComponentKind, Node, Op, SignalId, SignalName};
use super::ports::{Carried, InPort, Inputs, OutPort, Outlet, Scope, Source};
use super::suggest::hint;
use super::yaml::shortened;

/// The components of a policy, those of nested circuits among them.
pub(super) struct Circuit<'t> {
    policy: String,
    parts: Vec<Wired<'t>>,
    scopes: Vec<Names<'t>>,
    /// The resource's `dynamicConfig`: what it sets, and whether anything asked for it.
    dynamic: HashMap<&'t str, (At<'t>, Cell<bool>)>,
    /// The first component that scales.
    scaling: Option<At<'t>>,
}

/// A circuit without its constants.
pub(super) struct Folded {
    /// What decides, in the order of the text.
    pub(super) deciding: Vec<Component>,
    /// What computes the signals that change.
    pub(super) circuit: Option<model::Circuit>,
    /// See [`model::Policy::unanswered`].
    pub(super) unanswered: Vec<PolicyError>,
    /// See [`model::Policy::signals`].
    pub(super) signals: Vec<SignalName>,
}

/// A circuit's own names.
pub(super) struct Names<'t> {
    id: String,
    /// What leads into a nested circuit, and out of it.
    pub(super) in_ports: Vec<(&'t str, InPort<'t>)>,
    pub(super) out_ports: Vec<(&'t str, OutPort<'t>)>,
    /// Out-ports that something inside feeds.
    pub(super) led_out: Vec<&'t str>,
}

impl<'t> Circuit<'t> {
    pub(super) const ROOT: Scope = 0;

    pub(super) fn new(policy: &str) -> Self {
        let mut circuit = Self {
            policy: policy.to_owned(),
            parts: Vec::new(),
            scopes: Vec::new(),
            dynamic: HashMap::new(),
            scaling: None,
        };
        circuit.open("root");
        circuit
    }

    /// Adds what a document of dynamic configuration sets, in the place of what those before it set
    /// by the same keys.
    pub(super) fn configure(&mut self, at: &At<'t>) -> Result<(), PolicyError> {
        let values = at.free_map()?.into_iter();
        self.dynamic
            .extend(values.map(|(key, at)| (key, (at, Cell::new(false)))));
        Ok(())
    }

    /// A component scales, which does nothing here.
    pub(super) fn scales(&mut self, at: &At<'t>) {
        self.scaling.get_or_insert_with(|| at.clone());
    }

    /// Where a component scales, if one does.
    pub(super) fn scaling(&self) -> Option<At<'t>> {
        self.scaling.clone()
    }

    /// What `dynamicConfig` sets for a component's `config_key`.
    pub(super) fn configured(&self, key: &str) -> Option<At<'t>> {
        let (at, used) = self.dynamic.get(key)?;
        used.set(true);
        (!at.is_null()).then(|| at.clone())
    }

    /// The policy's name.
    pub(super) fn policy(&self) -> &str {
        &self.policy
    }

    /// A circuit inside of another has names of its own.
    pub(super) fn open(&mut self, id: &str) -> Scope {
        self.scopes.push(Names {
            id: id.to_owned(),
            in_ports: Vec::new(),
            out_ports: Vec::new(),
            led_out: Vec::new(),
        });
        self.scopes.len() - 1
    }

    pub(super) fn scope(&mut self, scope: Scope) -> &mut Names<'t> {
        &mut self.scopes[scope]
    }

    pub(super) fn add(&mut self, part: Wired<'t>) {
        self.parts.push(part);
    }

    pub(super) fn place(&self, scope: Scope, index: usize) -> Place {
        let id = format!("{}.{index}", self.scopes[scope].id);
        Place { id, scope }
    }

    /// Reads a list of components, counting them from `first`.
    pub(super) fn read_list(
        &mut self,
        at: &At<'t>,
        scope: Scope,
        first: usize,
    ) -> Result<(), PolicyError> {
        for (index, component) in at.list()?.into_iter().enumerate() {
            let place = self.place(scope, first + index);
            components::read(&component, &place, self)?;
        }
        Ok(())
    }

    /// Folds what is constant, and leaves out what nothing that decides depends on.
    pub(super) fn fold(self, evaluation_interval: Duration) -> Result<Folded, PolicyError> {
        let mut unused: Vec<_> = self
            .dynamic
            .iter()
            .filter(|(_, (_, used))| !used.get())
            .collect();
        unused.sort_unstable_by_key(|(key, _)| **key);
        for (_, (at, _)) in unused {
            at.warn("has no effect: no component of the policy has this `config_key`");
        }
        let wires = self.wire()?;
        let groups = in_order(&wires);
        let values = self.carry(&wires, &groups);
        let needed = self.needed(&wires, &values, |part| part.decides());
        // Nobody has to answer a query while nothing is decided by it.
        let asked = self.needed(&wires, &values, |part| part.decides() && !part.is_idle());
        let order = || groups.iter().flatten().copied();
        let mut signals = HashMap::new();
        for index in order() {
            for port in 0..self.parts[index].outputs.len() {
                if needed.contains(&(index, port)) {
                    // As many as fit in a text.
                    let number = SignalId(signals.len() as u32);
                    signals.insert((index, port), number);
                }
            }
        }

        let mut nodes = Vec::new();
        let mut unanswered = Vec::new();
        for index in order() {
            let part = &self.parts[index];
            let outputs: Vec<_> = (0..part.outputs.len())
                .map(|port| signals.get(&(index, port)).copied())
                .collect();
            let Some(op) = part.part.op() else { continue };
            if outputs.iter().all(Option::is_none) {
                continue;
            }
            if let (Op::Query { text, .. }, Some(output)) = (&op, part.outputs.first())
                && asked.contains(&(index, 0))
            {
                unanswered.push(output.at.error(format!(
                    "`{}` needs the answer to the query `{text}`, which the engine cannot measure \
                     itself: give it a SignalSource, by EngineBuilder::signal_source",
                    part.id
                )));
            }
            let standing = standing(part, &wires[index], &values);
            let inputs = inputs(index, part, &standing, &signals);
            nodes.push(Node {
                id: Arc::from(part.id.as_str()),
                op,
                inputs: (0..standing.len())
                    .map(|port| inputs.port(port))
                    .collect::<Result<_, _>>()?,
                outputs,
            });
        }

        let mut deciding = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            let standing = standing(part, &wires[index], &values);
            let inputs = inputs(index, part, &standing, &signals);
            if let Some((selectors, kind)) = part.part.decide(&inputs)? {
                deciding.push(Component {
                    id: Arc::from(part.id.as_str()),
                    selectors,
                    kind,
                });
            }
        }
        let actuated =
            |component: &Component| matches!(component.kind, ComponentKind::LoadScheduler(_));
        let needed = !nodes.is_empty() || deciding.iter().any(actuated);
        let circuit = needed.then_some(model::Circuit {
            evaluation_interval,
            nodes,
            signals: signals.len() as u32,
        });
        Ok(Folded {
            deciding,
            circuit,
            unanswered,
            signals: self.names(&values, &signals),
        })
    }

    /// The names of the signals that change.
    fn names(
        &self,
        values: &[Vec<Carried>],
        signals: &HashMap<Outlet, SignalId>,
    ) -> Vec<SignalName> {
        let circuits: Vec<Arc<str>> = self
            .scopes
            .iter()
            .map(|scope| Arc::from(scope.id.as_str()))
            .collect();
        let parts = self.parts.iter().zip(values);
        let outputs = parts.flat_map(|(part, values)| part.outputs.iter().zip(values));
        outputs
            .filter_map(|(output, value)| {
                let Carried::Changing(outlet) = value else {
                    return None;
                };
                Some(SignalName {
                    id: *signals.get(outlet)?,
                    circuit: Arc::clone(&circuits[output.scope]),
                    name: Arc::from(output.name?),
                })
            })
            .collect()
    }

    /// The outlets that reach some of the parts.
    fn needed(
        &self,
        wires: &[Vec<Option<Outlet>>],
        values: &[Vec<Carried>],
        by: impl Fn(&dyn components::Part) -> bool,
    ) -> HashSet<Outlet> {
        let mut needed = HashSet::new();
        let mut seen = HashSet::new();
        let counts = |index: &usize| by(&*self.parts[*index].part);
        let mut open: Vec<usize> = (0..self.parts.len()).filter(counts).collect();
        while let Some(index) = open.pop() {
            if !seen.insert(index) {
                continue;
            }
            for value in standing(&self.parts[index], &wires[index], values) {
                if let Carried::Changing(outlet) = value {
                    needed.insert(outlet);
                    open.push(outlet.0);
                }
            }
        }
        needed
    }

    /// For each in-port of each part, the out-port that feeds it; none for constants.
    fn wire(&self) -> Result<Vec<Vec<Option<Outlet>>>, PolicyError> {
        let mut producers: HashMap<(Scope, &str), Outlet> = HashMap::new();
        for (index, part) in self.parts.iter().enumerate() {
            for (port, output) in part.outputs.iter().enumerate() {
                let Some(name) = output.name else { continue };
                if producers
                    .insert((output.scope, name), (index, port))
                    .is_some()
                {
                    let shown = shortened(name);
                    return Err(output
                        .at
                        .error(format!("the signal `{shown}` is produced twice")));
                }
            }
        }
        let outlet = |input: &InPort<'t>| match input.source {
            Source::Constant(_) => Ok(None),
            Source::Signal { scope, name } => match producers.get(&(scope, name)) {
                Some(outlet) => Ok(Some(*outlet)),
                None => {
                    let known = producers.keys().filter(|(other, _)| *other == scope);
                    let hint = hint(name, known.map(|(_, name)| *name));
                    let (shown, circuit) = (shortened(name), &self.scopes[scope].id);
                    Err(input.at.error(format!(
                        "nothing in the circuit `{circuit}` produces the signal `{shown}`{hint}"
                    )))
                }
            },
        };
        self.parts
            .iter()
            .map(|part| part.inputs.iter().map(outlet).collect())
            .collect()
    }

    /// What every out-port carries.
    fn carry(&self, wires: &[Vec<Option<Outlet>>], groups: &[Vec<usize>]) -> Vec<Vec<Carried>> {
        let unknown = HashMap::new();
        let mut values: Vec<Vec<Carried>> = self
            .parts
            .iter()
            .map(|part| vec![Carried::INVALID; part.outputs.len()])
            .collect();
        let evaluate = |index: usize, values: &[Vec<Carried>]| {
            let part = &self.parts[index];
            let standing = standing(part, &wires[index], values);
            let inputs = inputs(index, part, &standing, &unknown);
            let mut carried = part.part.carry(&inputs);
            carried.resize(part.outputs.len(), Carried::INVALID);
            carried
        };
        for group in groups {
            // Around a loop everything is invalid at first, and stays so when that is what comes
            // back; a loop that makes something of nothing does not stand still.
            let carried: Vec<_> = group
                .iter()
                .map(|&index| evaluate(index, &values))
                .collect();
            let looping = group.len() > 1 || feeds_itself(wires, group[0]);
            let still = carried.iter().flatten().all(Carried::is_invalid);
            for (&index, carried) in group.iter().zip(carried) {
                values[index] = if looping && !still {
                    let origin: Rc<str> = Rc::from(format!(
                        "a loop of signals through `{}`",
                        self.parts[index].id
                    ));
                    vec![Carried::Beyond(origin); carried.len()]
                } else {
                    carried
                };
            }
        }
        values
    }
}

fn inputs<'a, 't>(
    part: usize,
    wired: &'a Wired<'t>,
    values: &'a [Carried],
    signals: &'a HashMap<Outlet, SignalId>,
) -> Inputs<'a, 't> {
    Inputs {
        part,
        ports: &wired.inputs,
        values,
        signals,
    }
}

fn standing(part: &Wired<'_>, wires: &[Option<Outlet>], values: &[Vec<Carried>]) -> Vec<Carried> {
    part.inputs
        .iter()
        .zip(wires)
        .map(|(input, wire)| match (wire, &input.source) {
            (Some((index, port)), _) => values[*index][*port].clone(),
            (None, Source::Constant(value)) => Carried::Steady(*value),
            (None, Source::Signal { .. }) => Carried::INVALID,
        })
        .collect()
}

fn feeds_itself(wires: &[Vec<Option<Outlet>>], index: usize) -> bool {
    wires[index]
        .iter()
        .flatten()
        .any(|(from, _)| *from == index)
}
