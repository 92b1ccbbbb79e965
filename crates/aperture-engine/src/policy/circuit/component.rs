//! What a circuit knows of its components: their ports and the signals that they make.

use crate::policy::PolicyError;
use crate::policy::model::{ComponentKind, Op, Selector};
use crate::policy::ports::{FoldedSignal, InPort, InputSignals, OutPort, ScopeIndex};

/// The id of a component, and the scope of the names of its signals.
#[derive(Clone, Debug)]
pub(in crate::policy) struct ComponentLocation {
    pub(in crate::policy) id: String,
    pub(in crate::policy) scope: ScopeIndex,
}

/// The behaviour of a component with regard to the signals at its ports.
pub(in crate::policy) trait ComponentBehaviour {
    /// Returns the signals at the out-ports, in the order in which it declared them.
    fn fold_outputs(&self, _inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        Vec::new()
    }

    /// Returns the operation that computes the out-ports which [`fold_outputs`](Self::fold_outputs)
    /// leaves to the running engine.
    fn op(&self) -> Option<Op> {
        None
    }

    /// Returns true if [`build`](Self::build) returns a component.
    fn decides(&self) -> bool {
        false
    }

    /// Returns true if every flow passes at present, so that the inputs do not matter.
    fn passes_everything(&self) -> bool {
        false
    }

    /// Returns the component that the engine runs, if this component decides about flows.
    fn build(
        &self,
        _inputs: &InputSignals<'_, '_>,
    ) -> Result<Option<SelectedComponent>, PolicyError> {
        Ok(None)
    }
}

/// The selectors and the settings of a component that decides.
pub(in crate::policy) type SelectedComponent = (Vec<Selector>, ComponentKind);

/// A component with its ports.
pub(in crate::policy) struct WiredComponent<'t> {
    pub(in crate::policy) id: String,
    pub(in crate::policy) inputs: Vec<InPort<'t>>,
    pub(in crate::policy) outputs: Vec<OutPort<'t>>,
    pub(in crate::policy) behaviour: Box<dyn ComponentBehaviour + 't>,
}

/// A component whose single output is always computed by the running engine.
pub(in crate::policy) struct RuntimeComponent(pub(in crate::policy) Op);

impl ComponentBehaviour for RuntimeComponent {
    fn fold_outputs(&self, inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        vec![inputs.at_runtime(0)]
    }

    fn op(&self) -> Option<Op> {
        Some(self.0.clone())
    }
}

/// Forwards its inputs unchanged.
pub(in crate::policy) struct SignalForwarder;

impl ComponentBehaviour for SignalForwarder {
    fn fold_outputs(&self, inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        inputs.values.to_vec()
    }
}
