//! The whole response of the Agent, for applications that ask for it.

use super::flow::RemoteFlow;
use crate::messages::check::CheckResponse;

impl RemoteFlow {
    /// Decodes the whole response of the Agent.
    pub(crate) fn decode_response(&self) -> CheckResponse {
        let decided = self.decided.as_ref();
        decided.map_or_else(CheckResponse::default, |decided| {
            decided.response.decode_whole()
        })
    }
}
