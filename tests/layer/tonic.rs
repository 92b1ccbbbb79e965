//! The layer on tonic servers: the four kinds of calls, whole servers and single services.

use std::time::Duration;

use crate::grpc::{Echo, bind, channel, chat, join, repeat, say, start};
use crate::layer_support::Recorder;
use tonic::Code;
use tonic::service::LayerExt;
use tonic::transport::Server;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_types::StatusExt;
use tower_aperture::FlowStatus::{Error, Ok as Fine, Unset};
use tower_aperture::layer::DefaultReject;
use tower_aperture::{ApertureLayer, Denial, HttpExtras, RejectReason, Rejection};

#[tokio::test]
async fn a_unary_call_ends_its_flow_with_its_status() {
    let recorder = Recorder::accepting();
    let layer =
        ApertureLayer::with_control_point(recorder.clone(), |head| head.uri().path().into());
    let channel = channel(start(layer).await).await;
    assert_eq!(
        say(channel.clone(), "hello").await.expect("a response"),
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
async fn a_stream_ends_its_flow_with_its_trailers() {
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
            Ok(None) => panic!("the stream must fail"),
            Err(status) => break status,
        }
    };
    assert_eq!(failed.code(), Code::Unavailable);
    let ends = recorder.ended_times(2).await;
    assert_eq!(ends[1].status, Error);
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_ends_the_flow_as_error() {
    let recorder = Recorder::accepting();
    let channel = channel(start(ApertureLayer::new(recorder.clone(), "echo")).await).await;
    let mut stream = repeat(channel, "hang").await.expect("a stream");
    stream.message().await.expect("a message");
    assert!(recorder.ends().is_empty());
    drop(stream);
    assert_eq!(recorder.ended().await, (Error, Some(200)));
}

#[tokio::test]
async fn a_client_streaming_call_ends_its_flow_with_its_response() {
    let recorder = Recorder::accepting();
    let channel = channel(start(ApertureLayer::new(recorder.clone(), "echo")).await).await;
    let joined = join(channel, &["a", "b", "c"]).await.expect("a response");
    assert_eq!(joined, "abc");
    assert_eq!(recorder.ended().await, (Fine, Some(200)));
}

#[tokio::test]
async fn a_bidirectional_stream_is_one_flow() {
    let recorder = Recorder::accepting();
    let channel = channel(start(ApertureLayer::new(recorder.clone(), "echo")).await).await;
    let (say, messages) = tokio::sync::mpsc::channel(1);
    let mut responses = chat(channel.clone(), messages).await.expect("a stream");
    for word in ["hello", "again"] {
        say.send(word.to_owned()).await.expect("a listener");
        let response = responses.message().await.expect("no error");
        assert_eq!(response.as_deref(), Some(word));
        assert!(recorder.ends().is_empty(), "the stream is open");
    }
    drop(say);
    assert_eq!(responses.message().await.expect("no error"), None);
    assert_eq!(recorder.ended().await, (Fine, Some(200)));
    assert_eq!(recorder.asked().len(), 1);

    let (say, messages) = tokio::sync::mpsc::channel(1);
    let mut responses = chat(channel, messages).await.expect("a stream");
    say.send("fail".to_owned()).await.expect("a listener");
    let status = responses.message().await.expect_err("an error");
    assert_eq!(status.code(), Code::Aborted);
    assert_eq!(recorder.ended_times(2).await[1].status, Error);
}

/// Converts `/package.Service/Method` to `package.Service.Method`.
fn template(path: &str) -> String {
    path.trim_start_matches('/').replace('/', ".")
}

#[tokio::test]
async fn one_service_of_a_server_is_under_flow_control() {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<Echo>().await;
    let recorder = Recorder::rejecting(Denial::new(RejectReason::RateLimited));
    let layer = ApertureLayer::with_control_point(recorder.clone(), |head| {
        template(head.uri().path()).into()
    })
    .label_from_header("user", "x-user");
    let (address, incoming) = bind().await;
    let server = Server::builder()
        .add_service(layer.named_layer(Echo))
        .add_service(health);
    tokio::spawn(server.serve_with_incoming(incoming));

    let channel = channel(address).await;
    let mut client = HealthClient::new(channel.clone());
    let request = HealthCheckRequest {
        service: "test.Echo".to_owned(),
    };
    let response = client
        .check(request)
        .await
        .expect("a response")
        .into_inner();
    assert_eq!(response.status(), ServingStatus::Serving);
    assert!(
        recorder.asked().is_empty(),
        "the layer wraps another service"
    );

    let status = say(channel, "hello").await.expect_err("rejected");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(recorder.question().control_point, "test.Echo.Say");
}

#[tokio::test]
async fn labels_can_come_from_metadata() {
    let recorder = Recorder::accepting();
    let layer =
        ApertureLayer::new(recorder.clone(), "echo").label_from_header("user_id", "x-user-id");
    let address = start(layer).await;
    let named = tonic::service::interceptor::InterceptedService::new(
        channel(address).await,
        |mut request: tonic::Request<()>| {
            let metadata = request.metadata_mut();
            metadata.insert("x-user-id", "42".parse().expect("a value"));
            Ok(request)
        },
    );
    say(named, "hello").await.expect("a response");
    assert_eq!(recorder.question().label("user_id"), Some("42"));
}

/// The gRPC codes for the statuses that a policy may set for rejections.
const CODES: [(u16, Code); 16] = [
    (200, Code::Unknown),
    (400, Code::InvalidArgument),
    (401, Code::Unauthenticated),
    (403, Code::PermissionDenied),
    (404, Code::NotFound),
    (408, Code::DeadlineExceeded),
    (409, Code::Aborted),
    (412, Code::FailedPrecondition),
    (418, Code::Unknown),
    (429, Code::ResourceExhausted),
    (500, Code::Internal),
    (501, Code::Unimplemented),
    (502, Code::Unavailable),
    (503, Code::Unavailable),
    (504, Code::DeadlineExceeded),
    // Without a status the reason sets the code.
    (0, Code::ResourceExhausted),
];

#[tokio::test]
async fn each_status_of_a_policy_has_its_grpc_code() {
    for (denied, code) in CODES {
        let denial = Denial::new(RejectReason::RateLimited).denied_code(denied);
        let recorder = Recorder::rejecting(denial);
        let channel = channel(start(ApertureLayer::new(recorder.clone(), "echo")).await).await;
        let status = say(channel, "hello").await.expect_err("rejected");
        assert_eq!(status.code(), code, "{denied}");
        assert_eq!(status.message(), "rejected: rate limited");
        assert_eq!(recorder.ended().await, (Unset, Some(200)));
    }
}

#[tokio::test]
async fn a_conflict_can_be_sent_as_already_exists() {
    for (already_exists, code) in [(false, Code::Aborted), (true, Code::AlreadyExists)] {
        let denial = Denial::new(RejectReason::RateLimited).denied_code(409);
        let layer = ApertureLayer::new(Recorder::rejecting(denial), "echo")
            .reject_with(DefaultReject::new().already_exists(already_exists));
        let channel = channel(start(layer).await).await;
        let status = say(channel, "hello").await.expect_err("rejected");
        assert_eq!(status.code(), code);
        assert_eq!(
            status.get_error_details().quota_failure().map(|_| ()),
            Some(())
        );
    }
}

#[tokio::test]
async fn without_a_status_the_reason_sets_the_grpc_code() {
    for (reason, code) in [
        (RejectReason::RateLimited, Code::ResourceExhausted),
        (RejectReason::NoTokens, Code::Unavailable),
        (RejectReason::NotSampled, Code::PermissionDenied),
        (RejectReason::NoMatchingRamp, Code::PermissionDenied),
        (RejectReason::Unreachable, Code::Unavailable),
        (RejectReason::Unknown, Code::PermissionDenied),
    ] {
        let recorder = Recorder::rejecting(Denial::new(reason));
        let channel = channel(start(ApertureLayer::new(recorder, "echo")).await).await;
        let status = say(channel, "hello").await.expect_err("rejected");
        assert_eq!(status.code(), code);
        assert!(status.message().starts_with("rejected"));
    }
}

#[tokio::test]
async fn every_kind_of_call_gets_the_same_rejection() {
    let wait = Duration::from_micros(1_200_001);
    let denial = Denial::new(RejectReason::NoTokens).wait(wait);
    let recorder = Recorder::rejecting(denial);
    let channel = channel(start(ApertureLayer::new(recorder.clone(), "echo")).await).await;
    let (_say, messages) = tokio::sync::mpsc::channel(1);
    let statuses = [
        say(channel.clone(), "hello").await.map(drop),
        repeat(channel.clone(), "hello").await.map(drop),
        join(channel.clone(), &["hello"]).await.map(drop),
        chat(channel, messages).await.map(drop),
    ];
    for status in statuses {
        let status = status.expect_err("rejected");
        assert_eq!(status.code(), Code::Unavailable);
        let metadata = status.metadata();
        assert_eq!(metadata.get("retry-after").expect("a wait"), "2");
        let pushback = metadata.get("grpc-retry-pushback-ms").expect("a wait");
        assert_eq!(pushback, "1201", "rounded up");
        let details = status.get_error_details();
        let retry = details.retry_info().expect("a wait");
        assert_eq!(retry.retry_delay, Some(wait));
        let failure = details.quota_failure().expect("a quota");
        assert_eq!(failure.violations.len(), 1);
        assert_eq!(failure.violations[0].subject, "control_point:echo");
        assert_eq!(failure.violations[0].description, "no_tokens");
    }
    let ends = recorder.ended_times(4).await;
    assert!(ends.iter().all(|end| end.status == Unset));
}

#[tokio::test]
async fn error_details_contain_only_known_facts() {
    let of = async |name: &'static str, denial| {
        let layer = ApertureLayer::new(Recorder::rejecting(denial), name);
        let channel = channel(start(layer).await).await;
        say(channel, "hello").await.expect_err("rejected")
    };
    let status = of("echo", Denial::new(RejectReason::NotSampled)).await;
    assert!(
        status.details().is_empty(),
        "without wait and quota no details"
    );
    assert!(status.metadata().get("grpc-retry-pushback-ms").is_none());

    let status = of("echo", Denial::new(RejectReason::RateLimited)).await;
    let details = status.get_error_details();
    assert!(details.retry_info().is_none() && details.quota_failure().is_some());

    let sampled = Denial::new(RejectReason::NotSampled).wait(Duration::from_nanos(1));
    let status = of("echo", sampled).await;
    let details = status.get_error_details();
    let retry = details.retry_info().expect("a wait");
    assert_eq!(retry.retry_delay, Some(Duration::from_nanos(1)));
    assert!(details.quota_failure().is_none());
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    assert_eq!(pushback.expect("a wait"), "1");

    let long = "x".repeat(256).leak();
    let status = of(long, Denial::new(RejectReason::RateLimited)).await;
    let details = status.get_error_details();
    let failure = details.quota_failure().expect("a quota");
    assert!(failure.violations[0].subject.ends_with(&*long));

    let for_good = Denial::new(RejectReason::RateLimited).wait(Duration::MAX);
    let long = "x".repeat(257).leak();
    let details = of(long, for_good).await.get_error_details();
    let retry = details.retry_info().expect("a wait");
    assert_eq!(
        retry.retry_delay,
        Some(Duration::from_secs(315_576_000_000))
    );
    assert!(
        details.quota_failure().is_none(),
        "the name is too long for the details"
    );
}

