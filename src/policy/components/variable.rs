//! `variable` and `bool_variable`: a constant with a name.

use super::{At, Carried, Circuit, Inputs, Part, Place, PolicyError, Wired};
use crate::policy::decode::Object;
use crate::policy::ports;

struct Variable(f64);

impl Part for Variable {
    fn carry(&self, _inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        vec![Carried::Steady(self.0)]
    }
}

/// A constant, also of what blueprints consist of.
pub(in crate::policy) fn steady<'t>(value: f64) -> Box<dyn Part + 't> {
    Box::new(Variable(value))
}

const KNOWN: &[&str] = &["constant_output", "config_key", "out_ports"];

pub(super) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(KNOWN)?;
    let mut value = ports::constant_signal(fields.required("constant_output")?)?;
    if let Some(at) = set(&fields, circuit)? {
        value = ports::constant_signal(at)?;
    }
    add(&fields, value, place, circuit)
}

pub(super) fn read_bool<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(KNOWN)?;
    let mut value = fields.boolean("constant_output", false)?;
    if let Some(at) = set(&fields, circuit)? {
        value = at.boolean()?;
    }
    add(&fields, f64::from(u8::from(value)), place, circuit)
}

/// What dynamic configuration puts in the place of the constant.
fn set<'t>(fields: &Object<'t>, circuit: &Circuit<'t>) -> Result<Option<At<'t>>, PolicyError> {
    let key = fields.text("config_key")?;
    Ok(key.and_then(|key| circuit.configured(key)))
}

fn add<'t>(
    fields: &Object<'t>,
    value: f64,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let outputs = ports::out_ports(fields, &["output"], place.scope)?;
    circuit.add(Wired {
        id: place.id.clone(),
        inputs: Vec::new(),
        outputs,
        part: Box::new(Variable(value)),
    });
    Ok(())
}
