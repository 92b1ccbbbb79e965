//! Unary calls to Agents.

use std::error::Error;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::Uri;
use http::uri::PathAndQuery;
use prost::{DecodeError, Message};
use tokio::time::Instant;
use tonic::client::{Grpc, GrpcService};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};

use super::config::MAX_TIMEOUT;
use super::failure::CallFailure;
use super::message::OutgoingMessage;
use super::stall_tolerant::with_deadline;
use super::state::RuntimeState;
use super::transport::{AgentTransport, Lease, PooledConnection, Purpose, StreamService, unary};

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
pub(super) const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
pub(super) const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// The largest response in bytes. Responses may carry cached values, for which the gRPC default of
/// 4 MiB is too small.
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

impl RuntimeState {
    /// Makes one unary call to any available Agent, with the API key. The timeout covers connecting
    /// and waiting for a stream, and is sent as `grpc-timeout`.
    pub(super) async fn call<Res: Message + Default>(
        self: &Arc<Self>,
        path: &'static str,
        message: &impl Message,
        timeout: Option<Duration>,
    ) -> Result<Res, CallFailure> {
        self.start_due_probes();
        let Some(agent_index) = self.route(None, 0) else {
            return Err(CallFailure::given_up());
        };
        let options = CallOptions {
            purpose: Purpose::Flow,
            ..CallOptions::background(timeout)
        };
        let message = OutgoingMessage::new(message);
        let channel = self.channel(agent_index);
        let answer = self.call_with(channel, agent_index, path, &message, options, Res::decode);
        answer.await.map(|(answer, _)| answer)
    }

    /// Makes a background call to this Agent.
    pub(super) async fn call_agent<Res: Message + Default>(
        &self,
        agent_index: usize,
        path: &'static str,
        message: &OutgoingMessage,
        timeout: Option<Duration>,
    ) -> Result<Res, CallFailure> {
        let channel = self.channel(agent_index);
        self.call_over(channel, agent_index, path, message, timeout)
            .await
    }

    /// Makes a background call over this transport.
    pub(super) async fn call_over<Res: Message + Default>(
        &self,
        transport: AgentTransport,
        agent_index: usize,
        path: &'static str,
        message: &OutgoingMessage,
        timeout: Option<Duration>,
    ) -> Result<Res, CallFailure> {
        let options = CallOptions::background(timeout);
        let answer = self.call_with(transport, agent_index, path, message, options, Res::decode);
        answer.await.map(|(answer, _)| answer)
    }

    /// Makes one unary call with these options. Returns the response and, for the client's own
    /// connections, the connection that it came on.
    ///
    /// A call with [`CallOptions::on_timeout`] does not end at its deadline: it goes on for as long
    /// as its future is polled.
    pub(super) async fn call_with<Res>(
        &self,
        transport: AgentTransport,
        agent_index: usize,
        path: &'static str,
        message: &OutgoingMessage,
        options: CallOptions<'_>,
        decode: impl FnOnce(Bytes) -> Result<Res, DecodeError>,
    ) -> Result<(Res, Option<Arc<PooledConnection>>), CallFailure> {
        let started = Instant::now();
        let budget = options.budget.map(|budget| budget.min(MAX_TIMEOUT));
        let grace = options.grace.min(MAX_TIMEOUT);
        let deadline = budget.map(|budget| started + budget + grace);
        let timed_out = || CallFailure::timed_out(budget.unwrap_or_default(), grace);
        let on_timeout = options.on_timeout.map(|notify| || notify(timed_out()));
        let (answer, connection) = match transport {
            AgentTransport::Own(pool) => {
                let connect_timeout = options
                    .connect_budget
                    .or(budget)
                    .map(|most| most.min(MAX_TIMEOUT));
                let connect_deadline =
                    connect_timeout.map(|connect_timeout| started + connect_timeout);
                let lease = pool.lease(options.purpose, options.connection);
                let (lease, waited) = match with_deadline(connect_deadline, lease).await {
                    Some(Ok(leased)) => leased,
                    Some(Err(error)) => {
                        self.shared
                            .agents
                            .get(agent_index)
                            .tracker()
                            .record_failure();
                        return Err(CallFailure::no_connection(&error));
                    }
                    None => {
                        let connect_timeout = connect_timeout.unwrap_or_default();
                        return Err(CallFailure::no_stream(pool.is_connected(), connect_timeout));
                    }
                };
                // The Agent gets the part of the budget that is left.
                let remaining = match budget {
                    Some(budget) if waited => Some(budget.saturating_sub(started.elapsed())),
                    budget => budget,
                };
                if remaining.is_some_and(|remaining| remaining.is_zero()) {
                    return Err(CallFailure::no_stream(
                        true,
                        connect_timeout.unwrap_or_default(),
                    ));
                }
                let connection = Arc::clone(lease.connection());
                let answer = pin!(self.unary_on(lease, pool.uri(), path, message, remaining));
                let answer = wait_for_answer(deadline, answer, on_timeout).await;
                (answer, Some(connection))
            }
            AgentTransport::Ready(channel) => {
                let answer = pin!(self.unary(Grpc::new(channel), path, message, budget));
                (wait_for_answer(deadline, answer, on_timeout).await, None)
            }
        };
        let tracker = self.shared.agents.get(agent_index).tracker();
        let decode = |answer| decode(answer).map_err(|error| Status::internal(error.to_string()));
        match answer.map(|answer| answer.and_then(decode)) {
            Some(Ok(answer)) => {
                tracker.record_answer();
                Ok((answer, connection))
            }
            Some(Err(status)) => {
                let early = budget.is_none_or(|budget| started.elapsed() < budget / 2);
                let failure = CallFailure::new(&status, early);
                if failure.from_agent && !failure.unavailable {
                    tracker.record_answer();
                } else if failure.unavailable && !failure.unprocessed() {
                    tracker.record_failure();
                }
                Err(failure)
            }
            None => Err(timed_out()),
        }
    }

