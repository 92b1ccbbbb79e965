//! Why calls fail, and what the client may do next.

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};

use super::breaker::FailureKind;
use super::transport::{CallError, ConnectError, innermost_message, reports_unprocessed};
use crate::flow::{Cause, FlowError, FlowErrorKind};

pub(super) const GIVEN_UP: &str =
    "every agent is given up; checks resume when one answers a health probe";

/// Why a call failed.
///
/// | cause | [undecided](Self::undecided): another Agent may be asked |
/// |---|---|
/// | no connection, or no stream in time | yes, nothing was sent |
/// | `REFUSED_STREAM`, a stream above GOAWAY's last one, a connection that broke before the request left | yes |
/// | `UNAUTHENTICATED`, `PERMISSION_DENIED`, `UNIMPLEMENTED` | yes, the Agent refuses before it decides |
/// | any other status, a connection that broke later, no answer in time | no, a decision may have been made |
#[derive(Debug)]
pub(super) struct CallFailure {
    pub(super) kind: FlowErrorKind,
    /// The connection failed, or the status is `UNAVAILABLE`. A retry may succeed.
    pub(super) unavailable: bool,
    /// The Agent itself sent the status.
    pub(super) from_agent: bool,
    /// No connection was available to send the call on.
    pub(super) unsent: bool,
    /// The Agent has certainly not decided: another Agent may be asked.
    undecided: bool,
    /// All streams of the open connections were in use. This is no evidence about the Agent.
    full: bool,
    /// The failure lowers the Agent's preference when an Agent is chosen.
    lowers_preference: bool,
    /// A retry would fail in the same way.
    permanent: bool,
    pub(super) message: Cow<'static, str>,
    /// The local error, whose text is the message.
    cause: Cause,
}

impl CallFailure {
    /// Creates the failure for a status. `early` means that it came long before the end of the
    /// budget.
    pub(super) fn new(status: &Status, early: bool) -> Self {
        // tonic keeps the cause of local errors. A status that the Agent sent has no cause.
        let cause = status.source();
        let from_agent = cause.is_none();
        let expired =
            cause.is_some_and(|cause| find_cause::<tonic::TimeoutExpired>(cause).is_some());
        let (kind, unavailable) = match status.code() {
            _ if expired => (FlowErrorKind::Timeout, false),
            _ if !from_agent => (FlowErrorKind::Unavailable, true),
            // Some servers report an exceeded deadline as a cancellation.
            Code::DeadlineExceeded | Code::Cancelled => (FlowErrorKind::Timeout, false),
            Code::Unavailable => (FlowErrorKind::Unavailable, true),
            Code::Unauthenticated | Code::PermissionDenied => {
                (FlowErrorKind::Unauthenticated, false)
            }
            Code::InvalidArgument => (FlowErrorKind::InvalidRequest, false),
            _ => (FlowErrorKind::Other, false),
        };
        let message = match cause {
            Some(cause) => innermost_message(cause),
            None => format!("{:?}: {}", status.code(), status.message()),
        };
        let unsent = unavailable
            && cause.is_some_and(|cause| find_cause::<tonic::ConnectError>(cause).is_some());
        let undecided = match cause {
            Some(cause) => {
                unsent
                    || find_cause::<CallError>(cause).is_some_and(|error| error.unprocessed)
                    || find_cause::<h2::Error>(cause).is_some_and(reports_unprocessed)
            }
            None => matches!(
                status.code(),
                Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented
            ),
        };
        Self {
            kind,
            unavailable,
            from_agent,
            unsent,
            undecided,
            full: false,
            // A slow Agent has many calls in flight, which lowers its share of new ones already.
            lowers_preference: kind != FlowErrorKind::Timeout || (from_agent && early),
            permanent: from_agent
                && matches!(
                    status.code(),
                    Code::Unauthenticated
                        | Code::PermissionDenied
                        | Code::Unimplemented
                        | Code::InvalidArgument
                ),
            message: Cow::Owned(message),
            cause: match cause {
                Some(_) => Cause::innermost(status.clone()),
                None => Cause::NONE,
            },
        }
    }

    /// Returns the failure of a call that was not made, because all Agents are given up.
    pub(super) const fn given_up() -> Self {
        Self::unsent(FlowErrorKind::Unavailable, Cow::Borrowed(GIVEN_UP))
    }

    /// Returns the failure of a call whose attempt to connect failed.
    pub(super) fn no_connection(error: &ConnectError) -> Self {
        Self {
            cause: Cause::innermost(error.clone()),
            ..Self::unsent(
                FlowErrorKind::Unavailable,
                Cow::Owned(innermost_message(error)),
            )
        }
    }

    /// Returns the failure of a call that got no stream in time. `connected` means that connections
    /// are open, but full.
    pub(super) fn no_stream(connected: bool, waited: Duration) -> Self {
        let what = if connected {
            "no free stream to the agent"
        } else {
            "no connection to the agent"
        };
        let message = Cow::Owned(format!("{what} within {waited:?}"));
        Self {
            full: connected,
            unsent: !connected,
            ..Self::unsent(FlowErrorKind::Timeout, message)
        }
    }

    const fn unsent(kind: FlowErrorKind, message: Cow<'static, str>) -> Self {
        Self {
            kind,
            unavailable: matches!(kind, FlowErrorKind::Unavailable),
            from_agent: false,
            unsent: true,
            undecided: true,
            full: false,
            lowers_preference: true,
            permanent: false,
            message,
            cause: Cause::NONE,
        }
    }

