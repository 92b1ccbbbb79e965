//! `nested_circuit` and the two components that lead signals in and out of it.

use super::{At, Carried, Circuit, Inputs, Part, Place, PolicyError, Wired};
use crate::policy::decode::Object;
use crate::policy::ports::{self, Scope};
use crate::policy::yaml::shortened;

/// Hands on what it gets.
pub(super) struct Wire;

impl Part for Wire {
    fn carry(&self, inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        inputs.values.to_vec()
    }
}

/// Consumes the signals of the circuit's in-ports, so that they must exist even when nothing
/// inside listens, and produces what nothing inside leads out.
struct Shell {
    silent: usize,
}

impl Part for Shell {
    fn carry(&self, _inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        vec![Carried::INVALID; self.silent]
    }
}

pub(super) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(&["name", "in_ports_map", "out_ports_map", "components"])?;
    fields.text("name")?;
    let inner = circuit.open(&place.id);
    let mut consumed = Vec::new();
    if let Some(ports) = fields.get("in_ports_map") {
        for (name, at) in ports.free_map()? {
            let port = ports::in_port(at, place.scope)?;
            consumed.push(port.clone());
            circuit.scope(inner).in_ports.push((name, port));
        }
    }
    if let Some(ports) = fields.get("out_ports_map") {
        for (name, at) in ports.free_map()? {
            let port = ports::produced(at, place.scope)?;
            circuit.scope(inner).out_ports.push((name, port));
        }
    }
    if let Some(components) = fields.get("components") {
        circuit.read_list(&components, inner, 0)?;
    }
    let led_out = std::mem::take(&mut circuit.scope(inner).led_out);
    let mut silent = std::mem::take(&mut circuit.scope(inner).out_ports);
    silent.retain(|(name, _)| !led_out.contains(name));
    for (name, port) in &silent {
        port.at.warn(format!(
            "no `nested_signal_egress` leads `{name}` out, so it stays invalid"
        ));
    }
    circuit.add(Wired {
        id: place.id.clone(),
        inputs: consumed,
        part: Box::new(Shell {
            silent: silent.len(),
        }),
        outputs: silent.into_iter().map(|(_, port)| port).collect(),
    });
    Ok(())
}

pub(super) fn read_ingress<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(&["port_name", "out_ports"])?;
    let name = port_name(&fields, place.scope)?;
    let ports = &circuit.scope(place.scope).in_ports;
    let input = ports
        .iter()
        .find(|(port, _)| *port == name)
        .map_or_else(|| ports::unwired(&fields.at), |(_, port)| port.clone());
    let outputs = ports::out_ports(&fields, &["signal"], place.scope)?;
    circuit.add(Wired {
        id: place.id.clone(),
        inputs: vec![input],
        outputs,
        part: Box::new(Wire),
    });
    Ok(())
}

pub(super) fn read_egress<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(&["port_name", "in_ports"])?;
    let name = port_name(&fields, place.scope)?;
    let inputs = ports::optional(&fields, &["signal"], place.scope)?;
    let scope = circuit.scope(place.scope);
    if scope.led_out.contains(&name) {
        let shown = shortened(name);
        return Err(fields
            .at
            .error(format!("a second egress of the port `{shown}`")));
    }
    scope.led_out.push(name);
    let mapped = scope.out_ports.iter().find(|(port, _)| *port == name);
    let output = match mapped {
        Some((_, port)) => port.clone(),
        None => ports::nobody(&fields.at, place.scope),
    };
    circuit.add(Wired {
        id: place.id.clone(),
        inputs,
        outputs: vec![output],
        part: Box::new(Wire),
    });
    Ok(())
}

fn port_name<'t>(fields: &Object<'t>, scope: Scope) -> Result<&'t str, PolicyError> {
    if scope == Circuit::ROOT {
        return Err(fields.at.error("stands outside of any nested circuit"));
    }
    fields.required_text("port_name")
}
