//! The unary gRPC methods. Their messages are counted before they are decoded.

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

use super::check::CheckService;
use super::check_http::CheckHttpService;
use super::json::NamedMessage;
use super::limits::{ELEMENT_BYTES, MAX_ELEMENTS};
use super::memory_budget::{Charge, MemoryKind};
use super::trace::SpanReceiver;
use super::{Agent, elements};
use tower_aperture::pb::check::flow_control_service_server::FlowControlService;
use tower_aperture::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheLookupRequest, CacheLookupResponse,
    CacheUpsertRequest, CacheUpsertResponse, CheckRequest, CheckResponse, FlowEndRequest,
    FlowEndResponse,
};
use tower_aperture::pb::checkhttp::flow_control_service_http_server::FlowControlServiceHttp;
use tower_aperture::pb::checkhttp::{CheckHttpRequest, CheckHttpResponse};
use tower_aperture::pb::trace_collector::trace_service_server::TraceService;
use tower_aperture::pb::trace_collector::{ExportTraceServiceRequest, ExportTraceServiceResponse};

pub(super) type GrpcResponse = http::Response<tonic::body::Body>;
pub(super) type GrpcFuture = Pin<Box<dyn Future<Output = Result<GrpcResponse, Infallible>> + Send>>;
type HandlerFuture<M> = Pin<Box<dyn Future<Output = Result<Response<M>, Status>> + Send>>;

/// Decodes and handles a call of one method.
pub(super) type CallHandler<B> = fn(&Agent, &Charge, http::Request<B>) -> GrpcFuture;

/// A unary method of a gRPC service.
trait UnaryMethod: Send + Sync + 'static {
    type Request: NamedMessage + 'static;
    type Response: Message + Default + 'static;

    fn handle(
        agent: Agent,
        request: Request<Self::Request>,
    ) -> impl Future<Output = Result<Response<Self::Response>, Status>> + Send;
}

macro_rules! methods {
    ($($name:ident: $path:literal, $request:ty => $response:ty, $service:ident.$method:ident;)*) => {
        $(struct $name;

        impl UnaryMethod for $name {
            type Request = $request;
            type Response = $response;

            async fn handle(
                agent: Agent,
                request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                $service(agent).$method(request).await
            }
        })*

        /// Returns the handler of the method with this path.
        pub(super) fn find_handler<B>(path: &str) -> Option<CallHandler<B>>
        where
            B: Body<Data = Bytes> + Send + 'static,
            B::Error: Into<super::body::BoxError> + Send,
        {
            match path {
                $($path => Some(handle_call::<$name, B>),)*
                _ => None,
            }
        }
    };
}

methods! {
    CheckMethod: "/aperture.flowcontrol.check.v1.FlowControlService/Check",
        CheckRequest => CheckResponse, CheckService.check;
    CacheLookupMethod: "/aperture.flowcontrol.check.v1.FlowControlService/CacheLookup",
        CacheLookupRequest => CacheLookupResponse, CheckService.cache_lookup;
    CacheUpsertMethod: "/aperture.flowcontrol.check.v1.FlowControlService/CacheUpsert",
        CacheUpsertRequest => CacheUpsertResponse, CheckService.cache_upsert;
    CacheDeleteMethod: "/aperture.flowcontrol.check.v1.FlowControlService/CacheDelete",
        CacheDeleteRequest => CacheDeleteResponse, CheckService.cache_delete;
    FlowEndMethod: "/aperture.flowcontrol.check.v1.FlowControlService/FlowEnd",
        FlowEndRequest => FlowEndResponse, CheckService.flow_end;
    CheckHttpMethod: "/aperture.flowcontrol.checkhttp.v1.FlowControlServiceHTTP/CheckHTTP",
        CheckHttpRequest => CheckHttpResponse, CheckHttpService.check_http;
    ExportMethod: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        ExportTraceServiceRequest => ExportTraceServiceResponse, SpanReceiver.export;
}

fn handle_call<M: UnaryMethod, B>(
    agent: &Agent,
    charge: &Charge,
    request: http::Request<B>,
) -> GrpcFuture
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<super::body::BoxError> + Send,
{
    let codec = CountingCodec::<M>(charge.clone(), PhantomData);
    let handler = MethodService::<M>(agent.clone(), charge.clone(), PhantomData);
    let message_size = agent.inner.limits.message_size;
    // Responses are small: compressing them costs more than sending them.
    let mut gzip = EnabledCompressionEncodings::default();
    gzip.enable(CompressionEncoding::Gzip);
    Box::pin(async move {
        let mut grpc = Grpc::new(codec)
            .apply_compression_config(gzip, EnabledCompressionEncodings::default())
            .apply_max_message_size_config(Some(message_size), Some(usize::MAX));
        Ok(grpc.unary(handler, request).await)
    })
}

/// Handles a call and charges its response before the response is encoded.
struct MethodService<M>(Agent, Charge, PhantomData<fn() -> M>);

impl<M: UnaryMethod> UnaryService<M::Request> for MethodService<M> {
    type Response = M::Response;
    type Future = HandlerFuture<M::Response>;

    fn call(&mut self, request: Request<M::Request>) -> Self::Future {
        let (agent, charge) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            let response = M::handle(agent, request).await?;
            charge.set(MemoryKind::Responses, response.get_ref().encoded_len())?;
            Ok(response)
        })
    }
}

/// The protobuf codec, which counts and charges messages before it decodes them.
struct CountingCodec<M>(Charge, PhantomData<fn() -> M>);

impl<M: UnaryMethod> Codec for CountingCodec<M> {
    type Encode = M::Response;
    type Decode = M::Request;
    type Encoder = ProstEncoder<M::Response>;
    type Decoder = CountingDecoder<M::Request>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<M::Response, M::Request>::raw_encoder(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        CountingDecoder(self.0.clone(), PhantomData)
    }
}

struct CountingDecoder<R>(Charge, PhantomData<fn() -> R>);

impl<R: NamedMessage> Decoder for CountingDecoder<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let message = source.copy_to_bytes(source.remaining());
        let elements = elements::count(R::NAME, &message);
        elements::check_count(elements, MAX_ELEMENTS)?;
        let bytes = message.len() + elements * ELEMENT_BYTES;
        self.0.take(MemoryKind::Decoded, bytes)?;
        R::decode(message)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
