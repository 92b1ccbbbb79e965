//! The layer around clients: outgoing requests are flows.
#![cfg(feature = "embedded")]

use std::convert::Infallible;
use std::error::Error as _;
use std::pin::pin;
use std::time::Duration;

use crate::grpc::{bind, channel, say, start};
use crate::layer_support::body::{Script, Step};
use crate::layer_support::server::{BOTH, Version, serve};
use crate::layer_support::{Answer, Recorder};
use bytes::Bytes;
use futures_util::poll;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioExecutor;
use tonic::Code;
use tonic::transport::{Channel, Server};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_aperture::FlowStatus::{Error, Ok as Fine, Unset};
use tower_aperture::engine::ManualClock;
use tower_aperture::layer::{ApertureClientService, ClientError};
use tower_aperture::{
    Aperture, ApertureClient, ApertureLayer, Denial, Engine, FlowParams, RejectReason, Rejection,
};

#[tokio::test]
async fn outgoing_calls_of_a_channel_are_flows() {
    let address = start(ApertureLayer::new(Recorder::accepting(), "server")).await;
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::new(recorder.clone(), "outgoing");
    let guarded = ServiceBuilder::new()
        .layer(layer)
        .service(channel(address).await);
    assert_eq!(
        say(guarded.clone(), "hello").await.expect("a response"),
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
        assert!(recorder.ends().is_empty(), "the body has not ended");
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "hello!");
        assert_eq!(recorder.end(), (Fine, Some(200)), "{version:?}");

        let response = client.oneshot(request()).await.expect("a response");
        drop(response);
        assert_eq!(recorder.ends()[1].status, Error);
    }
}

async fn health() -> Channel {
    let (reporter, health) = tonic_health::server::health_reporter();
    let serving = tonic_health::ServingStatus::Serving;
    reporter.set_service_status("shop", serving).await;
    let (address, incoming) = bind().await;
    let server = Server::builder().add_service(health);
    tokio::spawn(server.serve_with_incoming(incoming));
    channel(address).await
}

fn health_request() -> HealthCheckRequest {
    HealthCheckRequest {
        service: "shop".to_owned(),
    }
}

#[tokio::test]
async fn generated_clients_work_over_both_layers() {
    let channel = health().await;
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::new(recorder.clone(), "health");
    let guarded: Aperture<Channel, Recorder> = layer.layer(channel.clone());
    let mut client = HealthClient::new(guarded);
    let response = client.check(health_request()).await.expect("a response");
    assert_eq!(response.into_inner().status(), ServingStatus::Serving);
    assert_eq!(recorder.ended().await, (Fine, Some(200)));

    let guarded: ApertureClientService<Channel, Recorder> = layer.into_client().layer(channel);
    let mut client = HealthClient::new(guarded);
    let mut watch = client
        .watch(health_request())
        .await
        .expect("a stream")
        .into_inner();
    let update = watch.message().await.expect("no error").expect("update");
    assert_eq!(update.status(), ServingStatus::Serving);
    assert_eq!(recorder.ends().len(), 1, "the second stream is open");
    drop(watch);
    assert_eq!(recorder.ended_times(2).await[1].status, Error);
}

#[tokio::test]
async fn generated_clients_see_a_rejection_as_a_status() {
    let channel = health().await;
    let denial = Denial::new(RejectReason::NoTokens).wait(Duration::from_millis(1500));
    let layer = ApertureLayer::new(Recorder::rejecting(denial), "health");
    let mut client = HealthClient::new(layer.layer(channel.clone()));
    let status = client.check(health_request()).await.expect_err("rejected");
    assert_eq!(status.code(), Code::Unavailable);

    let mut client = HealthClient::new(layer.into_client().layer(channel));
    let status = client.check(health_request()).await.expect_err("rejected");
    assert_eq!(status.code(), Code::Unknown);
    let mut source = status.source();
    let rejection = loop {
        let error = source.expect("the rejection is one of the sources");
        match error.downcast_ref::<Rejection>() {
            Some(rejection) => break rejection,
            None => source = error.source(),
        }
    };
    assert_eq!(rejection.reason(), RejectReason::NoTokens);
    assert_eq!(rejection.retry_after_secs(), Some(2));
}

fn get() -> http::Request<Full<Bytes>> {
    http::Request::new(Full::default())
}

