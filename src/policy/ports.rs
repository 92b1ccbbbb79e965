//! In-ports and out-ports: how components are wired, and what flows there.

use std::collections::HashMap;
use std::rc::Rc;

use super::PolicyError;
use super::decode::{At, Object};
use super::model::{Port, Signal, SignalId};

/// Which circuit a signal's name belongs to: the index of its scope.
pub(super) type Scope = usize;

/// A part of the circuit and one of its out-ports.
pub(super) type Outlet = (usize, usize);

/// What a signal carries.
#[derive(Clone, Debug)]
pub(super) enum Carried {
    /// The same from the start on; NaN is invalid.
    Steady(Signal),
    /// What that outlet computes while the engine runs.
    Changing(Outlet),
    /// It changes in a way that nothing here follows; the text says where it comes from.
    Beyond(Rc<str>),
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
    /// The component itself.
    pub(super) part: usize,
    pub(super) ports: &'a [InPort<'t>],
    pub(super) values: &'a [Carried],
    /// The signals of what changes, once they are known.
    pub(super) signals: &'a HashMap<Outlet, SignalId>,
}

impl Inputs<'_, '_> {
    /// What stands at a port of a component that decides, or that feeds one.
    pub(super) fn port(&self, index: usize) -> Result<Port, PolicyError> {
        match self.values.get(index) {
            Some(Carried::Steady(value)) => Ok(Port::Constant(*value)),
            Some(Carried::Changing(outlet)) => Ok(self
                .signals
                .get(outlet)
                .map_or(Port::Constant(f64::NAN), |signal| Port::Changing(*signal))),
            Some(Carried::Beyond(origin)) => Err(self.ports[index].at.error(format!(
                "depends on {origin}, which this version does not follow; use a constant"
            ))),
            None => Ok(Port::Constant(f64::NAN)),
        }
    }

    /// What this component computes at an out-port while the engine runs.
    pub(super) fn computed(&self, port: usize) -> Carried {
        let beyond = self
            .values
            .iter()
            .find(|value| matches!(value, Carried::Beyond(_)));
        beyond
            .cloned()
            .unwrap_or(Carried::Changing((self.part, port)))
    }

    /// The values when all are steady.
    pub(super) fn all_steady(&self) -> Option<Vec<Signal>> {
        self.values
            .iter()
            .map(|value| match value {
                Carried::Steady(value) => Some(*value),
                _ => None,
            })
            .collect()
    }

    /// The one output of a component without memory: computed now, or else while the engine runs.
    pub(super) fn folded(&self, compute: impl FnOnce(&[Signal]) -> Signal) -> Carried {
        match self.all_steady() {
            Some(values) => Carried::Steady(compute(&values)),
            None => self.computed(0),
        }
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

/// A port that need not be wired.
pub(super) fn given<'t>(
    ports: &Object<'t>,
    key: &str,
    scope: Scope,
) -> Result<InPort<'t>, PolicyError> {
    match ports.get(key) {
        Some(at) => in_port(at, scope),
        None => Ok(unwired(&ports.at)),
    }
}

/// A required number of a blueprint's values that stands for a constant signal.
pub(super) fn number<'t>(fields: &Object<'t>, key: &str) -> Result<InPort<'t>, PolicyError> {
    let at = fields.required(key)?;
    Ok(constant(&at, at.number()?))
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

/// The in-ports of a list that a component has under `in_ports`.
pub(super) fn listed<'t>(
    component: &Object<'t>,
    scope: Scope,
) -> Result<Vec<InPort<'t>>, PolicyError> {
    let Some(ports) = component.object("in_ports", &["inputs"])? else {
        return Ok(Vec::new());
    };
    let Some(list) = ports.get("inputs") else {
        return Ok(Vec::new());
    };
    list.list()?
        .into_iter()
        .map(|at| in_port(at, scope))
        .collect()
}

/// The out-ports of a component's `out_ports`, in the order of `known`.
pub(super) fn out_ports<'t>(
    component: &Object<'t>,
    known: &'static [&'static str],
    scope: Scope,
) -> Result<Vec<OutPort<'t>>, PolicyError> {
    let ports = component.object("out_ports", known)?;
    known
        .iter()
        .map(
            |key| match ports.as_ref().and_then(|ports| ports.get(key)) {
                Some(at) => produced(at, scope),
                None => Ok(nobody(&component.at, scope)),
            },
        )
        .collect()
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

/// A signal that only what one component is made of may name.
pub(super) fn inner<'t>(at: &At<'t>, scope: Scope, name: &'static str) -> OutPort<'t> {
    OutPort {
        at: at.clone(),
        scope,
        name: Some(name),
    }
}

/// The other end of [`inner`].
pub(super) fn hearing<'t>(at: &At<'t>, scope: Scope, name: &'static str) -> InPort<'t> {
    InPort {
        at: at.clone(),
        source: Source::Signal { scope, name },
    }
}

pub(super) fn nobody<'t>(at: &At<'t>, scope: Scope) -> OutPort<'t> {
    OutPort {
        at: at.clone(),
        scope,
        name: None,
    }
}
