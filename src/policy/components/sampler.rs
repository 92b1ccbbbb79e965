//! `sampler`: lets a share of the flows pass.

use super::{At, Circuit, Decides, Place, PolicyError, named};
use crate::policy::decode::Object;
use crate::policy::model::{ComponentKind, Port, Sampler, Selector};
use crate::policy::ports::{self, InPort};
use crate::policy::{selector, status_code};

pub(super) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(&[
        "in_ports",
        "parameters",
        "pass_through_label_values",
        "pass_through_label_values_config_key",
    ])?;
    let wires = fields.object("in_ports", &["accept_percentage"])?;
    let input = wires
        .and_then(|wires| wires.get("accept_percentage"))
        .map(|at| ports::in_port(at, place.scope))
        .transpose()?;
    if input.is_none() {
        fields
            .at
            .warn("drops every flow: without `in_ports.accept_percentage` the percentage stays 0");
    }
    let (selectors, mut settings) = settings(fields.required("parameters")?)?;
    pass_through(&fields, circuit, &mut settings)?;
    add(place, selectors, settings, input, circuit);
    Ok(())
}

/// The `parameters` of a sampler.
pub(super) fn settings(at: At<'_>) -> Result<(Vec<Selector>, Sampler), PolicyError> {
    let fields = at.object(&[
        "selectors",
        "session_label_key",
        "ramp_mode",
        "denied_response_status_code",
    ])?;
    let mut sampler = Sampler {
        accept_percentage: None,
        session_label_key: fields.text("session_label_key")?.and_then(named),
        ramp_mode: fields.boolean("ramp_mode", false)?,
        denied_response_status_code: 0,
        pass_through_label_values: Vec::new(),
    };
    if let Some(at) = fields.scalar("denied_response_status_code") {
        sampler.denied_response_status_code = status_code::decode(&at)?;
    }
    Ok((selector::selectors(&fields, "selectors")?, sampler))
}

/// The values of the session label that always pass, of a sampler or of a ramp around one.
pub(super) fn pass_through<'t>(
    fields: &Object<'t>,
    circuit: &Circuit<'t>,
    sampler: &mut Sampler,
) -> Result<(), PolicyError> {
    if let Some(list) = fields.get("pass_through_label_values") {
        for at in list.list()? {
            sampler.pass_through_label_values.push(at.text()?.into());
        }
    }
    if let Some(key) = fields.text("pass_through_label_values_config_key")?
        && let Some(at) = circuit.configured(key)
    {
        at.warn(
            "has no effect, as on an Agent: the values of `pass_through_label_values` stay in \
             force",
        );
    }
    Ok(())
}

/// Adds a sampler, also the one inside of a ramp.
pub(super) fn add<'t>(
    place: &Place,
    selectors: Vec<Selector>,
    settings: Sampler,
    input: Option<InPort<'t>>,
    circuit: &mut Circuit<'t>,
) {
    let wired = input.is_some();
    let part = Decides::new("sampler", place, selectors, move |inputs| {
        let mut sampler = settings.clone();
        sampler.accept_percentage = wired.then(|| inputs.port(0)).transpose()?;
        let note = match sampler.accept_percentage {
            Some(Port::Constant(percentage)) if percentage.is_nan() => {
                Some(match sampler.ramp_mode {
                    true => "rejects everything: its percentage is invalid",
                    false => "lets everything pass: its percentage is invalid",
                })
            }
            Some(Port::Constant(percentage)) if percentage <= 0.0 => {
                Some("rejects everything: its percentage is not more than zero")
            }
            _ => None,
        };
        if let (Some(note), Some(port)) = (note, inputs.ports.first()) {
            port.at.warn(note);
        }
        Ok(ComponentKind::Sampler(sampler))
    });
    circuit.add(part.wired(place, input.into_iter().collect(), Vec::new()));
}