    /// Makes one unary call on a stream of the client's own.
    async fn unary_on(
        &self,
        lease: Lease,
        origin: &Uri,
        path: &'static str,
        message: &OutgoingMessage,
        timeout: Option<Duration>,
    ) -> Result<Bytes, Status> {
        if self.shared.config.compression.is_some() {
            let grpc = Grpc::with_origin(StreamService::new(lease), origin.clone());
            return self.unary(grpc, path, message, timeout).await;
        }
        let head = self.shared.call_heads.request(origin, path, timeout);
        unary(lease, head, message.framed(), MAX_RESPONSE_BYTES).await
    }

    /// Makes one unary call by tonic's client.
    async fn unary<S>(
        &self,
        grpc: Grpc<S>,
        path: &'static str,
        message: &OutgoingMessage,
        timeout: Option<Duration>,
    ) -> Result<Bytes, Status>
    where
        S: GrpcService<tonic::body::Body>,
        S::Error: Error + Send + Sync + 'static,
        S::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
        <S::ResponseBody as http_body::Body>::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut request = Request::new(message.unframed());
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        if let Some(key) = &self.shared.config.api_key {
            request.metadata_mut().insert("x-api-key", key.clone());
        }
        let mut grpc = grpc.max_decoding_message_size(MAX_RESPONSE_BYTES);
        if let Some(encoding) = self.shared.config.compression {
            grpc = grpc.send_compressed(encoding).accept_compressed(encoding);
        }
        if let Err(error) = grpc.ready().await {
            return Err(Status::from_error(Box::new(error)));
        }
        let path = PathAndQuery::from_static(path);
        let answer = grpc.unary(request, path, BytesCodec).await;
        answer.map(tonic::Response::into_inner)
    }
}

/// The options of one call.
pub(super) struct CallOptions<'a> {
    /// How long the call may take until the Agent answers, including connecting and waiting for a
    /// stream. The rest is sent as `grpc-timeout`. `None` means no limit.
    pub(super) budget: Option<Duration>,
    /// How much longer than the budget the client waits for the response.
    pub(super) grace: Duration,
    /// How much of the budget may pass before a stream is available. `None` means all of it.
    pub(super) connect_budget: Option<Duration>,
    pub(super) purpose: Purpose,
    /// The connection to use as long as it is open.
    pub(super) connection: Option<&'a Arc<PooledConnection>>,
    /// Called at the deadline. The call then goes on.
    pub(super) on_timeout: Option<&'a mut (dyn FnMut(CallFailure) + Send)>,
}

impl CallOptions<'_> {
    pub(super) const fn background(timeout: Option<Duration>) -> Self {
        Self {
            budget: timeout,
            grace: Duration::ZERO,
            connect_budget: None,
            purpose: Purpose::Background,
            connection: None,
            on_timeout: None,
        }
    }
}

/// Waits for a response until the deadline, or beyond it after calling `on_timeout`.
async fn wait_for_answer<F: Future>(
    deadline: Option<Instant>,
    mut answer: Pin<&mut F>,
    on_timeout: Option<impl FnOnce()>,
) -> Option<F::Output> {
    match (with_deadline(deadline, answer.as_mut()).await, on_timeout) {
        (None, Some(on_timeout)) => {
            on_timeout();
            Some(answer.await)
        }
        (outcome, _) => outcome,
    }
}

/// Passes messages that are encoded already, and leaves responses encoded.
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }
}
