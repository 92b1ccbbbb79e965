//! The unary gRPC methods.
//!
//! Their messages are counted before they are decoded, and charged before they are encoded.

mod encoding;
mod read;

use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body;
use prost::Message;
use tonic::Status;

use self::read::read_message;
use super::body::{AgentBody, BoxError, RequestBody};
use super::call::{Call, CallResponse};
use super::delivery::SlotGrant;
use super::json::NamedMessage;
use super::limits::{ELEMENT_BYTES, MAX_ELEMENTS};
use super::memory_budget::{Charge, MemoryKind};
use super::{Agent, check, check_http, elements, trace};

pub(super) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
/// The bytes before a message: a flag of its compression, and its length.
const PREFIX_LEN: usize = 5;

pub(super) type GrpcFuture = Pin<Box<dyn Future<Output = Response<AgentBody>> + Send>>;

/// Handles a call of one method.
pub(super) type CallHandler<B> = fn(&Agent, &Charge, Request<RequestBody<B>>) -> GrpcFuture;

macro_rules! methods {
    ($($path:literal: $handler:path;)*) => {
        /// Returns the handler of the method with this path.
        pub(super) fn find_handler<B>(path: &str) -> Option<CallHandler<B>>
        where
            B: Body<Data = Bytes> + Send + 'static,
            B::Error: Into<BoxError>,
        {
            match path {
                $($path => Some(|agent, charge, request| {
                    Box::pin(handle(agent.clone(), charge.clone(), request, $handler))
                }),)*
                _ => None,
            }
        }
    };
}

methods! {
    "/aperture.flowcontrol.check.v1.FlowControlService/Check": check::check;
    "/aperture.flowcontrol.check.v1.FlowControlService/CacheLookup": check::cache_lookup;
    "/aperture.flowcontrol.check.v1.FlowControlService/CacheUpsert": check::cache_upsert;
    "/aperture.flowcontrol.check.v1.FlowControlService/CacheDelete": check::cache_delete;
    "/aperture.flowcontrol.check.v1.FlowControlService/FlowEnd": check::flow_end;
    "/aperture.flowcontrol.checkhttp.v1.FlowControlServiceHTTP/CheckHTTP": check_http::check_http;
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": trace::export;
}

async fn handle<B, M, R, F>(
    agent: Agent,
    charge: Charge,
    request: Request<RequestBody<B>>,
    handler: impl FnOnce(Agent, Call<M>) -> F,
) -> Response<AgentBody>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    M: NamedMessage,
    R: Message,
    F: Future<Output = Result<CallResponse<R>, Status>>,
{
    let process = &agent.inner.metrics.process;
    match unary(agent.clone(), &charge, request, handler).await {
        Ok((framed, grant)) => {
            let delivery = grant.into_delivery(&process.undelivered);
            let body = AgentBody::message(framed, charge).with_delivery(delivery);
            let mut response = Response::new(body);
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
            response
        }
        Err(status) => error_response(&status).map(|body| body.with_charge(&charge, false)),
    }
}

/// Returns the framed message of the response, and the slots that it grants.
async fn unary<B, M, R, F>(
    agent: Agent,
    charge: &Charge,
    request: Request<RequestBody<B>>,
    handler: impl FnOnce(Agent, Call<M>) -> F,
) -> Result<(Vec<u8>, SlotGrant), Status>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    M: NamedMessage,
    R: Message,
    F: Future<Output = Result<CallResponse<R>, Status>>,
{
    let (head, body) = request.into_parts();
    let message_size = agent.inner.limits.message_size;
    let message = read_message(&head.headers, body, message_size).await?;
    let call = Call {
        message: decode(message, charge)?,
        headers: head.headers,
        charge: charge.clone(),
    };
    let CallResponse { message, grant } = handler(agent, call).await?;
    Ok((encode(&message, charge)?, grant))
}

/// Returns the response that has only headers, with a status.
pub(super) fn error_response(status: &Status) -> Response<AgentBody> {
    let response = status.clone().into_http::<tonic::body::Body>();
    response.map(AgentBody::grpc)
}

/// Counts and charges a message, then decodes it.
fn decode<M: NamedMessage>(message: Bytes, charge: &Charge) -> Result<M, Status> {
    let elements = elements::count(M::NAME, &message);
    elements::check_count(elements, MAX_ELEMENTS)?;
    let bytes = message.len() + elements * ELEMENT_BYTES;
    charge.take(MemoryKind::Decoded, bytes)?;
    M::decode(message).map_err(|error| Status::internal(error.to_string()))
}

/// Charges a message, then encodes it behind its prefix.
fn encode(message: &impl Message, charge: &Charge) -> Result<Vec<u8>, Status> {
    let len = message.encoded_len();
    charge.set(MemoryKind::Responses, len)?;
    let prefix_len = u32::try_from(len).map_err(|_| {
        Status::internal(format!("a response of {len} bytes is too large for gRPC"))
    })?;
    let mut framed = Vec::with_capacity(PREFIX_LEN + len);
    framed.push(0);
    framed.extend(prefix_len.to_be_bytes());
    message.encode_raw(&mut framed);
    Ok(framed)
}
