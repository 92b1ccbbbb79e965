//! The future of the Agent's response to the end of a flow.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::availability::Availability;
use super::state::RemoteShared;
use crate::flow::{EndError, EndResponse, FlowError, FlowErrorKind};

/// How much longer than the call's deadline a caller waits, so that the outcome of the call comes
/// first.
const RESPONSE_GRACE: Duration = Duration::from_millis(100);

/// The Agent's response to the end of a flow. Dropping it discards the response, not the end.
#[must_use = "the end is sent anyway; await this for the response of the agent"]
pub(crate) struct EndCall {
    state: EndState,
}

enum EndState {
    Ready(Option<EndResponse>),
    Waiting {
        answer: oneshot::Receiver<EndResponse>,
        timeout: Duration,
        /// Set at the first poll inside a runtime, whose timer it needs.
        expiry: Option<Pin<Box<Sleep>>>,
        shared: Arc<RemoteShared>,
    },
}

impl EndCall {
    pub(super) const fn ready(response: EndResponse) -> Self {
        Self {
            state: EndState::Ready(Some(response)),
        }
    }

    pub(super) const fn waiting(
        answer: oneshot::Receiver<EndResponse>,
        timeout: Duration,
        shared: Arc<RemoteShared>,
    ) -> Self {
        Self {
            state: EndState::Waiting {
                answer,
                timeout,
                expiry: None,
                shared,
            },
        }
    }
}

impl Future for EndCall {
    type Output = EndResponse;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<EndResponse> {
        match &mut self.state {
            EndState::Ready(response) => Poll::Ready(response.take().unwrap_or_default()),
            EndState::Waiting {
                answer,
                timeout,
                expiry,
                shared,
            } => {
                if let Poll::Ready(answer) = Pin::new(answer).poll(cx) {
                    let response = answer.unwrap_or_else(|_| {
                        EndResponse::failed(lost_end_error(&shared.availability))
                    });
                    self.state = EndState::Ready(None);
                    return Poll::Ready(response);
                }
                if expiry.is_none() && Handle::try_current().is_ok() {
                    *expiry = Some(Box::pin(tokio::time::sleep(
                        timeout.saturating_add(RESPONSE_GRACE),
                    )));
                }
                if let Some(expiry) = expiry
                    && expiry.as_mut().poll(cx).is_ready()
                {
                    let message =
                        format!("no answer within {timeout:?}; the end is still being sent");
                    let error = FlowError::new(FlowErrorKind::Timeout, message);
                    self.state = EndState::Ready(None);
                    return Poll::Ready(EndResponse::failed(EndError::Call(error)));
                }
                Poll::Pending
            }
        }
    }
}

/// Returns the error of an end whose worker ended without another one taking it over.
fn lost_end_error(availability: &Availability) -> EndError {
    if availability.is_shut_down() {
        EndError::ShutDown
    } else {
        EndError::Call(FlowError::new(
            FlowErrorKind::Unavailable,
            "the runtime of the connection ended",
        ))
    }
}
