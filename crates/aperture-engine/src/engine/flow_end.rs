//! Ends of flows by reference to their slots.

use std::sync::Arc;
use std::time::Duration;

use super::clock::{Nanos, nanos};
use super::component::{LabelledSlots, StartedReturn};
use super::component_entry::ComponentEntry;
use super::engine_flow::DEADLINE_MARGIN;
use super::flow_end_pending::{PendingFlowEnd, StartedSlotReturn};
use super::report::CheckReport;
use super::request_id::RequestId;
use super::{Engine, EngineMode};

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

    /// Returns the status for the label of its key. An Agent has no keys of this length. Here, flows
    /// may hold slots of them.
    fn for_label(self, label: &str) -> Self {
        match !self.returned && label.len() >= LONG_LABEL {
            true => Self::error("key too large"),
            false => self,
        }
    }

    /// Returns the status of a slot in the shared store; `None` stands for no answer.
    pub(super) const fn of_store(returned: Option<bool>) -> Self {
        match returned {
            Some(returned) => Self::ok(returned),
            None => Self::error("the shared store did not answer"),
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

impl<M: EngineMode> Engine<M> {
    /// Returns the slots that a flow held, as an Agent's `FlowEnd` does. The result has one status
    /// per reference, in their order.
    ///
    /// For callers that have references; a [ticket](super::EngineTicket) returns its slots by
    /// itself. `deadline` is the time left to answer, and `None` means no limit. With 10 ms or
    /// less, no slot is returned.
    ///
    /// The slots of an engine with a [shared store](super::EngineBuilder::shared) are in the store,
    /// which may belong to a flow of another engine. This method does not wait for the store: it
    /// reports a slot there as returned once the return is submitted, whether the slot was held or
    /// not. [`start_flow_end`](Self::start_flow_end) reports the truth.
    pub fn flow_end(&self, slots: &[SlotRef], deadline: Option<Duration>) -> Vec<SlotReturn> {
        let end = |held: &dyn LabelledSlots, slot: &SlotRef, id, now| {
            SlotReturn::ok(held.return_slot(&slot.label, id, now)).for_label(&slot.label)
        };
        let slots = slots.iter();
        slots
            .map(|slot| self.end_slot(slot, deadline, end).unwrap_or_else(|it| it))
            .collect()
    }

    /// Like [`flow_end`](Self::flow_end), with a future that waits for the replies of a
    /// [shared store](super::EngineBuilder::shared), at most for the store's deadline. It reports a
    /// slot as returned only if the store says so. Without such a store it is ready at once.
    ///
    /// The returns are under way when this method returns.
    ///
    /// ```
    /// use tower_aperture::engine::{Engine, SlotRef};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let engine = Engine::builder().build()?;
    /// let statuses = engine.start_flow_end(&[SlotRef::default()], None).await;
    /// assert!(!statuses[0].returned);
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// # }).unwrap();
    /// ```
    pub fn start_flow_end(&self, slots: &[SlotRef], deadline: Option<Duration>) -> PendingFlowEnd {
        let end = |held: &dyn LabelledSlots, slot: &SlotRef, id, now| match held.start_return(
            &slot.label,
            id,
            now,
        ) {
            StartedReturn::Done(returned) => {
                let status = SlotReturn::ok(returned).for_label(&slot.label);
                StartedSlotReturn::Decided(status)
            }
            StartedReturn::Asked(ask) => StartedSlotReturn::Asked(ask),
        };
        let slots = slots.iter();
        let started = slots.map(|slot| {
            let started = self.end_slot(slot, deadline, end);
            started.unwrap_or_else(StartedSlotReturn::Decided)
        });
        PendingFlowEnd::new(&self.shared.clock, started.collect())
    }

    fn component_of(&self, slot: &SlotRef) -> Option<Arc<ComponentEntry>> {
        let live = self.shared.live.load();
        let found = live.index.named(&slot.policy_name, &slot.component_id);
        let found = found.filter(|component| component.has_had_hash(&slot.policy_hash))?;
        found.component.slots().is_some().then(|| Arc::clone(found))
    }

    /// Ends a slot with `end`, or returns the status of a slot that cannot be held.
    fn end_slot<R>(
        &self,
        slot: &SlotRef,
        deadline: Option<Duration>,
        end: impl FnOnce(&dyn LabelledSlots, &SlotRef, RequestId, Nanos) -> R,
    ) -> Result<R, SlotReturn> {
        let not_found = SlotReturn::error("flow ender not found for limiter id");
        let Some(component) = self.component_of(slot) else {
            return Err(not_found);
        };
        if slot.request_id.is_empty() {
            return Err(SlotReturn::error("request id cannot be empty"));
        }
        let Some(slots) = component.component.slots() else {
            return Err(not_found);
        };
        if !slots.are_limited() {
            return Err(SlotReturn::ok(false));
        }
        if deadline.is_some_and(|left| nanos(left) <= DEADLINE_MARGIN) {
            return Err(SlotReturn::error("deadline exceeded"));
        }
        let now = nanos(self.shared.clock.now());
        match slot.request_id.parse() {
            Ok(id) => Ok(end(slots, slot, id, now)),
            Err(_) => Err(SlotReturn::ok(false).for_label(&slot.label)),
        }
    }
}
