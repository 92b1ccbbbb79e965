//! The layer on gRPC: tonic servers and channels, unary and streaming, and an ordinary client.

mod layer_support;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioExecutor;
use layer_support::Recorder;
use layer_support::body::{Script, Step};
use layer_support::server::{BOTH, Version, serve};
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{NamedService, ServerStreamingService, UnaryService};
use tonic::transport::server::TcpConnectInfo;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_aperture::FlowStatus::{Error, Ok as Fine, Unset};
use tower_aperture::layer::{ClientAddress, grpc_service};
use tower_aperture::{
    Aperture, ApertureLayer, Check, Decider, Denial, FlowOutcome, FlowParams, HttpAttributes,
    RejectReason, Ticket, Verdict,
};

/// Messages are plain text.
#[derive(Clone, Copy, Debug, Default)]
struct Text;

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

/// `/test.Echo/Say` says it once, or fails with `fail`; `/test.Echo/Repeat` says it three times,
/// and then fails with `fail` or hangs with `hang`.
#[derive(Clone, Copy, Debug)]
struct Echo;

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
                said => Ok(Response::new(said.to_owned())),
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
            let said = request.into_inner();
            for _ in 0..3 {
                let _ = sender.send(Ok(said.clone())).await;
            }
            match said.as_str() {
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
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

async fn start(layer: ApertureLayer<Recorder>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let server = Server::builder().layer(layer).add_service(Echo);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("a server")
}

async fn say<S>(service: S, text: &str) -> Result<String, Status>
where
    S: tonic::client::GrpcService<tonic::body::Body>,
    S::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<layer_support::body::BoxError>,
    S::Error: std::fmt::Debug,
{
    let mut client = tonic::client::Grpc::new(service);
    client
        .ready()
        .await
        .map_err(|_| Status::unknown("not ready"))?;
    let path = PathAndQuery::from_static("/test.Echo/Say");
    let response = client
        .unary(Request::new(text.to_owned()), path, Text)
        .await?;
    Ok(response.into_inner())
}

async fn repeat(channel: Channel, text: &str) -> Result<tonic::Streaming<String>, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|_| Status::unknown("not ready"))?;
    let path = PathAndQuery::from_static("/test.Echo/Repeat");
    let request = Request::new(text.to_owned());
    let response = client.server_streaming(request, path, Text).await?;
    Ok(response.into_inner())
}

#[tokio::test]
async fn a_unary_call_ends_with_its_status() {
    let recorder = Recorder::accepting();
    let layer =
        ApertureLayer::with_control_point(recorder.clone(), |head| head.uri().path().into());
    let channel = channel(start(layer).await).await;
    assert_eq!(
        say(channel.clone(), "hello").await.expect("an answer"),
        "hello"
    );
    assert_eq!(recorder.ended().await, (Fine, Some(200)));
    assert_eq!(recorder.question().control_point, "/test.Echo/Say");

    let status = say(channel, "fail").await.expect_err("an error");
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "nobody")
    );
    let ends = recorder.ended_times(2).await;
    assert_eq!(ends[1].status, Error);
}

#[tokio::test]
async fn a_stream_ends_with_its_trailers() {
    let recorder = Recorder::accepting();
    let channel = channel(start(ApertureLayer::new(recorder.clone(), "echo")).await).await;
    let mut stream = repeat(channel.clone(), "hello").await.expect("a stream");
    let mut messages = 0;
    while let Some(message) = stream.message().await.expect("a message") {
        assert_eq!(message, "hello");
        messages += 1;
    }
    assert_eq!(messages, 3);
    assert_eq!(recorder.ended().await, (Fine, Some(200)));

    let mut stream = repeat(channel, "fail").await.expect("a stream");
    let failed = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream fails"),
            Err(status) => break status,
        }
    };
    assert_eq!(failed.code(), Code::Unavailable);
    let ends = recorder.ended_times(2).await;
    assert_eq!(ends[1].status, Error);
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_is_an_error() {
    let recorder = Recorder::accepting();
    let channel = channel(start(ApertureLayer::new(recorder.clone(), "echo")).await).await;
    let mut stream = repeat(channel, "hang").await.expect("a stream");
    stream.message().await.expect("a message");
    assert!(recorder.ends().is_empty());
    drop(stream);
    assert_eq!(recorder.ended().await, (Error, Some(200)));
}

