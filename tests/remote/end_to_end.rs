//! Tests the layer with a remote client and a fake Agent, in an HTTP server with HTTP clients.
#![cfg(feature = "telemetry")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use crate::support::agent::{FakeAgent, Reply, answer, text};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower_aperture::layer::FailureMode;
use tower_aperture::pb::check::check_response::RejectReason as Reason;
use tower_aperture::{ApertureClient, ApertureLayer};

const MINUTE: Duration = Duration::from_secs(60);

fn client(agent: &FakeAgent) -> ApertureClient {
    ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .connect_timeout(MINUTE)
        .check_timeout(MINUTE)
        .end_timeout(MINUTE)
        .build()
        .expect("a client")
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

fn http() -> Client<HttpConnector, Body> {
    Client::builder(TokioExecutor::new()).build_http()
}

async fn get_status(
    http: &Client<HttpConnector, Body>,
    server: SocketAddr,
    path: &str,
) -> StatusCode {
    let request = Request::get(format!("http://{server}{path}")).body(Body::empty());
    let response = http
        .request(request.expect("a request"))
        .await
        .expect("a response");
    let status = response.status();
    response.into_body().collect().await.expect("a whole body");
    status
}

#[tokio::test]
async fn labels_decisions_ends_and_spans_reach_the_agent() {
    let agent = FakeAgent::start();
    agent.on_check(|request| {
        if request
            .labels
            .get("user_id")
            .is_some_and(|user| user == "mallory")
        {
            Reply::Now(answer::rejected(request, Reason::RateLimited))
        } else {
            Reply::Now(answer::granted(request))
        }
    });
    let client = client(&agent);
    let app = Router::new()
        .route("/ok", get(|| async { "fine" }))
        .route("/broken", get(|| async { StatusCode::BAD_GATEWAY }))
        .layer(
            ApertureLayer::new(client.clone(), "shop")
                .label("service", "shop")
                .label_from_header("user_id", "x-user-id"),
        );
    let (at, http) = (serve(app).await, http());

    assert_eq!(get_status(&http, at, "/ok").await, 200);
    assert_eq!(get_status(&http, at, "/broken").await, 502);
    let request = Request::get(format!("http://{at}/ok"))
        .header("x-user-id", "mallory")
        .header("baggage", "service=mine,tier=gold")
        .body(Body::empty());
    let rejected = http
        .request(request.expect("a request"))
        .await
        .expect("a response");
    assert_eq!(rejected.status(), 429);

    let check = &agent.checks()[2];
    assert_eq!(check.control_point, "shop");
    let label = |key: &str| check.labels.get(key).map(String::as_str);
    assert_eq!(label("user_id"), Some("mallory"));
    assert_eq!(
        label("service"),
        Some("shop"),
        "baggage overrides no label of the layer"
    );
    assert_eq!(label("tier"), Some("gold"));
    assert_eq!(check.labels.len(), 3, "only chosen headers become labels");

    assert!(client.shutdown(MINUTE).await);
    assert_eq!(agent.tokens_in_flight(), 0);
    let mut statuses: Vec<_> = agent
        .spans()
        .iter()
        .map(|span| {
            (
                text(span, "aperture.flow.status"),
                text(span, "http.status_code"),
            )
        })
        .collect();
    statuses.sort();
    let statuses: Vec<_> = statuses
        .iter()
        .map(|(status, code)| {
            (
                status.as_deref().unwrap_or(""),
                code.as_deref().unwrap_or(""),
            )
        })
        .collect();
    assert_eq!(
        statuses,
        [("Error", "502"), ("OK", "200"), ("Unset", "429")]
    );
}

#[tokio::test]
async fn requests_follow_the_failure_mode_until_the_agent_is_back() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::rejected(request, Reason::NoTokens)));
    let client = client(&agent);
    let route = |layer: ApertureLayer<ApertureClient>| get(|| async { "fine" }).layer(layer);
    let open = ApertureLayer::new(client.clone(), "shop");
    let app = Router::new()
        .route("/open", route(open.clone()))
        .route(
            "/closed",
            route(open.clone().on_unreachable(FailureMode::Closed)),
        )
        .route("/ramp", route(open.clone().ramp_mode(true)));
    let (at, http) = (serve(app).await, http());

    agent.kill();
    assert_eq!(get_status(&http, at, "/open").await, 200);
    assert_eq!(get_status(&http, at, "/closed").await, 503);
    assert_eq!(get_status(&http, at, "/ramp").await, 503);
    assert_eq!(client.stats().unreachable, 3);

    agent.restart();
    assert!(client.wait_ready(MINUTE).await);
    assert_eq!(get_status(&http, at, "/open").await, 503);
    assert_eq!(client.stats().rejected, 1);
}

/// Returns a body of 40 bytes that sends one byte per millisecond.
fn slow_body() -> Body {
    let frames = futures_util::stream::unfold(0, |sent| async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        (sent < 40).then(|| (Ok::<_, Infallible>("."), sent + 1))
    });
    Body::from_stream(frames)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_requests_return_all_their_tokens() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::After(Duration::from_millis(5), answer::granted(request)));
    let client = client(&agent);
    let app = Router::new()
        .route("/slow", get(|| async { slow_body() }))
        .layer(ApertureLayer::new(client.clone(), "shop"));
    let at = serve(app).await;

    let clients = (0..1000_u64).map(|nth| {
        tokio::spawn(async move {
            // The timeouts range from before the check is sent until after the end of the body.
            let timeout = Duration::from_micros(nth * 7919 % 100_000);
            let http = http();
            let _ = tokio::time::timeout(timeout, get_status(&http, at, "/slow")).await;
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no client panics");
    }

    agent
        .until("every token is returned", |agent| {
            !agent.checks().is_empty() && agent.tokens_in_flight() == 0
        })
        .await;
    assert!(client.shutdown(MINUTE).await, "{:?}", client.stats());
    assert_eq!(agent.tokens_in_flight(), 0);
    let stats = client.stats();
    assert_eq!((stats.ends_failed, stats.ends_dropped), (0, 0));
}
