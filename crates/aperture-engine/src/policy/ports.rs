//! The in-ports and out-ports of components, and the signals between them while a policy is read.

use std::collections::HashMap;
use std::rc::Rc;

use super::PolicyError;
use super::decode::{Bounds, DocumentNode, Field, FieldValue, Given, Object, Section};
use super::model::{Port, Signal, SignalId};

/// The index of the scope, the root circuit or a nested one, that the name of a signal belongs to.
pub(super) type ScopeIndex = usize;

/// An out-port: the index of the component, and that of the port among its out-ports.
pub(super) type OutPortIndex = (usize, usize);

/// The value of a signal as far as it is known when the policy is read.
#[derive(Clone, Debug)]
pub(super) enum FoldedSignal {
    /// A value that never changes; NaN is invalid.
    Constant(Signal),
    /// The value that this out-port computes while the engine runs.
    Changing(OutPortIndex),
    /// A signal that changes and that the engine cannot compute. The text names its origin.
    Unsupported(Rc<str>),
}

impl FoldedSignal {
    pub(super) const INVALID: Self = Self::Constant(f64::NAN);

    pub(super) fn is_invalid(&self) -> bool {
        matches!(self, Self::Constant(value) if value.is_nan())
    }
}

/// The source of the value of an in-port.
#[derive(Clone, Debug)]
pub(super) enum PortSource<'t> {
    Constant(Signal),
    Signal { scope: ScopeIndex, name: &'t str },
}

#[derive(Clone, Debug)]
pub(super) struct InPort<'t> {
    pub(super) node: DocumentNode<'t>,
    pub(super) source: PortSource<'t>,
}

#[derive(Clone, Debug)]
pub(super) struct OutPort<'t> {
    pub(super) node: DocumentNode<'t>,
    pub(super) scope: ScopeIndex,
    /// `None` if the signal has no name, so that no component can use it.
    pub(super) name: Option<&'t str>,
}

/// The values at the in-ports of a component, in the order in which it declared them.
#[derive(Debug)]
pub(super) struct InputSignals<'a, 't> {
    /// The index of the component.
    pub(super) component_index: usize,
    pub(super) ports: &'a [InPort<'t>],
    pub(super) values: &'a [FoldedSignal],
    /// The ids of the signals that change; empty until they are assigned.
    pub(super) signal_ids: &'a HashMap<OutPortIndex, SignalId>,
}

impl InputSignals<'_, '_> {
    /// Returns the input of a component that decides, or of a node that feeds one.
    ///
    /// # Errors
    ///
    /// Returns an error if the input depends on a signal that the engine cannot compute.
    pub(super) fn port(&self, index: usize) -> Result<Port, PolicyError> {
        match self.values.get(index) {
            Some(FoldedSignal::Constant(value)) => Ok(Port::Constant(*value)),
            Some(FoldedSignal::Changing(out_port)) => Ok(self
                .signal_ids
                .get(out_port)
                .map_or(Port::Constant(f64::NAN), |signal| Port::Changing(*signal))),
            Some(FoldedSignal::Unsupported(origin)) => Err(self.ports[index].node.error(format!(
                "depends on {origin}, which this version does not support; use a constant"
            ))),
            None => Ok(Port::Constant(f64::NAN)),
        }
    }

    /// Returns the output at an out-port that is computed while the engine runs, or an unsupported
    /// input on which it depends.
    pub(super) fn at_runtime(&self, port: usize) -> FoldedSignal {
        let unsupported = self
            .values
            .iter()
            .find(|value| matches!(value, FoldedSignal::Unsupported(_)));
        unsupported
            .cloned()
            .unwrap_or(FoldedSignal::Changing((self.component_index, port)))
    }

    /// Returns the values if all of them are constant.
    pub(super) fn all_constant(&self) -> Option<Vec<Signal>> {
        self.values
            .iter()
            .map(|value| match value {
                FoldedSignal::Constant(value) => Some(*value),
                _ => None,
            })
            .collect()
    }

    /// Returns the single output of a component without state: computed now if all inputs are
    /// constant, else while the engine runs.
    pub(super) fn folded(&self, compute: impl FnOnce(&[Signal]) -> Signal) -> FoldedSignal {
        match self.all_constant() {
            Some(values) => FoldedSignal::Constant(compute(&values)),
            None => self.at_runtime(0),
        }
    }
}

