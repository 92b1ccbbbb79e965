//! Why calls bring no answer, and what may follow from that.

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};

use super::breaker::Evidence;
use super::transport::{CallError, ConnectError, is_refusal};
use crate::flow::{Cause, FlowError, FlowErrorKind};

pub(super) const GIVEN_UP: &str = "no agent has answered for a while; it is asked again soon";

/// Why a call brought no answer.
///
/// | what came | [undecided](Self::undecided): another Agent may be asked |
/// |---|---|
/// | no connection, or no stream in time | yes, nothing was sent |
/// | `REFUSED_STREAM`, a stream above GOAWAY's last one, a connection that broke before the request left | yes |
/// | `UNAUTHENTICATED`, `PERMISSION_DENIED`, `UNIMPLEMENTED` | yes, the Agent refuses before it decides |
/// | any other status, a connection that broke later, no answer in time | no, a decision may have been made |
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: FlowErrorKind,
    /// The connection's doing, or `UNAVAILABLE`: another try may go better.
    pub(super) unavailable: bool,
    /// The Agent itself said so.
    pub(super) from_agent: bool,
    /// There was no connection to send it on.
    pub(super) unsent: bool,
    /// The Agent has certainly decided nothing: another Agent may be asked the same.
    undecided: bool,
    /// No stream was free on the connections that there are, which says nothing about the Agent.
    full: bool,
    /// It counts against the Agent when one is chosen.
    repels: bool,
    #[cfg(feature = "telemetry")]
    code: Code,
    pub(super) message: Cow<'static, str>,
    /// What broke on our side; its text is the message.
    cause: Cause,
}

