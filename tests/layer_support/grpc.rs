//! A gRPC service with plain text messages and its clients, for all four kinds of calls.
#![allow(dead_code, unreachable_pub)]

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::client::{Grpc, GrpcService};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{
    ClientStreamingService, NamedService, ServerStreamingService, StreamingService, UnaryService,
};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tower::Service;
use tower_aperture::layer::OnReject;
use tower_aperture::{ApertureLayer, Decider, Ticket};

use crate::layer_support::body::BoxError;

/// A codec for messages of plain text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, item: String, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(item.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        let text = String::from_utf8(bytes.into());
        text.map(Some).map_err(|_| Status::internal("not text"))
    }
}

/// The service `test.Echo`:
///
/// - `Say` returns its message, and fails for `fail`
/// - `Repeat` returns its message three times, then fails for `fail` and hangs for `hang`
/// - `Join` returns the concatenation of its messages
/// - `Chat` returns each message as it arrives, and fails at `fail`
#[derive(Clone, Copy, Debug)]
pub struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

struct Say;

impl UnaryService<String> for Say {
    type Response = String;
    type Future = Boxed<Result<Response<String>, Status>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        Box::pin(async {
            match request.into_inner().as_str() {
                "fail" => Err(Status::not_found("nobody")),
                text => Ok(Response::new(text.to_owned())),
            }
        })
    }
}

struct Repeat;

impl ServerStreamingService<String> for Repeat {
    type Response = String;
    type ResponseStream = ReceiverStream<Result<String, Status>>;
    type Future = Boxed<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        Box::pin(async {
            let (sender, receiver) = tokio::sync::mpsc::channel(8);
            let text = request.into_inner();
            for _ in 0..3 {
                let _ = sender.send(Ok(text.clone())).await;
            }
            match text.as_str() {
                "fail" => {
                    let _ = sender.send(Err(Status::unavailable("enough"))).await;
                }
                "hang" => {
                    tokio::spawn(async move { sender.closed().await });
                }
                _ => {}
            }
            Ok(Response::new(ReceiverStream::new(receiver)))
        })
    }
}

struct Join;

impl ClientStreamingService<String> for Join {
    type Response = String;
    type Future = Boxed<Result<Response<String>, Status>>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        Box::pin(async {
            let mut messages = request.into_inner();
            let mut all = String::new();
            while let Some(one) = messages.message().await? {
                all.push_str(&one);
            }
            Ok(Response::new(all))
        })
    }
}

struct Chat;

impl StreamingService<String> for Chat {
    type Response = String;
    type ResponseStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<String, Status>> + Send>>;
    type Future = Boxed<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        Box::pin(async {
            let responses = request.into_inner().map(|message| match message?.as_str() {
                "fail" => Err(Status::aborted("enough")),
                text => Ok(text.to_owned()),
            });
            let responses: Self::ResponseStream = Box::pin(responses);
            Ok(Response::new(responses))
        })
    }
}

impl Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Text);
            Ok(match request.uri().path() {
                "/test.Echo/Say" => grpc.unary(Say, request).await,
                "/test.Echo/Repeat" => grpc.server_streaming(Repeat, request).await,
                "/test.Echo/Join" => grpc.client_streaming(Join, request).await,
                "/test.Echo/Chat" => grpc.streaming(Chat, request).await,
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

/// Serves `Echo` behind a layer until the runtime of the test ends.
pub async fn start<D, R>(layer: ApertureLayer<D, R>) -> SocketAddr
where
    D: Decider + Clone + Send + Sync + 'static,
    D::Ticket: Send + Ticket,
    D::Pending: Send,
    R: OnReject<tonic::body::Body> + Send + Sync + 'static,
    R::Body: Send + 'static,
{
    let (address, incoming) = bind().await;
    let server = Server::builder().layer(layer).add_service(Echo);
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

pub async fn bind() -> (SocketAddr, TcpListenerStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    (address, TcpListenerStream::new(listener))
}

pub async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("a server")
}

/// Returns a client over any service that sends calls.
async fn client<S>(service: S) -> Result<Grpc<S>, Status>
where
    S: GrpcService<tonic::body::Body>,
{
    let mut client = Grpc::new(service);
    let ready = client.ready().await;
    ready.map_err(|error| Status::from_error(error.into()))?;
    Ok(client)
}

pub async fn say<S>(service: S, text: &str) -> Result<String, Status>
where
    S: GrpcService<tonic::body::Body>,
    S::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<BoxError>,
{
    let path = PathAndQuery::from_static("/test.Echo/Say");
    let request = Request::new(text.to_owned());
    let response = client(service).await?.unary(request, path, Text).await?;
    Ok(response.into_inner())
}

pub async fn repeat<S>(service: S, text: &str) -> Result<Streaming<String>, Status>
where
    S: GrpcService<tonic::body::Body>,
    S::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<BoxError>,
{
    let path = PathAndQuery::from_static("/test.Echo/Repeat");
    let request = Request::new(text.to_owned());
    let mut client = client(service).await?;
    let response = client.server_streaming(request, path, Text).await?;
    Ok(response.into_inner())
}

pub async fn join<S>(service: S, texts: &[&str]) -> Result<String, Status>
where
    S: GrpcService<tonic::body::Body>,
    S::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<BoxError>,
{
    let path = PathAndQuery::from_static("/test.Echo/Join");
    let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
    let request = Request::new(tokio_stream::iter(texts));
    let mut client = client(service).await?;
    let response = client.client_streaming(request, path, Text).await?;
    Ok(response.into_inner())
}

/// Sends the messages of the receiver and returns the stream of responses.
pub async fn chat<S>(
    service: S,
    messages: tokio::sync::mpsc::Receiver<String>,
) -> Result<Streaming<String>, Status>
where
    S: GrpcService<tonic::body::Body>,
    S::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<BoxError>,
{
    let path = PathAndQuery::from_static("/test.Echo/Chat");
    let request = Request::new(ReceiverStream::new(messages));
    let mut client = client(service).await?;
    let response = client.streaming(request, path, Text).await?;
    Ok(response.into_inner())
}
