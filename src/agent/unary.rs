//! The gRPC methods, with messages that are counted before they are decoded.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::pin::Pin;

use bytes::{Buf, Bytes};
use http_body::Body;
use prost::Message;
use tonic::codec::{
    BufferSettings, Codec, CompressionEncoding, DecodeBuf, Decoder, EnabledCompressionEncodings,
};
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::{ProstCodec, ProstEncoder};

use super::budget::{Charge, Line};
use super::check::Checks;
use super::http::HttpChecks;
use super::json::Named;
use super::trace::Traces;
use super::{Agent, ELEMENT_BYTES, MAX_ELEMENTS, elements};
use crate::pb::check::flow_control_service_server::FlowControlService;
use crate::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheLookupRequest, CacheLookupResponse,
    CacheUpsertRequest, CacheUpsertResponse, CheckRequest, CheckResponse, FlowEndRequest,
    FlowEndResponse,
};
use crate::pb::checkhttp::flow_control_service_http_server::FlowControlServiceHttp;
use crate::pb::checkhttp::{CheckHttpRequest, CheckHttpResponse};
use crate::pb::trace_collector::trace_service_server::TraceService;
use crate::pb::trace_collector::{ExportTraceServiceRequest, ExportTraceServiceResponse};

pub(super) type Answer = http::Response<tonic::body::Body>;
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;
type Handling<M> = Pin<Box<dyn Future<Output = Result<Response<M>, Status>> + Send>>;

/// Calls a method.
pub(super) type Call<B> = fn(&Agent, &Charge, http::Request<B>) -> Answering;

/// One method of a service.
trait Method: Send + Sync + 'static {
    type Request: Named + 'static;
    type Answer: Message + Default + 'static;

    fn handle(
        agent: Agent,
        request: Request<Self::Request>,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

macro_rules! methods {
    ($($name:ident: $path:literal, $request:ty => $answer:ty, $service:ident.$method:ident;)*) => {
        $(struct $name;

        impl Method for $name {
            type Request = $request;
            type Answer = $answer;

            async fn handle(
                agent: Agent,
                request: Request<$request>,
            ) -> Result<Response<$answer>, Status> {
                $service(agent).$method(request).await
            }
        })*

        /// Finds the method of a path.
        pub(super) fn find<B>(path: &str) -> Option<Call<B>>
        where
            B: Body<Data = Bytes> + Send + 'static,
            B::Error: Into<super::body::BoxError> + Send,
        {
            match path {
                $($path => Some(answer::<$name, B>),)*
                _ => None,
            }
        }
    };
}

methods! {
    Check: "/aperture.flowcontrol.check.v1.FlowControlService/Check",
        CheckRequest => CheckResponse, Checks.check;
    CacheLookup: "/aperture.flowcontrol.check.v1.FlowControlService/CacheLookup",
        CacheLookupRequest => CacheLookupResponse, Checks.cache_lookup;
    CacheUpsert: "/aperture.flowcontrol.check.v1.FlowControlService/CacheUpsert",
        CacheUpsertRequest => CacheUpsertResponse, Checks.cache_upsert;
    CacheDelete: "/aperture.flowcontrol.check.v1.FlowControlService/CacheDelete",
        CacheDeleteRequest => CacheDeleteResponse, Checks.cache_delete;
    FlowEnd: "/aperture.flowcontrol.check.v1.FlowControlService/FlowEnd",
        FlowEndRequest => FlowEndResponse, Checks.flow_end;
    CheckHttp: "/aperture.flowcontrol.checkhttp.v1.FlowControlServiceHTTP/CheckHTTP",
        CheckHttpRequest => CheckHttpResponse, HttpChecks.check_http;
    Export: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        ExportTraceServiceRequest => ExportTraceServiceResponse, Traces.export;
}

fn answer<M: Method, B>(agent: &Agent, charge: &Charge, request: http::Request<B>) -> Answering
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<super::body::BoxError> + Send,
{
    let codec = Counted::<M>(charge.clone(), PhantomData);
    let handler = Handler::<M>(agent.clone(), charge.clone(), PhantomData);
    let message_size = agent.inner.limits.message_size;
    // Answers are small: to compress them costs more than to send them.
    let mut gzip = EnabledCompressionEncodings::default();
    gzip.enable(CompressionEncoding::Gzip);
    Box::pin(async move {
        let mut grpc = Grpc::new(codec)
            .apply_compression_config(gzip, EnabledCompressionEncodings::default())
            .apply_max_message_size_config(Some(message_size), Some(usize::MAX));
        Ok(grpc.unary(handler, request).await)
    })
}

/// Handles a call, and charges its answer before it is encoded.
struct Handler<M>(Agent, Charge, PhantomData<fn() -> M>);

impl<M: Method> UnaryService<M::Request> for Handler<M> {
    type Response = M::Answer;
    type Future = Handling<M::Answer>;

    fn call(&mut self, request: Request<M::Request>) -> Self::Future {
        let (agent, charge) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            let response = M::handle(agent, request).await?;
            charge.set(Line::Answers, response.get_ref().encoded_len())?;
            Ok(response)
        })
    }
}

/// Protobuf whose messages are counted and charged before they are decoded.
struct Counted<M>(Charge, PhantomData<fn() -> M>);

impl<M: Method> Codec for Counted<M> {
    type Encode = M::Answer;
    type Decode = M::Request;
    type Encoder = ProstEncoder<M::Answer>;
    type Decoder = CountingDecoder<M::Request>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<M::Answer, M::Request>::raw_encoder(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        CountingDecoder(self.0.clone(), PhantomData)
    }
}

struct CountingDecoder<R>(Charge, PhantomData<fn() -> R>);

impl<R: Named> Decoder for CountingDecoder<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let message = source.copy_to_bytes(source.remaining());
        let elements = elements::count(R::NAME, &message);
        elements::bounded(elements, MAX_ELEMENTS)?;
        let bytes = message.len() + elements * ELEMENT_BYTES;
        self.0.take(Line::Decoded, bytes)?;
        R::decode(message)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
