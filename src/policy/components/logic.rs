//! `and`, `or`, `inverter`, `first_valid`, `switcher`: signals as booleans, and choices among
//! signals.

use super::{At, Carried, Circuit, Inputs, Op, Part, Place, PolicyError, Wired};
use crate::policy::model::Signal;
use crate::policy::ports;

/// What is known of a boolean: `None` when the signal is invalid.
fn truth(value: Signal) -> Option<bool> {
    (!value.is_nan()).then_some(value != 0.0)
}

fn signal(truth: Option<bool>) -> Signal {
    truth.map_or(f64::NAN, |truth| f64::from(u8::from(truth)))
}

/// All inputs, or any of them; one that settles the matter makes the others not matter.
pub(in crate::policy) struct Junction {
    /// The value of an input that settles it: false for all, true for any.
    settles: bool,
}

pub(in crate::policy) const ALL: Junction = Junction { settles: false };
pub(in crate::policy) const ANY: Junction = Junction { settles: true };

impl Part for Junction {
    fn carry(&self, inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        let settled = |value: &Carried| match value {
            Carried::Steady(value) => truth(*value) == Some(self.settles),
            _ => false,
        };
        if inputs.values.iter().any(settled) {
            return vec![Carried::Steady(signal(Some(self.settles)))];
        }
        vec![inputs.folded(|values| {
            let unknown = values.iter().any(|value| value.is_nan());
            signal((!unknown).then_some(!self.settles))
        })]
    }

    fn op(&self) -> Option<Op> {
        Some(if self.settles { Op::Or } else { Op::And })
    }
}

/// The contrary.
pub(in crate::policy) struct Inverter;

impl Part for Inverter {
    fn carry(&self, inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        vec![inputs.folded(|values| signal(truth(values[0]).map(|truth| !truth)))]
    }

    fn op(&self) -> Option<Op> {
        Some(Op::Inverter)
    }
}

/// The first of its inputs that is valid.
pub(in crate::policy) struct FirstValid;

impl Part for FirstValid {
    fn carry(&self, inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        let first = inputs.values.iter().find(|value| !value.is_invalid());
        vec![match first {
            None => Carried::INVALID,
            Some(Carried::Steady(value)) => Carried::Steady(*value),
            Some(_) => inputs.computed(0),
        }]
    }

    fn op(&self) -> Option<Op> {
        Some(Op::FirstValid)
    }
}

/// `switch`, then what it chooses when true and when not.
pub(in crate::policy) struct Switcher;

impl Part for Switcher {
    fn carry(&self, inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        vec![match inputs.values[0] {
            Carried::Steady(switch) if truth(switch) == Some(true) => inputs.values[1].clone(),
            Carried::Steady(_) => inputs.values[2].clone(),
            _ => inputs.computed(0),
        }]
    }

    fn op(&self) -> Option<Op> {
        Some(Op::Switcher)
    }
}

pub(super) fn read_and<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    read_list(at, place, circuit, Box::new(ALL))
}

pub(super) fn read_or<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    read_list(at, place, circuit, Box::new(ANY))
}

pub(super) fn read_first_valid<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    read_list(at, place, circuit, Box::new(FirstValid))
}

fn read_list<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
    part: Box<dyn Part + 't>,
) -> Result<(), PolicyError> {
    let fields = at.object(&["in_ports", "out_ports"])?;
    circuit.add(Wired {
        id: place.id.clone(),
        inputs: ports::listed(&fields, place.scope)?,
        outputs: ports::out_ports(&fields, &["output"], place.scope)?,
        part,
    });
    Ok(())
}

pub(super) fn read_inverter<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    read_wired(at, place, circuit, &["input"], Box::new(Inverter))
}

pub(super) fn read_switcher<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let known = &["switch", "on_signal", "off_signal"];
    read_wired(at, place, circuit, known, Box::new(Switcher))
}

fn read_wired<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
    known: &'static [&'static str],
    part: Box<dyn Part + 't>,
) -> Result<(), PolicyError> {
    let fields = at.object(&["in_ports", "out_ports"])?;
    circuit.add(Wired {
        id: place.id.clone(),
        inputs: ports::optional(&fields, known, place.scope)?,
        outputs: ports::out_ports(&fields, &["output"], place.scope)?,
        part,
    });
    Ok(())
}