impl Failure {
    /// Reads the status of a call. `early` says that it came long before the end of the budget.
    pub(super) fn new(status: &Status, early: bool) -> Self {
        // tonic keeps the cause of what went wrong on our side; what the Agent said has none.
        let cause = status.source();
        let from_agent = cause.is_none();
        let expired = cause.is_some_and(|cause| find::<tonic::TimeoutExpired>(cause).is_some());
        let (kind, unavailable) = match status.code() {
            _ if expired => (FlowErrorKind::Timeout, false),
            _ if !from_agent => (FlowErrorKind::Unavailable, true),
            // Some servers call the end of the deadline a cancellation.
            Code::DeadlineExceeded | Code::Cancelled => (FlowErrorKind::Timeout, false),
            Code::Unavailable => (FlowErrorKind::Unavailable, true),
            Code::Unauthenticated | Code::PermissionDenied => {
                (FlowErrorKind::Unauthenticated, false)
            }
            Code::InvalidArgument => (FlowErrorKind::InvalidRequest, false),
            _ => (FlowErrorKind::Other, false),
        };
        let message = match cause {
            Some(cause) => innermost(cause),
            None => format!("{:?}: {}", status.code(), status.message()),
        };
        let unsent =
            unavailable && cause.is_some_and(|cause| find::<tonic::ConnectError>(cause).is_some());
        let undecided = match cause {
            Some(cause) => {
                unsent
                    || find::<CallError>(cause).is_some_and(|error| error.unprocessed)
                    || find::<h2::Error>(cause).is_some_and(is_refusal)
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
            // An Agent that is slow has many calls under way, which keeps others from it.
            repels: kind != FlowErrorKind::Timeout || (from_agent && early),
            #[cfg(feature = "telemetry")]
            code: status.code(),
            message: Cow::Owned(message),
            cause: match cause {
                Some(_) => Cause::innermost(status.clone()),
                None => Cause::NONE,
            },
        }
    }

    /// No Agent was asked, because none answers.
    pub(super) const fn given_up() -> Self {
        Self::unsent(FlowErrorKind::Unavailable, Cow::Borrowed(GIVEN_UP))
    }

    /// The attempt to connect failed.
    pub(super) fn no_connection(error: &ConnectError) -> Self {
        Self {
            cause: Cause::innermost(error.clone()),
            ..Self::unsent(FlowErrorKind::Unavailable, Cow::Owned(innermost(error)))
        }
    }

    /// There was no stream in time. `connected` says that there are connections, which are full.
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
            repels: true,
            #[cfg(feature = "telemetry")]
            code: Code::Unavailable,
            message,
            cause: Cause::NONE,
        }
    }

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
            repels: false,
            #[cfg(feature = "telemetry")]
            code: Code::DeadlineExceeded,
            message: Cow::Owned(message),
            cause: Cause::NONE,
        }
    }

    /// Says that no Agent has decided, so that another may be asked.
    pub(super) const fn undecided(&self) -> bool {
        self.undecided
    }

    /// Says that a connection was there and the request certainly had no effect on the Agent, so
    /// that it may be sent to the same one over another connection.
    pub(super) const fn unprocessed(&self) -> bool {
        self.undecided && self.unavailable && !self.unsent
    }

    /// Says that the Agent refuses this client or its calls, whatever they ask.
    pub(super) const fn is_refusal(&self) -> bool {
        self.undecided && self.from_agent
    }

    /// Says that no stream was free, which is no sign of the Agent's state.
    pub(super) const fn is_full(&self) -> bool {
        self.full
    }

    /// Says that the Agent should get fewer checks while another one decides.
    pub(super) const fn repels(&self) -> bool {
        self.repels
    }

    /// Returns what it says about the Agent; `None` is that it answers.
    ///
    /// | what came | evidence |
    /// |---|---|
    /// | nothing in time, `DEADLINE_EXCEEDED`, `CANCELLED` | silence |
    /// | no connection | refusal |
    /// | a broken connection, a refused stream, `UNAVAILABLE` | refusal, once for all calls under way |
    /// | any other code | it answers, and answering costs no waiting |
    pub(super) fn evidence(&self) -> Option<Evidence> {
        match self.kind {
            FlowErrorKind::Timeout => Some(Evidence::Silence),
            _ if self.unsent => Some(Evidence::Refusal),
            _ if self.unavailable => Some(Evidence::Shared),
            _ => None,
        }
    }

    /// Says that a second try would bring the same answer.
    #[cfg(feature = "telemetry")]
    pub(super) fn is_final(&self) -> bool {
        self.from_agent
            && matches!(
                self.code,
                Code::Unauthenticated
                    | Code::PermissionDenied
                    | Code::Unimplemented
                    | Code::InvalidArgument
            )
    }

    /// Says that the check was sent and its answer did not come in time.
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

/// Looks for an error of this type in the chain of causes. tonic wraps what it says, and what its
/// channel says.
fn find<'a, E: Error + 'static>(cause: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut cause = Some(cause);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// Returns the message of the first cause: outer errors only say that there was an error.
pub(super) fn innermost(mut error: &(dyn Error + 'static)) -> String {
    while let Some(inner) = error.source() {
        error = inner;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_the_agent_keep_their_meaning() {
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
            let failure = Failure::new(&Status::new(code, "no"), true);
            assert!(failure.from_agent, "{code:?}");
            assert_eq!(failure.kind, kind, "{code:?}");
            assert_eq!(failure.undecided(), undecided, "{code:?}");
            assert!(failure.repels(), "{code:?}");
        }
        let slow = Failure::new(&Status::deadline_exceeded("queued"), false);
        assert!(!slow.repels(), "it took its time");
    }

    #[test]
    fn failures_on_our_side_are_the_connections() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let failure = Failure::new(&Status::from_error(Box::new(broken)), true);
        assert!(!failure.from_agent && !failure.undecided());
        assert_eq!(failure.kind, FlowErrorKind::Unavailable);
    }

    #[test]
    fn only_a_connection_that_cannot_be_made_is_a_refusal() {
        let error = Failure::no_stream(true, Duration::ZERO);
        assert!(error.is_full() && error.undecided() && !error.unprocessed());
        let error = Failure::no_stream(false, Duration::ZERO);
        assert!(error.unsent && !error.is_full());
    }
}