#[tokio::test]
async fn a_rejected_request_is_an_error_and_is_not_sent() {
    let inner = service_fn(async |_: http::Request<Full<Bytes>>| {
        panic!("a rejected request must not be sent");
        #[allow(unreachable_code)]
        Ok::<_, Infallible>(http::Response::new(Script::new([])))
    });
    let denial = Denial::new(RejectReason::RateLimited).wait(Duration::from_secs(3));
    let recorder = Recorder::rejecting(denial);
    let layer = ApertureLayer::new(recorder.clone(), "api").into_client();
    let error = layer
        .layer(inner)
        .oneshot(get())
        .await
        .expect_err("rejected");
    assert!(error.is_rejected());
    let rejection = error.rejection().expect("a rejection");
    assert_eq!(rejection.control_point(), "api");
    assert_eq!(rejection.retry_after(), Some(Duration::from_secs(3)));
    assert_eq!(error.to_string(), "the call was not sent");
    let source = error.source().expect("a rejection");
    assert!(source.is::<Rejection>());
    assert_eq!(recorder.end(), (Unset, Some(429)));
}

#[tokio::test]
async fn a_late_rejection_is_an_error_too() {
    let inner = service_fn(async |_: http::Request<Full<Bytes>>| {
        Ok::<_, Infallible>(http::Response::new(Script::new([])))
    });
    let recorder = Recorder::by_hand();
    let layer = ApertureLayer::new(recorder.clone(), "api").into_client();
    let call = tokio::spawn(layer.layer(inner).oneshot(get()));
    recorder.asked_once().await;
    recorder.answer(Answer::Reject(Denial::new(RejectReason::NoTokens)));
    let error = call.await.expect("no panic").expect_err("rejected");
    assert_eq!(error.into_inner(), None);

    // The caller drops the call while its decision waits.
    let call = layer.layer(inner).oneshot(get());
    assert!(tokio::time::timeout(Duration::ZERO, call).await.is_err());
    recorder.gave_up().await;
}

#[tokio::test]
async fn an_error_of_the_service_is_passed_on_as_the_inner_error() {
    let inner = service_fn(async |_: http::Request<Full<Bytes>>| {
        let error = std::io::Error::other("no route");
        Err::<http::Response<Script>, _>(error)
    });
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::new(recorder.clone(), "api").into_client();
    let error = layer.layer(inner).oneshot(get()).await.expect_err("failed");
    assert!(!error.is_rejected() && error.rejection().is_none());
    let source = error.source().expect("the error of the service");
    assert_eq!(source.to_string(), "no route");
    let error = error.map_inner(|error| error.kind());
    assert!(matches!(
        error,
        ClientError::Inner(std::io::ErrorKind::Other)
    ));
    assert_eq!(recorder.end(), (Error, None));
}

#[tokio::test]
async fn a_quota_scheduler_paces_calls() {
    let clock = ManualClock::new();
    let policy = "
circuit:
  components:
  - flow_control:
      quota_scheduler:
        selectors: [{control_point: geocoder}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 1}}
          fill_amount: {constant_signal: {value: 1}}
        rate_limiter: {interval: 1s}
        scheduler: {default_workload_parameters: {queue_timeout: 60s}}
";
    let engine = Engine::builder().policy_text("geocoder", policy);
    let engine = engine.clock(clock.clone()).build().expect("a policy");
    let minute = Duration::from_secs(60);
    let client = ApertureClient::embedded_with_check_timeout(engine, minute);
    let inner = service_fn(async |_: http::Request<Full<Bytes>>| {
        Ok::<_, Infallible>(http::Response::new(Script::new([Step::Data("here")])))
    });
    let layer = ApertureLayer::new(client.clone(), "geocoder");
    let geocoder = layer.into_client().layer(inner);
    let first = geocoder.clone().oneshot(get()).await.expect("a response");
    assert_eq!(
        first
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes(),
        "here"
    );

    let mut second = pin!(geocoder.clone().oneshot(get()));
    let mut third = pin!(geocoder.clone().oneshot(get()));
    assert!(poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
    clock.advance(Duration::from_secs(1));
    assert!(poll!(&mut second).is_ready() && poll!(&mut third).is_pending());
    clock.advance(Duration::from_secs(1));
    assert!(poll!(&mut third).is_ready());

    let short_timeout = ApertureLayer::new(client.clone(), "geocoder")
        .check_timeout(Duration::from_millis(100))
        .into_client();
    let error = short_timeout.layer(inner).oneshot(get()).await;
    assert!(error.is_err_and(|error| error.is_rejected()));
    let flow = client.start_flow("elsewhere", FlowParams::new()).await;
    assert!(flow.should_run());
}
