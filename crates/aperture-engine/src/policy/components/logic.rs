//! Reads `and`, `or`, `inverter`, `first_valid` and `switcher`: boolean operations on signals, and
//! choices among signals.

use super::{
    CircuitBuilder, ComponentBehaviour, ComponentLocation, DocumentNode, FoldedSignal,
    InputSignals, Op, PolicyError, WiredComponent,
};
use crate::policy::decode::{Field, FieldValue, Section};
use crate::policy::model::Signal;
use crate::policy::ports;

/// The fields of `and`.
pub(super) static AND_FIELDS: Section = Section::new("And", &[&[ports::LIST, ports::OUTPUT]]);
/// The fields of `or`.
pub(super) static OR_FIELDS: Section = Section::new("Or", &[&[ports::LIST, ports::OUTPUT]]);
/// The fields of `first_valid`.
pub(super) static FIRST_VALID: Section =
    Section::new("First valid", &[&[ports::LIST, ports::OUTPUT]]);

/// The fields of an inverter.
pub(super) static INVERTER: Section = Section::new(
    "Inverter",
    &[&[
        Field::optional(
            "in_ports",
            FieldValue::Section(&INVERTER_IN_PORTS),
            "The input.",
        ),
        ports::OUTPUT,
    ]],
);

static INVERTER_IN_PORTS: Section =
    Section::new("", &[&[ports::port("input", "The signal to negate.")]]);

/// The fields of a switcher.
pub(super) static SWITCHER: Section = Section::new(
    "Switcher",
    &[&[
        Field::optional(
            "in_ports",
            FieldValue::Section(&SWITCHER_IN_PORTS),
            "The inputs.",
        ),
        ports::OUTPUT,
    ]],
);

static SWITCHER_IN_PORTS: Section = Section::new(
    "",
    &[&[
        ports::port("switch", "Chooses between the other two."),
        ports::port("on_signal", "The output while `switch` is on."),
        ports::port("off_signal", "The output while `switch` is off or invalid."),
    ]],
);

/// Returns the signal as a boolean; `None` if the signal is invalid.
fn to_boolean(value: Signal) -> Option<bool> {
    (!value.is_nan()).then_some(value != 0.0)
}

fn to_signal(boolean: Option<bool>) -> Signal {
    boolean.map_or(f64::NAN, |value| f64::from(u8::from(value)))
}

/// An `and` or an `or`. One input with the deciding value determines the output, even while the
/// others change or are invalid.
pub(in crate::policy) struct BooleanGate {
    /// The input value that determines the output: false for `and`, true for `or`.
    deciding_value: bool,
}

pub(in crate::policy) const AND: BooleanGate = BooleanGate {
    deciding_value: false,
};
pub(in crate::policy) const OR: BooleanGate = BooleanGate {
    deciding_value: true,
};

impl ComponentBehaviour for BooleanGate {
    fn fold_outputs(&self, inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        let decides_output = |value: &FoldedSignal| match value {
            FoldedSignal::Constant(value) => to_boolean(*value) == Some(self.deciding_value),
            _ => false,
        };
        if inputs.values.iter().any(decides_output) {
            return vec![FoldedSignal::Constant(to_signal(Some(self.deciding_value)))];
        }
        vec![inputs.folded(|values| {
            let any_invalid = values.iter().any(|value| value.is_nan());
            to_signal((!any_invalid).then_some(!self.deciding_value))
        })]
    }

    fn op(&self) -> Option<Op> {
        Some(if self.deciding_value { Op::Or } else { Op::And })
    }
}

/// Negates its input.
pub(in crate::policy) struct Inverter;

impl ComponentBehaviour for Inverter {
    fn fold_outputs(&self, inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        vec![inputs.folded(|values| to_signal(to_boolean(values[0]).map(|value| !value)))]
    }

    fn op(&self) -> Option<Op> {
        Some(Op::Inverter)
    }
}

/// Outputs the first of its inputs that is valid.
pub(in crate::policy) struct FirstValid;

impl ComponentBehaviour for FirstValid {
    fn fold_outputs(&self, inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        let first = inputs.values.iter().find(|value| !value.is_invalid());
        vec![match first {
            None => FoldedSignal::INVALID,
            Some(FoldedSignal::Constant(value)) => FoldedSignal::Constant(*value),
            Some(_) => inputs.at_runtime(0),
        }]
    }

    fn op(&self) -> Option<Op> {
        Some(Op::FirstValid)
    }
}

/// Outputs the second input while the first, `switch`, is true, else the third.
pub(in crate::policy) struct Switcher;

impl ComponentBehaviour for Switcher {
    fn fold_outputs(&self, inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        vec![match inputs.values[0] {
            FoldedSignal::Constant(switch) if to_boolean(switch) == Some(true) => {
                inputs.values[1].clone()
            }
            FoldedSignal::Constant(_) => inputs.values[2].clone(),
            _ => inputs.at_runtime(0),
        }]
    }

    fn op(&self) -> Option<Op> {
        Some(Op::Switcher)
    }
}

pub(super) fn read_and<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    read_list(node, location, circuit, &AND_FIELDS, Box::new(AND))
}

pub(super) fn read_or<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    read_list(node, location, circuit, &OR_FIELDS, Box::new(OR))
}

pub(super) fn read_first_valid<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    read_list(node, location, circuit, &FIRST_VALID, Box::new(FirstValid))
}

fn read_list<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
    section: &'static Section,
    behaviour: Box<dyn ComponentBehaviour + 't>,
) -> Result<(), PolicyError> {
    let fields = node.object(section)?;
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs: ports::in_port_list(&fields, location.scope)?,
        outputs: ports::out_ports(&fields, &ports::ONE_OUTPUT, location.scope)?,
        behaviour,
    });
    Ok(())
}

pub(super) fn read_inverter<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let sections = (&INVERTER, &INVERTER_IN_PORTS);
    read_wired(node, location, circuit, sections, Box::new(Inverter))
}

pub(super) fn read_switcher<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let sections = (&SWITCHER, &SWITCHER_IN_PORTS);
    read_wired(node, location, circuit, sections, Box::new(Switcher))
}

fn read_wired<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
    (section, in_ports): (&'static Section, &'static Section),
    behaviour: Box<dyn ComponentBehaviour + 't>,
) -> Result<(), PolicyError> {
    let fields = node.object(section)?;
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs: ports::optional_in_ports(&fields, in_ports, location.scope)?,
        outputs: ports::out_ports(&fields, &ports::ONE_OUTPUT, location.scope)?,
        behaviour,
    });
    Ok(())
}