#[tokio::test]
async fn a_refusal_has_the_right_code_for_a_real_client() {
    for (reason, code) in [
        (RejectReason::RateLimited, Code::ResourceExhausted),
        (RejectReason::NoTokens, Code::Unavailable),
        (RejectReason::NotSampled, Code::PermissionDenied),
    ] {
        let denial = Denial::new(reason).wait(Duration::from_millis(1200));
        let recorder = Recorder::rejecting(denial);
        let channel = channel(start(ApertureLayer::new(recorder.clone(), "echo")).await).await;
        let status = say(channel.clone(), "hello").await.expect_err("an error");
        assert_eq!(status.code(), code);
        assert!(status.message().starts_with("rejected: "));
        assert_eq!(status.metadata().get("retry-after").expect("a wait"), "2");
        let pushback = status.metadata().get("grpc-retry-pushback-ms");
        assert_eq!(pushback.expect("a wait"), "1200");
        assert_eq!(recorder.ended().await, (Unset, Some(200)));

        let status = repeat(channel, "hello")
            .await
            .map(|_| ())
            .expect_err("an error");
        assert_eq!(status.code(), code);
    }
}

#[tokio::test]
async fn outgoing_calls_of_a_channel_are_flows() {
    let address = start(ApertureLayer::new(Recorder::accepting(), "server")).await;
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::new(recorder.clone(), "outgoing");
    let guarded = ServiceBuilder::new()
        .layer(layer)
        .service(channel(address).await);
    assert_eq!(
        say(guarded.clone(), "hello").await.expect("an answer"),
        "hello"
    );
    assert_eq!(recorder.ended().await, (Fine, Some(200)));
    assert_eq!(
        say(guarded, "fail").await.expect_err("an error").code(),
        Code::NotFound
    );
    assert_eq!(recorder.ended_times(2).await[1].status, Error);

    let recorder = Recorder::rejecting(Denial::new(RejectReason::RateLimited));
    let layer = ApertureLayer::new(recorder.clone(), "outgoing");
    let guarded: Aperture<Channel, Recorder> = layer.layer(channel(address).await);
    let status = say(guarded, "hello").await.expect_err("an error");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(recorder.end(), (Unset, Some(200)));
}

#[tokio::test]
async fn outgoing_requests_of_a_client_are_flows() {
    for version in BOTH {
        let inner = service_fn(async |_| {
            let body = Script::new([Step::Data("hello"), Step::Data("!")]);
            Ok::<_, Infallible>(http::Response::new(body))
        });
        let address = serve(version, inner).await;
        let recorder = Recorder::accepting();
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .http2_only(version == Version::Http2)
            .build_http::<Full<Bytes>>();
        let client = ApertureLayer::new(recorder.clone(), "outgoing").layer(client);
        let request = || {
            let request = http::Request::get(format!("http://{address}/"));
            request.body(Full::default()).expect("a request")
        };
        let response = client.clone().oneshot(request()).await.expect("a response");
        assert!(recorder.ends().is_empty(), "the body is on its way");
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "hello!");
        assert_eq!(recorder.end(), (Fine, Some(200)), "{version:?}");

        let response = client.oneshot(request()).await.expect("a response");
        drop(response);
        assert_eq!(recorder.ends()[1].status, Error);
    }
}

/// Notes who asks and for what.
#[derive(Clone, Default)]
struct Asker(Arc<Mutex<Vec<String>>>);

struct Nothing;

impl Ticket for Nothing {
    fn end(self, _: FlowOutcome) {}
}

impl Decider for Asker {
    type Ticket = Nothing;
    type Pending = std::future::Ready<Verdict<Nothing>>;

    fn decide(&self, _: &str, _: &FlowParams<'_>) -> Check<Nothing, Self::Pending> {
        panic!("asked without attributes")
    }

    fn decide_http(
        &self,
        control_point: &str,
        _: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
    ) -> Check<Nothing, Self::Pending> {
        let source = request.source.expect("tonic knows it").ip();
        let destination = request.destination.expect("tonic knows it").port();
        self.0.lock().expect("no test panics here").push(format!(
            "{control_point}: {} {} {} {} {} from {source} to {destination}",
            request.method, request.path, request.protocol, request.scheme, request.size,
        ));
        Check::Ready(Verdict::Rejected(
            Denial::new(RejectReason::NoTokens),
            Nothing,
        ))
    }
}

#[tokio::test]
async fn a_server_tells_the_attributes_of_calls_and_both_addresses() {
    let asker = Asker::default();
    let layer = ApertureLayer::with_control_point(asker.clone(), grpc_service)
        .check_http()
        .source(ClientAddress::of(TcpConnectInfo::remote_addr))
        .destination(|info: &TcpConnectInfo| info.local_addr());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let server = Server::builder().layer(layer).add_service(Echo);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let status = say(channel(address).await, "hello")
        .await
        .expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable);
    let expected = format!(
        "test.Echo: POST /test.Echo/Say HTTP/2 http -1 from 127.0.0.1 to {}",
        address.port()
    );
    assert_eq!(*asker.0.lock().expect("no test panics here"), [expected]);
}
