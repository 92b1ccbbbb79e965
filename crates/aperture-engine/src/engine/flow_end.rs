//! Ends of flows by reference to their slots.

use std::sync::Arc;
use std::time::Duration;

use super::clock::nanos;
use super::engine_flow::DEADLINE_MARGIN;
use super::report::CheckReport;
use super::{Engine, component_entry::ComponentEntry};

/// The length in bytes from which on an Agent refuses a key.
const LONG_LABEL: usize = 256;

/// A reference to a slot that a flow holds: Aperture's `InflightRequestRef`.
///
/// ```
/// use tower_aperture::engine::{Engine, SlotRef};
///
/// let engine = Engine::builder().build()?;
/// let slot = SlotRef {
///     policy_name: "exports".into(),
///     policy_hash: "?".into(),
///     component_id: "root.0".into(),
///     label: "default".into(),
///     request_id: "f81d4fae-7dec-41d0-a765-00a0c91e6bf6".into(),
/// };
/// let [status] = &engine.flow_end(&[slot], None)[..] else { unreachable!() };
/// assert!(!status.returned);
/// assert_eq!(status.error, Some("flow ender not found for limiter id"));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotRef {
    /// The policy of the component.
    pub policy_name: String,
    /// The hash of the policy, as in the decision.
    pub policy_hash: String,
    /// The id of the component, such as `root.0`.
    pub component_id: String,
    /// The label of the key that the component limits by, as in the decision.
    pub label: String,
    /// The id of the slot.
    pub request_id: String,
}

/// What came of returning a slot: Aperture's `TokenReturnStatus`.
///
/// See [`SlotRef`] for an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotReturn {
    /// True if the slot was held and has been returned.
    pub returned: bool,
    /// What is wrong with the reference. A slot that was returned before or has expired is not held
    /// any more, which is no error.
    pub error: Option<&'static str>,
}

impl SlotReturn {
    const fn ok(returned: bool) -> Self {
        Self {
            returned,
            error: None,
        }
    }

    const fn error(error: &'static str) -> Self {
        Self {
            returned: false,
            error: Some(error),
        }
    }
}

impl CheckReport {
    /// Returns references to the slots that the flow holds or was denied, in the order of the
    /// decisions.
    #[must_use]
    pub fn slots(&self) -> Vec<SlotRef> {
        let decisions = self.limiter_decisions.iter();
        decisions
            .filter_map(|decision| {
                let (label, id) = decision.details.slot()?;
                Some(SlotRef {
                    policy_name: decision.policy_name.to_string(),
                    policy_hash: decision.policy_hash.to_string(),
                    component_id: decision.component_id.to_string(),
                    label: label.to_owned(),
                    request_id: id.to_string(),
                })
            })
            .collect()
    }
}

impl Engine {
    /// Returns the slots that a flow held, as an Agent's `FlowEnd` does. The result has one status
    /// per reference, in their order.
    ///
    /// For callers that have references; a [ticket](super::EngineTicket) returns its slots by
    /// itself. `deadline` is the time left to answer, and `None` means no limit. With 10 ms or
    /// less, no slot is returned.
    pub fn flow_end(&self, slots: &[SlotRef], deadline: Option<Duration>) -> Vec<SlotReturn> {
        let late = deadline.is_some_and(|left| nanos(left) <= DEADLINE_MARGIN);
        slots
            .iter()
            .map(|slot| match self.component_of(slot) {
                Some(component) => self.end_slot(&component, slot, late),
                None => SlotReturn::error("flow ender not found for limiter id"),
            })
            .collect()
    }

    fn component_of(&self, slot: &SlotRef) -> Option<Arc<ComponentEntry>> {
        let live = self.shared.live.load();
        let found = live.index.named(&slot.policy_name, &slot.component_id);
        let found = found.filter(|component| component.has_had_hash(&slot.policy_hash))?;
        found.component.slots().is_some().then(|| Arc::clone(found))
    }

    fn end_slot(&self, component: &ComponentEntry, slot: &SlotRef, late: bool) -> SlotReturn {
        if slot.request_id.is_empty() {
            return SlotReturn::error("request id cannot be empty");
        }
        let Some(slots) = component.component.slots() else {
            return SlotReturn::error("flow ender not found for limiter id");
        };
        if !slots.are_limited() {
            return SlotReturn::ok(false);
        }
        if late {
            return SlotReturn::error("deadline exceeded");
        }
        let now = nanos(self.shared.clock.now());
        let returned = slot
            .request_id
            .parse()
            .is_ok_and(|id| slots.return_slot(&slot.label, id, now));
        // An Agent has no keys of this length. Here, flows may hold slots of them.
        if !returned && slot.label.len() >= LONG_LABEL {
            return SlotReturn::error("key too large");
        }
        SlotReturn::ok(returned)
    }
}
