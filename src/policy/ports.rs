//! In-ports and out-ports: how components are wired, and what flows there.

use std::rc::Rc;

use super::PolicyError;
use super::decode::{At, Object};
use super::model::Signal;

/// Which circuit a signal's name belongs to: the index of its scope.
pub(super) type Scope = usize;

/// What a signal carries.
#[derive(Clone, Debug)]
pub(super) enum Carried {
    /// The same from the start on; NaN is invalid.
    Steady(Signal),
    /// It changes while the engine runs; the text says where it comes from.
    Changing(Rc<str>),
}

impl Carried {
    pub(super) const INVALID: Self = Self::Steady(f64::NAN);

    pub(super) fn is_invalid(&self) -> bool {
        matches!(self, Self::Steady(value) if value.is_nan())
    }
}

/// Where an in-port takes its value from.
#[derive(Clone, Debug)]
pub(super) enum Source<'t> {
    Constant(Signal),
    Signal { scope: Scope, name: &'t str },
}

#[derive(Clone, Debug)]
pub(super) struct InPort<'t> {
    pub(super) at: At<'t>,
    pub(super) source: Source<'t>,
}

#[derive(Clone, Debug)]
pub(super) struct OutPort<'t> {
    pub(super) at: At<'t>,
    pub(super) scope: Scope,
    /// `None` when nobody listens.
    pub(super) name: Option<&'t str>,
}

/// What stands at the in-ports of a component, in the order it declared them.
#[derive(Debug)]
pub(super) struct Inputs<'a, 't> {
    pub(super) ports: &'a [InPort<'t>],
    pub(super) values: &'a [Carried],
}

impl Inputs<'_, '_> {
    /// A value that must not change while the engine runs.
    pub(super) fn steady(&self, index: usize) -> Result<Signal, PolicyError> {
        match self.values.get(index) {
            Some(Carried::Steady(value)) => Ok(*value),
            Some(Carried::Changing(origin)) => Err(self.ports[index].at.error(format!(
                "depends on {origin}, which this version does not follow; use a constant"
            ))),
            None => Ok(f64::NAN),
        }
    }

    /// The values when all are steady, else where the first changing one comes from.
    pub(super) fn all_steady(&self) -> Result<Vec<Signal>, Rc<str>> {
        self.values
            .iter()
            .map(|value| match value {
                Carried::Steady(value) => Ok(*value),
                Carried::Changing(origin) => Err(Rc::clone(origin)),
            })
            .collect()
    }
}

/// `{signal_name}` or `{constant_signal}`.
pub(super) fn in_port(at: At<'_>, scope: Scope) -> Result<InPort<'_>, PolicyError> {
    let place = at.clone();
    let fields = at.object(&["signal_name", "constant_signal"])?;
    let source = match fields.only(&["signal_name", "constant_signal"])? {
        Some(("signal_name", name)) => Source::Signal {
            scope,
            name: name.text()?,
        },
        Some((_, constant)) => Source::Constant(constant_signal(constant)?),
        None => {
            return Err(place.error("a port takes a `signal_name` or a `constant_signal`"));
        }
    };
    Ok(InPort { at: place, source })
}

/// The ports of a component that need not be wired; those that are not carry nothing valid.
pub(super) fn optional<'t>(
    component: &Object<'t>,
    known: &'static [&'static str],
    scope: Scope,
) -> Result<Vec<InPort<'t>>, PolicyError> {
    let ports = component.object("in_ports", known)?;
    known
        .iter()
        .map(
            |key| match ports.as_ref().and_then(|ports| ports.get(key)) {
                Some(at) => in_port(at, scope),
                None => Ok(unwired(&component.at)),
            },
        )
        .collect()
}

pub(super) fn required<'t>(
    ports: &Object<'t>,
    key: &str,
    scope: Scope,
) -> Result<InPort<'t>, PolicyError> {
    in_port(ports.required(key)?, scope)
}

pub(super) fn unwired<'t>(at: &At<'t>) -> InPort<'t> {
    constant(at, f64::NAN)
}

pub(super) fn constant<'t>(at: &At<'t>, value: Signal) -> InPort<'t> {
    InPort {
        at: at.clone(),
        source: Source::Constant(value),
    }
}

/// `{value}` or `{special_value}`; with neither, zero.
pub(super) fn constant_signal(at: At<'_>) -> Result<Signal, PolicyError> {
    let fields = at.object(&["value", "special_value"])?;
    match fields.only(&["value", "special_value"])? {
        Some(("value", at)) => at.number(),
        Some((_, at)) => Ok(match at.one_of(&["NaN", "+Inf", "-Inf"])? {
            "+Inf" => f64::INFINITY,
            "-Inf" => f64::NEG_INFINITY,
            _ => f64::NAN,
        }),
        None => Ok(0.0),
    }
}

/// The out-port of a component's `out_ports`.
pub(super) fn out_port<'t>(
    component: &Object<'t>,
    known: &'static [&'static str; 1],
    scope: Scope,
) -> Result<OutPort<'t>, PolicyError> {
    let Some(ports) = component.object("out_ports", known)? else {
        return Ok(nobody(&component.at, scope));
    };
    match ports.get(known[0]) {
        Some(at) => produced(at, scope),
        None => Ok(nobody(&component.at, scope)),
    }
}

/// `{signal_name}` of an out-port.
pub(super) fn produced(at: At<'_>, scope: Scope) -> Result<OutPort<'_>, PolicyError> {
    let place = at.clone();
    let fields = at.object(&["signal_name"])?;
    let name = fields.text("signal_name")?.filter(|name| !name.is_empty());
    Ok(OutPort {
        at: place,
        scope,
        name,
    })
}

pub(super) fn nobody<'t>(at: &At<'t>, scope: Scope) -> OutPort<'t> {
    OutPort {
        at: at.clone(),
        scope,
        name: None,
    }
}
