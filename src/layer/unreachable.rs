//! What happens to requests without a decision: fail open or fail closed.

use std::sync::Arc;

use super::head::RequestHead;
use crate::flow::FlowError;

/// How the layer treats an unreachable request: one that got no decision in time, or none at all.
///
/// See [`ApertureLayer::on_unreachable`](crate::ApertureLayer::on_unreachable).
///
/// ```
/// use tower_aperture::layer::FailureMode;
///
/// assert_eq!(FailureMode::default(), FailureMode::Open);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureMode {
    /// The request runs without a flow.
    #[default]
    Open,
    /// The request is rejected with
    /// [`RejectReason::Unreachable`](crate::RejectReason::Unreachable): status 503, unless the
    /// reject hook sets another one.
    Closed,
}

pub(crate) type UnreachableHook =
    Arc<dyn Fn(&FlowError, RequestHead<'_>) -> FailureMode + Send + Sync>;

#[derive(Clone)]
pub(crate) enum OnUnreachable {
    Always(FailureMode),
    Hook(UnreachableHook),
}

impl OnUnreachable {
    pub(crate) fn is_open(&self, error: &FlowError, head: RequestHead<'_>) -> bool {
        let mode = match self {
            Self::Always(mode) => *mode,
            Self::Hook(hook) => hook(error, head),
        };
        mode == FailureMode::Open
    }
}
