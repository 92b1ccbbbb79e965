//! Reads `nested_circuit` and the two components that pass signals into it and out of it.

use super::{
    CircuitBuilder, ComponentBehaviour, ComponentLocation, DocumentNode, FoldedSignal,
    InputSignals, PolicyError, SignalForwarder, WiredComponent, read_list,
};
use crate::policy::decode::{Field, FieldValue, Object, Section};
use crate::policy::ports::{self, ScopeIndex};
use crate::policy::yaml::shortened;

/// The fields of a nested circuit.
pub(super) static FIELDS: Section = Section::new(
    "Nested circuit",
    &[&[
        Field::optional("name", FieldValue::Text, "A name for people."),
        Field::optional(
            "in_ports_map",
            FieldValue::Map(&ports::IN_PORT),
            "The signals for the ingress components inside, by the names of their ports.",
        ),
        Field::optional(
            "out_ports_map",
            FieldValue::Map(&ports::OUT_PORT),
            "The signals of the egress components inside, by the names of their ports.",
        ),
        Field::optional(
            "components",
            FieldValue::Components,
            "The components inside.",
        ),
    ]],
);

const PORT_NAME: Field = Field::required(
    "port_name",
    FieldValue::Name,
    "The name of the port in the map of the nested circuit.",
);

/// The fields of an ingress.
pub(super) static INGRESS: Section = Section::new(
    "Nested signal ingress",
    &[&[
        PORT_NAME,
        Field::optional(
            "out_ports",
            FieldValue::Section(&SIGNAL_OUT),
            "The signal inside.",
        ),
    ]],
);

static SIGNAL_OUT: Section = Section::new("", &[&[ports::output("signal", "The signal.")]]);

/// The fields of an egress.
pub(super) static EGRESS: Section = Section::new(
    "Nested signal egress",
    &[&[
        PORT_NAME,
        Field::optional(
            "in_ports",
            FieldValue::Section(&SIGNAL_IN),
            "The signal inside.",
        ),
    ]],
);

static SIGNAL_IN: Section = Section::new("", &[&[ports::port("signal", "The signal.")]]);

/// Consumes the signals at the circuit's in-ports, so that they must exist even if no component
/// inside uses them. Produces invalid signals at the out-ports that no egress feeds.
struct NestedCircuitBoundary {
    unfed: usize,
}

impl ComponentBehaviour for NestedCircuitBoundary {
    fn fold_outputs(&self, _inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        vec![FoldedSignal::INVALID; self.unfed]
    }
}

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&FIELDS)?;
    fields.text("name")?;
    let inner = circuit.open_scope(&location.id);
    let mut consumed = Vec::new();
    if let Some(ports) = fields.get("in_ports_map") {
        for (name, node) in ports.free_map()? {
            let port = ports::in_port(node, location.scope)?;
            consumed.push(port.clone());
            circuit.scope_mut(inner).in_ports.push((name, port));
        }
    }
    if let Some(ports) = fields.get("out_ports_map") {
        for (name, node) in ports.free_map()? {
            let port = ports::out_port(node, location.scope)?;
            circuit.scope_mut(inner).out_ports.push((name, port));
        }
    }
    if let Some(components) = fields.get("components") {
        read_list(&components, inner, 0, circuit)?;
    }
    let fed_out_ports = std::mem::take(&mut circuit.scope_mut(inner).fed_out_ports);
    let mut unfed = std::mem::take(&mut circuit.scope_mut(inner).out_ports);
    unfed.retain(|(name, _)| !fed_out_ports.contains(name));
    for (name, port) in &unfed {
        port.node.warn(format!(
            "no `nested_signal_egress` feeds the out-port `{name}`, so it stays invalid"
        ));
    }
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs: consumed,
        behaviour: Box::new(NestedCircuitBoundary { unfed: unfed.len() }),
        outputs: unfed.into_iter().map(|(_, port)| port).collect(),
    });
    Ok(())
}

pub(super) fn read_ingress<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&INGRESS)?;
    let name = port_name(&fields, location.scope)?;
    let ports = &circuit.scope_mut(location.scope).in_ports;
    let input = ports
        .iter()
        .find(|(port, _)| *port == name)
        .map_or_else(|| ports::unwired(&fields.node), |(_, port)| port.clone());
    let outputs = ports::out_ports(&fields, &SIGNAL_OUT, location.scope)?;
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs: vec![input],
        outputs,
        behaviour: Box::new(SignalForwarder),
    });
    Ok(())
}

pub(super) fn read_egress<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&EGRESS)?;
    let name = port_name(&fields, location.scope)?;
    let inputs = ports::optional_in_ports(&fields, &SIGNAL_IN, location.scope)?;
    let scope = circuit.scope_mut(location.scope);
    if scope.fed_out_ports.contains(&name) {
        let shown = shortened(name);
        return Err(fields
            .node
            .error(format!("a second egress of the port `{shown}`")));
    }
    scope.fed_out_ports.push(name);
    let mapped = scope.out_ports.iter().find(|(port, _)| *port == name);
    let output = match mapped {
        Some((_, port)) => port.clone(),
        None => ports::unused_out_port(&fields.node, location.scope),
    };
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs,
        outputs: vec![output],
        behaviour: Box::new(SignalForwarder),
    });
    Ok(())
}

fn port_name<'t>(fields: &Object<'t>, scope: ScopeIndex) -> Result<&'t str, PolicyError> {
    if scope == CircuitBuilder::ROOT {
        return Err(fields
            .node
            .error("is only allowed inside of a nested circuit"));
    }
    fields.required_text("port_name")
}
