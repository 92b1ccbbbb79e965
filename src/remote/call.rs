use std::borrow::Cow;
use std::error::Error;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstDecoder;

use super::breaker::Evidence;
use super::live::Live;
use crate::flow::{Cause, FlowError, FlowErrorKind};

pub(super) const CHECK: &str = "/aperture.flowcontrol.check.v1.FlowControlService/Check";
pub(super) const CHECK_HTTP: &str =
    "/aperture.flowcontrol.checkhttp.v1.FlowControlServiceHTTP/CheckHTTP";
pub(super) const FLOW_END: &str = "/aperture.flowcontrol.check.v1.FlowControlService/FlowEnd";
pub(super) const CACHE_LOOKUP: &str =
    "/aperture.flowcontrol.check.v1.FlowControlService/CacheLookup";
pub(super) const CACHE_UPSERT: &str =
    "/aperture.flowcontrol.check.v1.FlowControlService/CacheUpsert";
pub(super) const CACHE_DELETE: &str =
    "/aperture.flowcontrol.check.v1.FlowControlService/CacheDelete";
#[cfg(feature = "telemetry")]
pub(super) const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
pub(super) const HEALTH: &str = "/grpc.health.v1.Health/Check";

pub(super) const GIVEN_UP: &str = "no agent has answered for a while; it is asked again soon";

/// Answers may carry cached values, for which gRPC's usual 4 MiB are few.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// The wire has no room for times beyond some thousand years.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Why a call brought no answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: FlowErrorKind,
    /// The connection's doing, or `UNAVAILABLE`: another try may go better.
    pub(super) unavailable: bool,
    /// The Agent itself said so.
    pub(super) from_agent: bool,
    /// There was no connection to send it on: another Agent may be asked the same.
    pub(super) unsent: bool,
    #[cfg(feature = "telemetry")]
    code: Code,
    pub(super) message: Cow<'static, str>,
    /// What broke on our side; its text is the message.
    cause: Cause,
}

impl Failure {
    fn new(status: &Status) -> Self {
        // tonic keeps the cause of what went wrong on our side; what the Agent said has none.
        let cause = status.source();
        let from_agent = cause.is_none();
        let expired = cause.is_some_and(is_a::<tonic::TimeoutExpired>);
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
        Self {
            kind,
            unavailable,
            from_agent,
            unsent: unavailable && cause.is_some_and(is_a::<tonic::ConnectError>),
            #[cfg(feature = "telemetry")]
            code: status.code(),
            message: Cow::Owned(message),
            cause: match cause {
                Some(_) => Cause::innermost(status.clone()),
                None => Cause::NONE,
            },
        }
    }

    /// Nobody was asked, because no Agent answers.
    pub(super) const fn given_up() -> Self {
        Self {
            kind: FlowErrorKind::Unavailable,
            unavailable: true,
            from_agent: false,
            unsent: true,
            #[cfg(feature = "telemetry")]
            code: Code::Unavailable,
            message: Cow::Borrowed(GIVEN_UP),
            cause: Cause::NONE,
        }
    }

    /// What it says about the Agent; `None` is that it answers.
    ///
    /// | what came | evidence |
    /// |---|---|
    /// | nothing in time, `DEADLINE_EXCEEDED`, `CANCELLED` | silence |
    /// | no connection | refusal |
    /// | a broken connection, `UNAVAILABLE` | refusal, once for all calls under way |
    /// | any other code | it answers, and answering costs no waiting |
    pub(super) fn evidence(&self) -> Option<Evidence> {
        match self.kind {
            FlowErrorKind::Timeout => Some(Evidence::Silence),
            _ if self.unsent => Some(Evidence::Refusal),
            _ if self.unavailable => Some(Evidence::Shared),
            _ => None,
        }
    }

    fn timed_out(timeout: Duration) -> Self {
        Self {
            kind: FlowErrorKind::Timeout,
            unavailable: false,
            from_agent: false,
            unsent: false,
            #[cfg(feature = "telemetry")]
            code: Code::DeadlineExceeded,
            message: Cow::Owned(format!("no answer within {timeout:?}")),
            cause: Cause::NONE,
        }
    }

    /// A second try would only be told the same.
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

    pub(super) fn into_error(self) -> FlowError {
        match self.cause.get() {
            None => FlowError::new(self.kind, self.message),
            Some(_) => FlowError::new(self.kind, "").with_cause(self.cause),
        }
    }
}

