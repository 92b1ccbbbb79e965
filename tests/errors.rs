//! Tests every public error: its cause is its `source`, and its own text does not repeat the cause.
#![cfg(all(
    feature = "remote",
    feature = "embedded",
    feature = "tls",
    feature = "axum"
))]

#[path = "support/errors.rs"]
mod cases;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::extract::FromRequestParts;
use cases::{Case, assert_all_are_tested, assert_causes_are_sources, case};
use tower_aperture::cache::CacheError;
use tower_aperture::engine::shared::StoreError;
use tower_aperture::engine::{HttpInput, RequestId};
use tower_aperture::layer::{ClientError, FlowHandle};
use tower_aperture::{
    ApertureClient, ApertureLayer, Denial, EndError, Engine, FlowError, FlowErrorKind, FlowParams,
    RejectReason, Rejection, SettleError,
};

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

fn connection_refused() -> FlowError {
    let cause = io::Error::from(io::ErrorKind::ConnectionRefused);
    FlowError::new(FlowErrorKind::Unavailable, "").with_source(cause)
}

/// Returns the error of a check at an address where no Agent listens.
async fn unreachable() -> FlowError {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let client = ApertureClient::builder()
        .address(address)
        .insecure(true)
        .check_timeout(Duration::from_secs(60))
        .build();
    let client = client.expect("a client");
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    flow.error().expect("no Agent listens").clone()
}

async fn missing_flow() -> tower_aperture::layer::MissingFlow {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    let extracted = FlowHandle::from_request_parts(&mut parts, &()).await;
    extracted.expect_err("the request passed no layer")
}

/// Returns every public error, with and without a cause where both occur.
async fn all_errors() -> Vec<Case> {
    let denial = Denial::new(RejectReason::RateLimited);
    let rejection = Rejection::new("checkout", denial);
    let client = ApertureClient::disabled();
    let secret = ApertureLayer::new(client.clone(), "checkout")
        .try_label_from_header("session", "cookie")
        .map(drop);
    let engine = Engine::builder().build().expect("no policy");
    let lookup = engine.cache_lookup("", "key", []).result;
    let from_file = |path| Engine::builder().policy_file(path).build().map(drop);
    let from_text = |text| Engine::builder().policy_text("p", text).build().map(drop);
    let builder = || ApertureClient::builder().address("localhost:1");
    let id = "no id".parse::<RequestId>();
    let http = engine.check_http(&HttpInput::new(""));
    let call = |error| ClientError::<FlowError>::Inner(error);
    let not_sent = ClientError::<FlowError>::Rejected(rejection.clone());
    vec![
        case("Rejection", rejection, false),
        case("ClientError", call(connection_refused()), true),
        case("ClientError", not_sent, true),
        case("LayerError", secret.expect_err("a secret"), false),
        case("MissingFlow", missing_flow().await, false),
        case("FlowError", connection_refused(), true),
        case("FlowError", unreachable().await, true),
        case(
            "FlowError",
            FlowError::new(FlowErrorKind::Timeout, "no answer within 200ms"),
            false,
        ),
        case("EndError", EndError::Call(connection_refused()), true),
        case("EndError", EndError::QueueFull, false),
        case("CacheError", CacheError::Call(connection_refused()), true),
        case(
            "CacheError",
            CacheError::Unreachable(connection_refused()),
            true,
        ),
        case("CacheError", CacheError::NoKey, false),
        case(
            "CacheRefusal",
            lookup
                .expect("the result cache is looked up")
                .expect_err("no control point"),
            false,
        ),
        case(
            "PolicyError",
            from_file("no/such.yaml").expect_err("no file"),
            true,
        ),
        case("PolicyError", from_file("src").expect_err("a folder"), true),
        case(
            "PolicyError",
            from_text("a: [").expect_err("no YAML"),
            false,
        ),
        case(
            "BuildError",
            builder()
                .client_identity(PEM, "no key")
                .build()
                .expect_err("no key"),
            true,
        ),
        case(
            "BuildError",
            ApertureClient::builder().build().expect_err("no address"),
            false,
        ),
        case("ParseRequestIdError", id.expect_err("no id"), false),
        case("SettleError", SettleError::Unsupported, false),
        case("StoreError", StoreError::Unavailable, false),
        case("HttpInputError", http.expect_err("no control point"), false),
    ]
}

#[tokio::test]
async fn every_public_error_returns_its_cause_as_source_and_does_not_repeat_it() {
    assert_causes_are_sources(all_errors().await);
}

#[tokio::test]
async fn the_source_of_a_failed_connection_is_the_io_error() {
    let error = unreachable().await;
    assert!(error.is_unavailable());
    let cause = error.source().expect("a cause");
    let cause = cause
        .downcast_ref::<io::Error>()
        .expect("an error of the system");
    assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(error, error.clone());
}

/// Errors that only occur as the cause of another one; the tests beside them cover their causes.
const INTERNAL: [&str; 2] = ["CallError", "ConnectError"];

#[tokio::test]
async fn all_errors_of_the_source_code_are_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [
        root.join("src"),
        root.join("crates/aperture-core/src"),
        root.join("crates/aperture-engine/src"),
    ];
    let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
    assert_all_are_tested(&all_errors().await, &folders, &INTERNAL);
}
