//! Unary calls of Agents.

use std::error::Error;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::Instant;
use tonic::client::{Grpc, GrpcService};
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::{Request, Status};
use tonic_prost::ProstDecoder;

use super::failure::Failure;
use super::live::Live;
use super::patience::within;
use super::transport::{Connection, Exchange, Purpose, Transport};

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

/// Answers may carry cached values, for which gRPC's usual 4 MiB are few.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// The wire has no room for times beyond some thousand years.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Live {
    /// Makes one unary call of any Agent that answers, with the API key. The timeout covers
    /// connecting and waiting for a stream as well, and goes out as `grpc-timeout`.
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
        let Some(at) = self.route(None, 0) else {
            return Err(Failure::given_up());
        };
        let terms = Terms {
            purpose: Purpose::Flow,
            ..Terms::background(timeout)
        };
        let answer = self.exchange(self.channel(at), at, path, Arc::new(message), terms);
        answer.await.map(|(answer, _)| answer)
    }

    /// Makes a call of the background to this Agent. A message may be sent again, so it is shared.
    #[cfg(feature = "telemetry")]
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
        self.call_on(self.channel(at), at, path, message, timeout)
            .await
    }

    /// Does the same over this transport.
    pub(super) async fn call_on<Req, Res>(
        &self,
        transport: Transport,
        at: usize,
        path: &'static str,
        message: Arc<Req>,
        timeout: Option<Duration>,
    ) -> Result<Res, Failure>
    where
        Req: Message + 'static,
        Res: Message + Default + 'static,
    {
        let terms = Terms::background(timeout);
        let answer = self.exchange(transport, at, path, message, terms);
        answer.await.map(|(answer, _)| answer)
    }

    /// Makes one unary call on these terms. Returns the answer and the connection that it came on,
    /// where that is the client's own.
    ///
    /// A call with [`Terms::on_timeout`] does not end at its deadline: it goes on for as long as its
    /// future is polled.
    pub(super) async fn exchange<Req, Res>(
        &self,
        transport: Transport,
        at: usize,
        path: &'static str,
        message: Arc<Req>,
        terms: Terms<'_>,
    ) -> Result<(Res, Option<Arc<Connection>>), Failure>
    where
        Req: Message + 'static,
        Res: Message + Default + 'static,
    {
        let begun = Instant::now();
        let budget = terms.budget.map(|budget| budget.min(LONGEST));
        let grace = terms.grace.min(LONGEST);
        let deadline = budget.map(|budget| begun + budget + grace);
        let timed_out = || Failure::timed_out(budget.unwrap_or_default(), grace);
        let on_timeout = terms.on_timeout.map(|notify| || notify(timed_out()));
        let (answer, connection) = match transport {
            Transport::Own(pool) => {
                let patience = terms.connecting.or(budget).map(|most| most.min(LONGEST));
                let until = patience.map(|patience| begun + patience);
                let lease = pool.lease(terms.purpose, terms.connection);
                let (lease, waited) = match within(until, lease).await {
                    Some(Ok(leased)) => leased,
                    Some(Err(error)) => {
                        self.shared.agents.get(at).link().unreachable();
                        return Err(Failure::no_connection(&error));
                    }
                    None => {
                        let patience = patience.unwrap_or_default();
                        return Err(Failure::no_stream(pool.is_connected(), patience));
                    }
                };
                // The Agent may use what is left.
                let left = match budget {
                    Some(budget) if waited => Some(budget.saturating_sub(begun.elapsed())),
                    budget => budget,
                };
                if left.is_some_and(|left| left.is_zero()) {
                    return Err(Failure::no_stream(true, patience.unwrap_or_default()));
                }
                let connection = Arc::clone(lease.connection());
                let origin = pool.uri().clone();
                let grpc = Grpc::with_origin(Exchange::new(lease), origin);
                let answer = pin!(self.unary(grpc, path, message, left));
                let answer = answer_until(deadline, answer, on_timeout).await;
                (answer, Some(connection))
            }
            Transport::Ready(channel) => {
                let answer = pin!(self.unary(Grpc::new(channel), path, message, budget));
                (answer_until(deadline, answer, on_timeout).await, None)
            }
        };
        let link = self.shared.agents.get(at).link();
        match answer {
            Some(Ok(answer)) => {
                link.answered();
                Ok((answer, connection))
            }
            Some(Err(status)) => {
                let early = budget.is_none_or(|budget| begun.elapsed() < budget / 2);
                let failure = Failure::new(&status, early);
                if failure.from_agent && !failure.unavailable {
                    link.answered();
                } else if failure.unavailable && !failure.unprocessed() {
                    link.unreachable();
                }
                Err(failure)
            }
            None => Err(timed_out()),
        }
    }

    async fn unary<S, Req, Res>(
        &self,
        grpc: Grpc<S>,
        path: &'static str,
        message: Arc<Req>,
        timeout: Option<Duration>,
    ) -> Result<Res, Status>
    where
        S: GrpcService<tonic::body::Body>,
        S::Error: Error + Send + Sync + 'static,
        S::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
        <S::ResponseBody as http_body::Body>::Error: Into<Box<dyn Error + Send + Sync>>,
        Req: Message + 'static,
        Res: Message + Default + 'static,
    {
        let mut request = Request::new(message);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        if let Some(key) = &self.shared.config.api_key {
            request.metadata_mut().insert("x-api-key", key.clone());
        }
        let mut grpc = grpc.max_decoding_message_size(MAX_ANSWER);
        #[cfg(feature = "gzip")]
        if self.shared.config.gzip {
            use tonic::codec::CompressionEncoding::Gzip;
            grpc = grpc.send_compressed(Gzip).accept_compressed(Gzip);
        }
        if let Err(error) = grpc.ready().await {
            return Err(Status::from_error(Box::new(error)));
        }
        let codec = SharedCodec::<Req, Res>(PhantomData);
        let path = PathAndQuery::from_static(path);
        let answer = grpc.unary(request, path, codec).await;
        answer.map(tonic::Response::into_inner)
    }
}

/// The terms of one call.
pub(super) struct Terms<'a> {
    /// How long the call may take until the Agent answers, with connecting and with waiting for a
    /// stream; what is left goes out as `grpc-timeout`. `None` is no limit.
    pub(super) budget: Option<Duration>,
    /// How much longer the client waits for the answer.
    pub(super) grace: Duration,
    /// How much of the budget may pass before there is a stream; `None` is all of it.
    pub(super) connecting: Option<Duration>,
    pub(super) purpose: Purpose,
    /// The connection to use while it is there.
    pub(super) connection: Option<&'a Arc<Connection>>,
    /// Called at the deadline, after which the call goes on.
    pub(super) on_timeout: Option<&'a mut (dyn FnMut(Failure) + Send)>,
}

impl Terms<'_> {
    pub(super) const fn background(timeout: Option<Duration>) -> Self {
        Self {
            budget: timeout,
            grace: Duration::ZERO,
            connecting: None,
            purpose: Purpose::Background,
            connection: None,
            on_timeout: None,
        }
    }
}

/// Waits for an answer until the deadline, or beyond it once `on_timeout` was called.
async fn answer_until<F: Future>(
    deadline: Option<Instant>,
    mut answer: Pin<&mut F>,
    on_timeout: Option<impl FnOnce()>,
) -> Option<F::Output> {
    match (within(deadline, answer.as_mut()).await, on_timeout) {
        (None, Some(on_timeout)) => {
            on_timeout();
            Some(answer.await)
        }
        (outcome, _) => outcome,
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