/// The fields of an in-port.
pub(super) static IN_PORT: Section = Section::choice(
    "In-port",
    Given::ExactlyOne,
    &[&[
        Field::optional(
            "signal_name",
            FieldValue::Syntax("the name of a signal", "SIGNAL"),
            "The signal of an out-port of another component.",
        ),
        Field::optional(
            "constant_signal",
            FieldValue::Section(&CONSTANT_SIGNAL),
            "A value that never changes.",
        ),
    ]],
);

/// The fields of a constant signal.
pub(super) static CONSTANT_SIGNAL: Section = Section::choice(
    "Constant signal",
    Given::AtMostOne,
    &[&[
        Field::optional(
            "value",
            FieldValue::Number(Bounds::None),
            "The value; zero if neither field is given.",
        ),
        Field::optional(
            "special_value",
            FieldValue::OneOf(&["NaN", "+Inf", "-Inf"]),
            "`NaN` is the invalid signal.",
        ),
    ]],
);

/// The fields of an out-port.
pub(super) static OUT_PORT: Section = Section::new(
    "Out-port",
    &[&[Field::optional(
        "signal_name",
        FieldValue::Syntax("the name of a signal", "OUTPUT"),
        "The name by which in-ports read the signal.",
    )]],
);

/// Returns the field of an in-port that a component needs.
pub(super) const fn required_port(name: &'static str, meaning: &'static str) -> Field {
    Field::required(name, FieldValue::Section(&IN_PORT), meaning)
}

/// Returns the field of an in-port that carries the invalid signal if it is absent.
pub(super) const fn port(name: &'static str, meaning: &'static str) -> Field {
    Field::optional(name, FieldValue::Section(&IN_PORT), meaning)
}

/// Returns the field of an out-port.
pub(super) const fn output(name: &'static str, meaning: &'static str) -> Field {
    Field::optional(name, FieldValue::Section(&OUT_PORT), meaning)
}

/// The in-ports of a component that takes a list of signals.
static IN_PORT_LIST: Section = Section::new(
    "",
    &[&[Field::optional(
        "inputs",
        FieldValue::List(&IN_PORT),
        "Any number of signals.",
    )]],
);

/// The `in_ports` of a component that takes a list of signals.
pub(super) const LIST: Field = Field::optional(
    "in_ports",
    FieldValue::Section(&IN_PORT_LIST),
    "The inputs.",
);

/// The out-ports of a component with one output.
pub(super) static ONE_OUTPUT: Section = Section::new("", &[&[output("output", "The output.")]]);

/// The `out_ports` of a component with one output.
pub(super) const OUTPUT: Field =
    Field::optional("out_ports", FieldValue::Section(&ONE_OUTPUT), "The output.");

/// Reads an in-port: `{signal_name}` or `{constant_signal}`.
pub(super) fn in_port(
    node: DocumentNode<'_>,
    scope: ScopeIndex,
) -> Result<InPort<'_>, PolicyError> {
    let whole = node.clone();
    let fields = node.object(&IN_PORT)?;
    let source = match fields.only()? {
        Some(("signal_name", name)) => PortSource::Signal {
            scope,
            name: name.text()?,
        },
        Some((_, constant)) => PortSource::Constant(constant_signal(constant)?),
        None => {
            return Err(whole.error("a port takes a `signal_name` or a `constant_signal`"));
        }
    };
    Ok(InPort {
        node: whole,
        source,
    })
}

/// Reads the `in_ports` of a component that are all optional. An absent port carries the invalid
/// signal.
pub(super) fn optional_in_ports<'t>(
    component: &Object<'t>,
    known: &'static Section,
    scope: ScopeIndex,
) -> Result<Vec<InPort<'t>>, PolicyError> {
    let ports = component.object("in_ports", known)?;
    known
        .names()
        .map(
            |key| match ports.as_ref().and_then(|ports| ports.get(key)) {
                Some(node) => in_port(node, scope),
                None => Ok(unwired(&component.node)),
            },
        )
        .collect()
}

