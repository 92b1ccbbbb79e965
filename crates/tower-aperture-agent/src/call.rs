//! A call and its response, whether they are protobuf or JSON on the wire.

use http::HeaderMap;

use super::delivery::SlotGrant;
use super::memory_budget::Charge;

/// A call with its decoded message.
pub(super) struct Call<M> {
    pub(super) headers: HeaderMap,
    pub(super) message: M,
    pub(super) charge: Charge,
}

/// The response to a call, before it is encoded.
pub(super) struct CallResponse<M> {
    pub(super) message: M,
    /// The slots that the response grants. They are returned if it is dropped.
    pub(super) grant: SlotGrant,
}

impl<M> From<M> for CallResponse<M> {
    fn from(message: M) -> Self {
        Self {
            message,
            grant: SlotGrant::none(),
        }
    }
}
