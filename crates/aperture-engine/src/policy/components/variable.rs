//! Reads `variable` and `bool_variable`: constants with a name.

use super::{
    CircuitBuilder, ComponentBehaviour, ComponentLocation, DocumentNode, FoldedSignal,
    InputSignals, PolicyError, WiredComponent,
};
use crate::policy::decode::{Field, FieldValue, Object, Section};
use crate::policy::ports;

struct Variable(f64);

impl ComponentBehaviour for Variable {
    fn fold_outputs(&self, _inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        vec![FoldedSignal::Constant(self.0)]
    }
}

/// Returns a constant, also for the expansion of blueprints.
pub(in crate::policy) fn constant_variable<'t>(value: f64) -> Box<dyn ComponentBehaviour + 't> {
    Box::new(Variable(value))
}

/// The fields of a variable.
pub(super) static FIELDS: Section = Section::new(
    "Variable",
    &[&[
        Field::required(
            "constant_output",
            FieldValue::Section(&ports::CONSTANT_SIGNAL),
            "The value.",
        ),
        CONFIG_KEY,
        ports::OUTPUT,
    ]],
);

/// The fields of a boolean variable.
pub(super) static BOOL_FIELDS: Section = Section::new(
    "Boolean variable",
    &[&[
        Field::with_default(
            "constant_output",
            FieldValue::Boolean,
            "false",
            "The value.",
        ),
        CONFIG_KEY,
        ports::OUTPUT,
    ]],
);

const CONFIG_KEY: Field = Field::optional(
    "config_key",
    FieldValue::Text,
    "The key by which dynamic configuration sets the value.",
);

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&FIELDS)?;
    let mut value = ports::constant_signal(fields.required("constant_output")?)?;
    if let Some(node) = set(&fields, circuit)? {
        value = ports::constant_signal(node)?;
    }
    add(&fields, value, location, circuit)
}

pub(super) fn read_bool<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&BOOL_FIELDS)?;
    let mut value = fields.boolean("constant_output", false)?;
    if let Some(node) = set(&fields, circuit)? {
        value = node.boolean()?;
    }
    add(&fields, f64::from(u8::from(value)), location, circuit)
}

/// Returns the value that dynamic configuration sets in place of the constant.
fn set<'t>(
    fields: &Object<'t>,
    circuit: &CircuitBuilder<'t>,
) -> Result<Option<DocumentNode<'t>>, PolicyError> {
    let key = fields.text("config_key")?;
    Ok(key.and_then(|key| circuit.dynamic_value(key)))
}

fn add<'t>(
    fields: &Object<'t>,
    value: f64,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let outputs = ports::out_ports(fields, &ports::ONE_OUTPUT, location.scope)?;
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs: Vec::new(),
        outputs,
        behaviour: Box::new(Variable(value)),
    });
    Ok(())
}
