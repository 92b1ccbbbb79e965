//! Reads the limiters and schedulers whose keys have a bucket or slots each: the ports, the
//! selectors and the wiring that they share.

use super::{
    ACCEPT_PERCENTAGE, CircuitBuilder, ComponentLocation, DecidingComponent, DocumentNode,
    InputSignals, PolicyError,
};
use crate::policy::decode::{Object, Section};
use crate::policy::model::ComponentKind;
use crate::policy::ports::{self, InPort, OutPort, ScopeIndex};
use crate::policy::selector;

/// What each key of a component has: a bucket or slots. Its settings are partly signals.
pub(in crate::policy) trait KeyState: Sized {
    /// Reads the `in_ports`.
    fn in_ports<'t>(fields: &Object<'t>, scope: ScopeIndex)
    -> Result<Vec<InPort<'t>>, PolicyError>;

    /// Reads the same from the values of a blueprint, where they are plain numbers.
    fn constant_in_ports<'t>(fields: &Object<'t>) -> Result<Vec<InPort<'t>>, PolicyError>;

    /// Reads the parameters, and leaves the signals unset.
    fn parameters(node: DocumentNode<'_>) -> Result<Self, PolicyError>;
}

/// The settings of a limiter or scheduler that keeps a [`KeyState`] for each key.
pub(in crate::policy) trait KeyedComponent: Sized + 'static {
    /// The kind, as messages name it.
    const NAME: &'static str;
    /// The fields of the component.
    const FIELDS: &'static Section;
    /// The fields of the section of a values file.
    const VALUES: &'static Section;
    type State: KeyState;

    /// Reads the settings, and leaves the signals unset.
    fn settings(fields: &Object<'_>) -> Result<Self, PolicyError>;

    /// Returns the component with its signals, in the order of [`KeyState::in_ports`]. Warns about
    /// signals that reject every flow or let every flow pass.
    fn with_signals(
        &self,
        node: &DocumentNode<'_>,
        inputs: &InputSignals<'_, '_>,
    ) -> Result<ComponentKind, PolicyError>;
}

/// Reads a component of a circuit.
pub(super) fn read<'t, C: KeyedComponent>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(C::FIELDS)?;
    let inputs = C::State::in_ports(&fields, location.scope)?;
    let outputs = ports::out_ports(&fields, &ACCEPT_PERCENTAGE, location.scope)?;
    add::<C>(&fields, location, inputs, outputs, circuit)
}

/// Reads the section of a values file, where the signals are plain numbers.
pub(in crate::policy) fn read_values<'t, C: KeyedComponent>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    output: OutPort<'t>,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(C::VALUES)?;
    let inputs = C::State::constant_in_ports(&fields)?;
    add::<C>(&fields, location, inputs, vec![output], circuit)
}

fn add<'t, C: KeyedComponent>(
    fields: &Object<'t>,
    location: &ComponentLocation,
    inputs: Vec<InPort<'t>>,
    outputs: Vec<OutPort<'t>>,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let selectors = selector::selectors(fields, "selectors")?;
    let settings = C::settings(fields)?;
    let node = fields.node.clone();
    let component = DecidingComponent::new(C::NAME, location, selectors, move |inputs| {
        settings.with_signals(&node, inputs)
    });
    circuit.add(component.with_ports(location, inputs, outputs));
    Ok(())
}