/// tonic watches `grpc-timeout` on our side too and may come first, and it wraps what it says.
fn is_a<E: Error + 'static>(cause: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(cause);
    while let Some(error) = cause {
        if error.is::<E>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The outer errors only say that there was an error.
pub(super) fn innermost(mut error: &(dyn Error + 'static)) -> String {
    while let Some(inner) = error.source() {
        error = inner;
    }
    error.to_string()
}

impl Live {
    /// One unary call of any Agent that answers, with the API key. The timeout covers connecting
    /// and waiting for the channel as well, and goes out as `grpc-timeout`.
    pub(super) async fn call<Req, Res>(
        self: &Arc<Self>,
        path: &'static str,
        message: Req,
        timeout: Option<Duration>,
    ) -> Result<Res, Failure>
    where
        Req: Message + 'static,
        Res: Message + Default + 'static,
    {
        self.probe_where_due();
        match self.route(None, 0) {
            Some(at) => self.call_at(at, path, Arc::new(message), timeout).await,
            None => Err(Failure::given_up()),
        }
    }

    /// The same, of this Agent. A message may be sent again, so it is shared.
    pub(super) async fn call_at<Req, Res>(
        &self,
        at: usize,
        path: &'static str,
        message: Arc<Req>,
        timeout: Option<Duration>,
    ) -> Result<Res, Failure>
    where
        Req: Message + 'static,
        Res: Message + Default + 'static,
    {
        let channel = self.channel(at);
        self.call_on(channel, at, path, message, timeout).await
    }

    pub(super) async fn call_on<Req, Res>(
        &self,
        channel: Channel,
        at: usize,
        path: &'static str,
        message: Arc<Req>,
        timeout: Option<Duration>,
    ) -> Result<Res, Failure>
    where
        Req: Message + 'static,
        Res: Message + Default + 'static,
    {
        let timeout = timeout.map(|timeout| timeout.min(LONGEST));
        let mut request = Request::new(message);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        if let Some(key) = &self.shared.config.api_key {
            request.metadata_mut().insert("x-api-key", key.clone());
        }
        let answer = within(timeout, async {
            let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
            #[cfg(feature = "gzip")]
            if self.shared.config.gzip {
                use tonic::codec::CompressionEncoding::Gzip;
                grpc = grpc.send_compressed(Gzip).accept_compressed(Gzip);
            }
            if let Err(error) = grpc.ready().await {
                return Err(Status::from_error(Box::new(error)));
            }
            let codec = SharedCodec::<Req, Res>(PhantomData);
            grpc.unary(request, PathAndQuery::from_static(path), codec)
                .await
        })
        .await;
        let link = self.shared.agents.get(at).link();
        match answer {
            Some(Ok(response)) => {
                link.answered();
                Ok(response.into_inner())
            }
            Some(Err(status)) => {
                let failure = Failure::new(&status);
                if failure.unavailable {
                    link.unreachable();
                } else if failure.from_agent {
                    link.answered();
                }
                Err(failure)
            }
            None => Err(Failure::timed_out(timeout.unwrap_or_default())),
        }
    }
}

/// Sends messages that their sender keeps.
struct SharedCodec<Req, Res>(PhantomData<(Req, Res)>);

struct SharedEncoder<Req>(PhantomData<Req>);

impl<Req, Res> Codec for SharedCodec<Req, Res>
where
    Req: Message + 'static,
    Res: Message + Default + 'static,
{
    type Encode = Arc<Req>;
    type Decode = Res;
    type Encoder = SharedEncoder<Req>;
    type Decoder = ProstDecoder<Res>;

    fn encoder(&mut self) -> Self::Encoder {
        SharedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

impl<Req: Message> Encoder for SharedEncoder<Req> {
    type Item = Arc<Req>;
    type Error = Status;

    fn encode(&mut self, message: Arc<Req>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message
            .encode(into)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

async fn within<F: Future>(timeout: Option<Duration>, future: F) -> Option<F::Output> {
    match timeout {
        None => Some(future.await),
        Some(timeout) => tokio::time::timeout(timeout, future).await.ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_the_agent_keep_their_meaning() {
        for (code, kind) in [
            (Code::DeadlineExceeded, FlowErrorKind::Timeout),
            (Code::Unavailable, FlowErrorKind::Unavailable),
            (Code::Unauthenticated, FlowErrorKind::Unauthenticated),
            (Code::PermissionDenied, FlowErrorKind::Unauthenticated),
            (Code::InvalidArgument, FlowErrorKind::InvalidRequest),
            (Code::Unimplemented, FlowErrorKind::Other),
            (Code::Unknown, FlowErrorKind::Other),
        ] {
            let failure = Failure::new(&Status::new(code, "no"));
            assert!(failure.from_agent, "{code:?}");
            assert_eq!(failure.kind, kind, "{code:?}");
        }
    }

    #[test]
    fn failures_on_our_side_are_the_connections() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let failure = Failure::new(&Status::from_error(Box::new(broken)));
        assert!(!failure.from_agent);
        assert_eq!(failure.kind, FlowErrorKind::Unavailable);
    }
}
