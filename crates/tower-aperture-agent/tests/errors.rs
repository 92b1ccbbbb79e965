//! Tests every public error of the agent: its cause is its `source`, and its own text does not
//! repeat the cause.

#[path = "../../../tests/support/errors.rs"]
mod cases;

use std::io;
use std::path::Path;

use cases::{Case, assert_all_are_tested, assert_causes_are_sources, case};
use tower_aperture_agent::{Prometheus, ServeError, Tls};

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// Returns every public error, with and without a cause where both occur.
fn all_errors() -> Vec<Case> {
    let tls = |chain, key| Tls::from_pem(chain, key).map(drop);
    let trusting = |pem| Prometheus::trusting("https://127.0.0.1:1", pem).map(drop);
    vec![
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

#[test]
fn every_public_error_returns_its_cause_as_source_and_does_not_repeat_it() {
    assert_causes_are_sources(all_errors());
}

#[test]
fn all_errors_of_the_source_code_are_tested() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    assert_all_are_tested(&all_errors(), &[&src], &[]);
}
