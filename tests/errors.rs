//! Tests every public error: its cause is its `source`, and its own text does not repeat the cause.
#![cfg(all(
    feature = "remote",
    feature = "embedded",
    feature = "tls",
    feature = "server",
    feature = "axum"
))]

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use axum::extract::FromRequestParts;
use tower_aperture::agent::{Prometheus, ServeError, Tls};
use tower_aperture::cache::CacheError;
use tower_aperture::engine::{HttpInput, RequestId};
use tower_aperture::layer::{ClientError, FlowHandle};
use tower_aperture::{
    ApertureClient, ApertureLayer, Denial, EndError, Engine, FlowError, FlowErrorKind, FlowParams,
    RejectReason, Rejection,
};

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// One error, the name of its type, and whether it has a cause.
struct Case {
    name: &'static str,
    error: Box<dyn Error>,
    has_cause: bool,
}

fn case(name: &'static str, error: impl Error + 'static, has_cause: bool) -> Case {
    let error = Box::new(error);
    Case {
        name,
        error,
        has_cause,
    }
}

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
    let tls = |chain, key| Tls::from_pem(chain, key).map(drop);
    let trusting = |pem| Prometheus::trusting("https://127.0.0.1:1", pem).map(drop);
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
        case("HttpInputError", http.expect_err("no control point"), false),
        case("TlsError", tls("", "").expect_err("no certificate"), false),
        case("TlsError", tls(PEM, PEM).expect_err("no key"), true),
        case(
            "ServeError",
            ServeError::Listen(io::Error::from(io::ErrorKind::NotConnected)),
            true,
        ),
        case(
            "PrometheusError",
            trusting(PEM.as_bytes()).expect_err("no certificate"),
            true,
        ),
        case(
            "PrometheusError",
            Prometheus::new("prometheus").map(drop).expect_err("no URL"),
            false,
        ),
    ]
}

#[tokio::test]
async fn every_public_error_returns_its_cause_as_source_and_does_not_repeat_it() {
    for Case {
        name,
        error,
        has_cause,
    } in all_errors().await
    {
        assert_eq!(error.source().is_some(), has_cause, "{name}: {error:?}");
        let mut texts = vec![error.to_string()];
        let mut next = error.source();
        while let Some(cause) = next {
            texts.push(cause.to_string());
            next = cause.source();
        }
        for (at, text) in texts.iter().enumerate() {
            assert!(!text.is_empty(), "{name}: {texts:?}");
            for outer in &texts[..at] {
                assert!(!outer.contains(text), "{name} repeats a text: {texts:?}");
            }
        }
        // The text must be complete without the text of its cause.
        assert!(!texts[0].ends_with([':', ' ']), "{name}: {texts:?}");
    }
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

/// Adds the types that implement `Error` in the source files of a folder.
fn find_errors(path: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(path).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            find_errors(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).expect("text");
        for line in text.lines().filter(|line| line.starts_with("impl")) {
            if let Some((_, name)) = line.split_once("Error for ") {
                let end = name.find(|c: char| !c.is_alphanumeric());
                found.insert(name[..end.unwrap_or(name.len())].to_owned());
            }
        }
    }
}

#[tokio::test]
async fn all_errors_of_the_source_code_are_tested() {
    let mut found = BTreeSet::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    find_errors(&src, &mut found);
    let tested: BTreeSet<_> = all_errors()
        .await
        .iter()
        .map(|case| case.name.to_owned())
        .collect();
    let internal = |name: &&String| INTERNAL.contains(&name.as_str());
    let untested: Vec<_> = found
        .difference(&tested)
        .filter(|name| !internal(name))
        .collect();
    assert!(untested.is_empty(), "{untested:?}");
    assert!(found.len() > 10, "{found:?}");
}