pub(super) fn required_in_port<'t>(
    ports: &Object<'t>,
    key: &str,
    scope: ScopeIndex,
) -> Result<InPort<'t>, PolicyError> {
    in_port(ports.required(key)?, scope)
}

/// Reads an optional in-port. An absent port carries the invalid signal.
pub(super) fn optional_in_port<'t>(
    ports: &Object<'t>,
    key: &str,
    scope: ScopeIndex,
) -> Result<InPort<'t>, PolicyError> {
    match ports.get(key) {
        Some(node) => in_port(node, scope),
        None => Ok(unwired(&ports.node)),
    }
}

/// Reads a required number of a values file, which stands for a constant signal.
pub(super) fn number_in_port<'t>(
    fields: &Object<'t>,
    key: &str,
) -> Result<InPort<'t>, PolicyError> {
    let node = fields.required(key)?;
    Ok(constant(&node, node.number()?))
}

pub(super) fn unwired<'t>(node: &DocumentNode<'t>) -> InPort<'t> {
    constant(node, f64::NAN)
}

pub(super) fn constant<'t>(node: &DocumentNode<'t>, value: Signal) -> InPort<'t> {
    InPort {
        node: node.clone(),
        source: PortSource::Constant(value),
    }
}

/// Reads `{value}` or `{special_value}`; zero if neither is given.
pub(super) fn constant_signal(node: DocumentNode<'_>) -> Result<Signal, PolicyError> {
    let fields = node.object(&CONSTANT_SIGNAL)?;
    match fields.only()? {
        Some(("value", node)) => node.number(),
        Some((_, node)) => Ok(match node.one_of(&["NaN", "+Inf", "-Inf"])? {
            "+Inf" => f64::INFINITY,
            "-Inf" => f64::NEG_INFINITY,
            _ => f64::NAN,
        }),
        None => Ok(0.0),
    }
}

/// Reads the list `in_ports.inputs` of a component.
pub(super) fn in_port_list<'t>(
    component: &Object<'t>,
    scope: ScopeIndex,
) -> Result<Vec<InPort<'t>>, PolicyError> {
    let Some(ports) = component.object("in_ports", &IN_PORT_LIST)? else {
        return Ok(Vec::new());
    };
    let Some(list) = ports.get("inputs") else {
        return Ok(Vec::new());
    };
    list.list()?
        .into_iter()
        .map(|node| in_port(node, scope))
        .collect()
}

/// Reads the `out_ports` of a component, in the order of `known`.
pub(super) fn out_ports<'t>(
    component: &Object<'t>,
    known: &'static Section,
    scope: ScopeIndex,
) -> Result<Vec<OutPort<'t>>, PolicyError> {
    let ports = component.object("out_ports", known)?;
    known
        .names()
        .map(
            |key| match ports.as_ref().and_then(|ports| ports.get(key)) {
                Some(node) => out_port(node, scope),
                None => Ok(unused_out_port(&component.node, scope)),
            },
        )
        .collect()
}

/// Reads an out-port: `{signal_name}`.
pub(super) fn out_port(
    node: DocumentNode<'_>,
    scope: ScopeIndex,
) -> Result<OutPort<'_>, PolicyError> {
    let whole = node.clone();
    let fields = node.object(&OUT_PORT)?;
    let name = fields.text("signal_name")?.filter(|name| !name.is_empty());
    Ok(OutPort {
        node: whole,
        scope,
        name,
    })
}

/// Returns an out-port for a signal inside of a component that expands to several.
pub(super) fn inner_out_port<'t>(
    node: &DocumentNode<'t>,
    scope: ScopeIndex,
    name: &'static str,
) -> OutPort<'t> {
    OutPort {
        node: node.clone(),
        scope,
        name: Some(name),
    }
}

/// Returns the in-port that reads a signal of [`inner_out_port`].
pub(super) fn inner_in_port<'t>(
    node: &DocumentNode<'t>,
    scope: ScopeIndex,
    name: &'static str,
) -> InPort<'t> {
    InPort {
        node: node.clone(),
        source: PortSource::Signal { scope, name },
    }
}

pub(super) fn unused_out_port<'t>(node: &DocumentNode<'t>, scope: ScopeIndex) -> OutPort<'t> {
    OutPort {
        node: node.clone(),
        scope,
        name: None,
    }
}
