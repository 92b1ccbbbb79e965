//! Deadlines of callers for incoming and outgoing calls, with real tonic clients and servers.

use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::{Code, Request};
use tower::{Layer, ServiceBuilder};
use tower_aperture::layer::ClientError;
use tower_aperture::{ApertureLayer, RejectReason};

use crate::grpc::{Text, channel, start};
use crate::layer_support::{Answer, Recorder};

/// Makes a call that waits at most `timeout` for its response.
async fn say<S>(service: S, timeout: Duration) -> Result<String, tonic::Status>
where
    S: tonic::client::GrpcService<tonic::body::Body>,
    S::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<crate::layer_support::body::BoxError>,
{
    let mut client = Grpc::new(service);
    let ready = client.ready().await;
    ready.map_err(|error| tonic::Status::from_error(error.into()))?;
    let mut request = Request::new("hello".to_owned());
    request.set_timeout(timeout);
    let path = PathAndQuery::from_static("/test.Echo/Say");
    let response = client.unary(request, path, Text).await?;
    Ok(response.into_inner())
}

#[tokio::test]
async fn a_tonic_server_runs_no_call_after_its_deadline() {
    let recorder = Recorder::by_hand();
    let channel = channel(start(ApertureLayer::new(recorder.clone(), "echo")).await).await;
    let call = say(channel.clone(), Duration::from_millis(50));
    let status = call.await.expect_err("late");
    // tonic's own timer may fire first.
    assert!(matches!(
        status.code(),
        Code::DeadlineExceeded | Code::Cancelled
    ));

    let call = tokio::spawn(say(channel, Duration::from_secs(3600)));
    recorder.asked_times(2).await;
    // The first check was cancelled when its caller left.
    recorder.gave_up().await;
    recorder.answer(Answer::Accept);
    recorder.answer(Answer::Accept);
    assert_eq!(call.await.expect("no panic").expect("a response"), "hello");
}

#[tokio::test]
async fn an_outgoing_call_is_not_sent_after_its_deadline() {
    let server = Recorder::accepting();
    let address = start(ApertureLayer::new(server.clone(), "server")).await;
    let recorder = Recorder::by_hand();
    let layer = ApertureLayer::new(recorder.clone(), "outgoing");
    let guarded = ServiceBuilder::new()
        .layer(layer.clone())
        .service(channel(address).await);
    let timeout = Duration::from_millis(50);
    let call = tokio::spawn(say(guarded.clone(), timeout));
    recorder.asked_once().await;
    tokio::time::sleep(timeout).await;
    recorder.answer(Answer::Accept);
    let status = call.await.expect("no panic").expect_err("late");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(server.asked().is_empty(), "the call was not sent");
    recorder.ended().await;

    // A timely call is sent.
    let call = tokio::spawn(say(guarded, Duration::from_secs(3600)));
    recorder.asked_times(2).await;
    recorder.answer(Answer::Accept);
    assert_eq!(call.await.expect("no panic").expect("a response"), "hello");
    assert_eq!(server.asked().len(), 1);

    // A client that returns rejections as errors returns one.
    let guarded = layer.into_client().layer(channel(address).await);
    let mut request = http::Request::post("/test.Echo/Say").body(tonic::body::Body::empty());
    if let Ok(request) = &mut request {
        let zero = http::HeaderValue::from_static("0S");
        request.headers_mut().insert("grpc-timeout", zero);
    }
    let sent = tower::ServiceExt::oneshot(guarded, request.expect("a request"));
    let Err(ClientError::Rejected(rejection)) = sent.await else {
        panic!("the deadline has passed");
    };
    assert_eq!(rejection.reason(), RejectReason::DeadlineExceeded);
}
