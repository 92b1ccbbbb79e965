//! The layer around clients: what goes out is a flow too.

#[path = "layer_support/grpc.rs"]
mod grpc;
mod layer_support;

use std::convert::Infallible;

use bytes::Bytes;
use grpc::{channel, say, start};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioExecutor;
use layer_support::Recorder;
use layer_support::body::{Script, Step};
use layer_support::server::{BOTH, Version, serve};
use tonic::Code;
use tonic::transport::Channel;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_aperture::FlowStatus::{Error, Ok as Fine, Unset};
use tower_aperture::{Aperture, ApertureLayer, Denial, RejectReason};

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