/// Returns the parts of a status that a client sees.
fn visible_parts(status: &tonic::Status) -> (Code, String, Vec<u8>, Vec<(String, String)>) {
    let metadata = status.metadata().clone().into_headers();
    let mut fields: Vec<_> = metadata
        .iter()
        .filter(|(name, _)| !["content-type", "date"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
        .collect();
    fields.sort_unstable();
    (
        status.code(),
        status.message().to_owned(),
        status.details().to_vec(),
        fields,
    )
}

#[tokio::test]
async fn a_rejection_converts_to_the_status_that_the_layer_sends() {
    let waits = [Duration::ZERO, Duration::from_millis(1201), Duration::MAX];
    let cases = CODES.iter().flat_map(|(denied, code)| {
        waits.map(|wait| {
            let denial = Denial::new(RejectReason::RateLimited);
            (denial.denied_code(*denied).wait(wait), *code)
        })
    });
    for (denial, code) in cases {
        let layer = ApertureLayer::new(Recorder::rejecting(denial), "echo");
        let channel = channel(start(layer).await).await;
        let sent = say(channel, "hello").await.expect_err("rejected");
        let rejection = Rejection::new("echo", denial);
        let made = tonic::Status::from(rejection.clone());
        assert_eq!(made.code(), code);
        assert_eq!(visible_parts(&sent), visible_parts(&made));
        let source = std::error::Error::source(&made).expect("the rejection");
        assert_eq!(source.downcast_ref::<Rejection>(), Some(&rejection));
    }
}

#[tokio::test]
async fn a_rejection_that_a_handler_returns_rejects_its_call() {
    let (address, incoming) = bind().await;
    let asked = tonic::service::InterceptorLayer::new(|_| {
        let extras = HttpExtras::new(
            [
                ("x-plan", "free"),
                ("x-plan", "trial"),
                ("grpc-status-details-bin", "!"),
                ("grpc-status", "0"),
                ("content-type", "text/html"),
            ],
            "sorry",
        );
        let denial = Denial::new(RejectReason::NoTokens).wait(Duration::from_millis(2500));
        let rejection = Rejection::new("render", denial).with_extras(extras);
        Err::<tonic::Request<()>, _>(rejection.into())
    });
    let server = Server::builder().layer(asked).add_service(Echo);
    tokio::spawn(server.serve_with_incoming(incoming));
    let status = say(channel(address).await, "hello").await;
    let status = status.expect_err("rejected");
    assert_eq!(status.code(), Code::Unavailable);
    let plans = status.metadata().get_all("x-plan").iter();
    assert_eq!(plans.collect::<Vec<_>>(), ["free", "trial"]);
    assert_eq!(status.metadata().get("retry-after").expect("a wait"), "3");
    let details = status.get_error_details();
    let retry = details.retry_info().expect("a wait");
    assert_eq!(retry.retry_delay, Some(Duration::from_millis(2500)));
    let failure = details.quota_failure().expect("a quota");
    assert_eq!(failure.violations[0].subject, "control_point:render");
}
