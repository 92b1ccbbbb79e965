//! `signal_generator`: leads a signal through steps.

use super::{At, Carried, Circuit, Inputs, Op, Part, Place, PolicyError, Wired, positive};
use crate::policy::model::RampStep;
use crate::policy::ports;

/// Its inputs lead it forward, backward, or to the beginning.
pub(super) struct Generator(pub(super) Vec<RampStep>);

impl Part for Generator {
    fn carry(&self, inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        let on = |value: &f64| !value.is_nan() && *value != 0.0;
        let moves = |values: Vec<f64>| on(&values[0]) && !on(&values[1]) && !on(&values[2]);
        if inputs.all_steady().is_none_or(moves) {
            return (0..3).map(|port| inputs.computed(port)).collect();
        }
        // It stays where it begins.
        let first = self
            .0
            .first()
            .map_or(f64::NAN, |step| step.target_accept_percentage);
        [first, 1.0, 0.0].map(Carried::Steady).into()
    }

    fn op(&self) -> Option<Op> {
        let steps = self.0.clone();
        Some(Op::SignalGenerator { steps })
    }
}

pub(super) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(&["in_ports", "out_ports", "parameters"])?;
    let parameters = fields.required("parameters")?.object(&["steps"])?;
    let target = |at: At<'t>| {
        let fields = at.object(&["target_output", "duration"])?;
        let target = fields.get("target_output").map(ports::constant_signal);
        Ok(RampStep {
            target_accept_percentage: target.transpose()?.unwrap_or(0.0),
            duration: positive(fields.required("duration")?.duration()?),
        })
    };
    let steps = steps(&parameters.required("steps")?, target)?;
    let known = &["forward", "backward", "reset"];
    circuit.add(Wired {
        id: place.id.clone(),
        inputs: ports::optional(&fields, known, place.scope)?,
        outputs: ports::out_ports(&fields, &["output", "at_start", "at_end"], place.scope)?,
        part: Box::new(Generator(steps)),
    });
    Ok(())
}

/// One step at least.
pub(super) fn steps<'t>(
    list: &At<'t>,
    read: impl Fn(At<'t>) -> Result<RampStep, PolicyError>,
) -> Result<Vec<RampStep>, PolicyError> {
    let steps = list.list()?;
    if steps.is_empty() {
        return Err(list.error("at least one step is required"));
    }
    steps.into_iter().map(read).collect()
}
