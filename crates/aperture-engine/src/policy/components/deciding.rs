//! A component that decides about flows: its selectors, and how its settings follow from signals.

use std::rc::Rc;

use super::{
    ComponentBehaviour, ComponentLocation, FoldedSignal, InPort, InputSignals, PolicyError,
    WiredComponent,
};
use crate::policy::circuit::SelectedComponent;
use crate::policy::model::{ComponentKind, Selector};
use crate::policy::ports::OutPort;

/// Builds the settings of a component from the signals at its in-ports.
type BuildKind<'t> = dyn Fn(&InputSignals<'_, '_>) -> Result<ComponentKind, PolicyError> + 't;

/// A component that decides. A signal that depends on its output is unsupported.
pub(super) struct DecidingComponent<'t> {
    origin: Rc<str>,
    selectors: Vec<Selector>,
    build_kind: Box<BuildKind<'t>>,
    passes_everything: bool,
}

impl<'t> DecidingComponent<'t> {
    pub(super) fn new(
        kind_name: &str,
        location: &ComponentLocation,
        selectors: Vec<Selector>,
        build_kind: impl Fn(&InputSignals<'_, '_>) -> Result<ComponentKind, PolicyError> + 't,
    ) -> Self {
        Self {
            origin: Rc::from(format!("the output of the {kind_name} `{}`", location.id)),
            selectors,
            build_kind: Box::new(build_kind),
            passes_everything: false,
        }
    }

    /// Sets whether every flow passes, whatever the inputs are.
    pub(super) fn with_passes_everything(mut self, passes_everything: bool) -> Self {
        self.passes_everything = passes_everything;
        self
    }

    pub(super) fn with_ports(
        self,
        location: &ComponentLocation,
        inputs: Vec<InPort<'t>>,
        outputs: Vec<OutPort<'t>>,
    ) -> WiredComponent<'t> {
        WiredComponent {
            id: location.id.clone(),
            inputs,
            outputs,
            behaviour: Box::new(self),
        }
    }
}

impl ComponentBehaviour for DecidingComponent<'_> {
    fn fold_outputs(&self, _inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        vec![FoldedSignal::Unsupported(Rc::clone(&self.origin))]
    }

    fn decides(&self) -> bool {
        true
    }

    fn passes_everything(&self) -> bool {
        self.passes_everything
    }

    fn build(
        &self,
        inputs: &InputSignals<'_, '_>,
    ) -> Result<Option<SelectedComponent>, PolicyError> {
        Ok(Some((self.selectors.clone(), (self.build_kind)(inputs)?)))
    }
}