    /// Returns the failure of a call that was sent and not answered in time.
    pub(super) fn timed_out(budget: Duration, grace: Duration) -> Self {
        let message = if grace.is_zero() {
            format!("no answer within {budget:?}")
        } else {
            format!("no answer within {budget:?} and a grace of {grace:?}")
        };
        Self {
            kind: FlowErrorKind::Timeout,
            unavailable: false,
            from_agent: false,
            unsent: false,
            undecided: false,
            full: false,
            lowers_preference: false,
            permanent: false,
            message: Cow::Owned(message),
            cause: Cause::NONE,
        }
    }

    /// Returns `true` if no Agent has decided, so that another one may be asked.
    pub(super) const fn undecided(&self) -> bool {
        self.undecided
    }

    /// Returns `true` if a connection was open and the request certainly had no effect on the
    /// Agent. It may be sent to the same Agent over another connection.
    pub(super) const fn unprocessed(&self) -> bool {
        self.undecided && self.unavailable && !self.unsent
    }

    /// Returns `true` if the Agent refuses this client or the method, whatever the request
    /// contains.
    pub(super) const fn refuses_client(&self) -> bool {
        self.undecided && self.from_agent
    }

    /// Returns `true` if no stream was free, which is no evidence about the Agent.
    pub(super) const fn is_full(&self) -> bool {
        self.full
    }

    /// Returns `true` if the Agent should get fewer checks while another one decides.
    pub(super) const fn lowers_preference(&self) -> bool {
        self.lowers_preference
    }

    /// Returns how the failure counts against the Agent, or `None` if it proves that the Agent
    /// answers.
    ///
    /// | cause | kind |
    /// |---|---|
    /// | no answer in time, `DEADLINE_EXCEEDED`, `CANCELLED` | [`NoAnswer`](FailureKind::NoAnswer) |
    /// | no connection | [`NoConnection`](FailureKind::NoConnection) |
    /// | a broken connection, a refused stream, `UNAVAILABLE` | [`BrokenConnection`](FailureKind::BrokenConnection) |
    /// | any other code | none: the Agent answers, and answers without delay |
    pub(super) fn failure_kind(&self) -> Option<FailureKind> {
        match self.kind {
            FlowErrorKind::Timeout => Some(FailureKind::NoAnswer),
            _ if self.unsent => Some(FailureKind::NoConnection),
            _ if self.unavailable => Some(FailureKind::BrokenConnection),
            _ => None,
        }
    }

    /// Returns `true` if a retry would fail in the same way.
    pub(super) const fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// Returns `true` if the check was sent and its answer did not come in time.
    const fn is_late(&self) -> bool {
        matches!(self.kind, FlowErrorKind::Timeout) && !self.undecided
    }

    pub(super) fn into_error(self) -> FlowError {
        let late = self.is_late();
        let error = match self.cause.get() {
            None => FlowError::new(self.kind, self.message),
            Some(_) => FlowError::new(self.kind, "").with_cause(self.cause),
        };
        error.late(late)
    }
}

/// Finds an error of this type in the chain of causes. tonic wraps its own errors and those of its
/// channel.
fn find_cause<'a, E: Error + 'static>(cause: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut cause = Some(cause);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_maps_to_its_kind_and_to_whether_another_agent_may_be_asked() {
        for (code, kind, undecided) in [
            (Code::DeadlineExceeded, FlowErrorKind::Timeout, false),
            (Code::Unavailable, FlowErrorKind::Unavailable, false),
            (Code::Unauthenticated, FlowErrorKind::Unauthenticated, true),
            (Code::PermissionDenied, FlowErrorKind::Unauthenticated, true),
            (Code::InvalidArgument, FlowErrorKind::InvalidRequest, false),
            (Code::Unimplemented, FlowErrorKind::Other, true),
            (Code::ResourceExhausted, FlowErrorKind::Other, false),
            (Code::Internal, FlowErrorKind::Other, false),
            (Code::Unknown, FlowErrorKind::Other, false),
        ] {
            let failure = CallFailure::new(&Status::new(code, "no"), true);
            assert!(failure.from_agent, "{code:?}");
            assert_eq!(failure.kind, kind, "{code:?}");
            assert_eq!(failure.undecided(), undecided, "{code:?}");
            assert!(failure.lowers_preference(), "{code:?}");
        }
        let slow = CallFailure::new(&Status::deadline_exceeded("queued"), false);
        assert!(!slow.lowers_preference(), "it was slow, not failing");
    }

    #[test]
    fn local_errors_are_unavailable_and_not_from_the_agent() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let failure = CallFailure::new(&Status::from_error(Box::new(broken)), true);
        assert!(!failure.from_agent && !failure.undecided());
        assert_eq!(failure.kind, FlowErrorKind::Unavailable);
    }

    #[test]
    fn without_a_stream_only_a_missing_connection_counts_as_unsent() {
        let error = CallFailure::no_stream(true, Duration::ZERO);
        assert!(error.is_full() && error.undecided() && !error.unprocessed());
        let error = CallFailure::no_stream(false, Duration::ZERO);
        assert!(error.unsent && !error.is_full());
    }
}
