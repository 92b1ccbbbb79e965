//! A CheckHTTP request fits the size limit for all contents of a request, and limits by its attributes
//! hold.

use tower_aperture::layer::CaptureBody;
use tower_aperture::{FlowDecision, FlowParams, HttpAttributes, Labels};

use super::*;

/// The default maximum size of a message for gRPC servers of tonic and Go.
const GRPC_DEFAULT: usize = 4 * 1024 * 1024;

/// Returns the shortened form, by the rule of labels, of a value longer than 200 bytes.
fn shortened(value: &str) -> String {
    let mut labels = Labels::new();
    labels.insert_client("key", value);
    labels.get("key").expect("a label").to_owned()
}

fn assert_fits(agent: &FakeAgent, client: &ApertureClient) {
    use prost::Message;
    for check in agent.http_checks() {
        assert!(
            check.encoded_len() < GRPC_DEFAULT,
            "{}",
            check.encoded_len()
        );
    }
    assert_eq!(client.stats().unreachable, 0, "every check was answered");
}

#[tokio::test]
async fn a_huge_header_is_shortened_and_stays_distinct() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let layer = ApertureLayer::http(client.clone(), "ingress")
        .send_header("x-user")
        .send_header("x-kind");
    let values = [
        "a".repeat(200),
        "a".repeat(201),
        "a".repeat(70_000),
        "a".repeat(70_001),
        "\u{fc}".repeat(40_000),
        "x".repeat(5_000_000),
    ];
    for value in &values {
        let mut request = plain();
        let header = HeaderValue::from_bytes(value.as_bytes()).expect("a legal value");
        request.headers_mut().insert("x-user", header);
        request
            .headers_mut()
            .insert("x-kind", HeaderValue::from_static("mobile"));
        assert_eq!(send(&layer, request).await.0, 200);
    }
    let checks = agent.http_checks();
    assert_eq!(checks.len(), values.len());
    for (check, value) in checks.iter().zip(&values) {
        let headers = &check.request.as_ref().expect("attributes").headers;
        assert_eq!(headers["x-user"], shortened(value));
        assert!(headers["x-user"].len() <= 200);
        assert_eq!(headers["x-kind"], "mobile");
    }
    assert_eq!(client.stats().labels_shortened, 5);
    assert_fits(&agent, &client);
}

#[tokio::test]
async fn many_lines_of_one_header_and_many_headers_fit() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let mut layer = ApertureLayer::http(client.clone(), "ingress").send_header("x-many");
    let mut request = plain();
    for _ in 0..10_000 {
        let value = HeaderValue::from_static("some value or other");
        request.headers_mut().append("x-many", value);
    }
    for at in 0..100 {
        let name = format!("x-header-{at}");
        layer = layer.send_header(&name);
        let name = http::HeaderName::try_from(name).expect("a name");
        let value = HeaderValue::try_from("v".repeat(60_000)).expect("a legal value");
        request.headers_mut().insert(name, value);
    }
    assert_eq!(send(&layer, request).await.0, 200);
    let headers = attributes(&agent).headers;
    assert_eq!(headers.len(), 101);
    assert!(headers.values().all(|value| value.len() <= 200));
    assert_fits(&agent, &client);
}

#[tokio::test]
async fn a_long_target_host_or_method_fits_and_removes_no_other_attribute() {
    let long = "x".repeat(30_000);
    for (target, path) in [
        (
            format!("/{long}?user=7"),
            format!("/{}?user=7", shortened(&long)),
        ),
        (format!("/a/{long}/b"), format!("/a/{}/b", shortened(&long))),
        (
            format!("/a?pad={long}&user=7"),
            format!("/a?pad={}&user=7", shortened(&long)),
        ),
        (
            format!("/a?{}user=7", "n=1&".repeat(15_000)),
            format!("/a?{}user=7", "n=1&".repeat(15_000)),
        ),
    ] {
        let agent = FakeAgent::start();
        let client = client(&agent);
        let layer = ApertureLayer::http(client.clone(), "ingress");
        let request = Request::builder().method(&*format!("M{long}")).uri(target);
        let request = request.header("host", format!("{long}.example"));
        let request = request.body(()).expect("a request");
        assert_eq!(send(&layer, request).await.0, 200);
        let seen = attributes(&agent);
        assert_eq!(seen.path, path);
        assert_eq!(seen.host, shortened(&format!("{long}.example")));
        assert_eq!(seen.method, shortened(&format!("M{long}")));
        assert_fits(&agent, &client);
    }
}

#[tokio::test]
async fn attribute_values_have_the_length_limit_of_labels() {
    let agent = FakeAgent::start();
    let layer = layer(&agent).send_header("x-token").label_value_limit(5000);
    let token = "t".repeat(5000);
    let request = Request::get("/").header("x-token", &token);
    send(&layer, request.body(()).expect("a request")).await;
    assert_eq!(attributes(&agent).headers["x-token"], token);
}

#[tokio::test]
async fn captured_bodies_of_every_size_fit_or_are_rejected() {
    const MAX: usize = CaptureBody::MAX_BYTES;
    for (capture, size, status, sent, partial) in [
        (CaptureBody::new(usize::MAX), MAX, 200, MAX, None),
        (CaptureBody::new(usize::MAX), MAX + 1, 413, 0, None),
        (CaptureBody::new(8 << 20), 5_000_000, 413, 0, None),
        (CaptureBody::new(1000), 1000, 200, 1000, None),
        (CaptureBody::new(1000), 70_000, 413, 0, None),
        (
            CaptureBody::new(1000).allow_partial(true),
            5_000_000,
            200,
            1000,
            Some("true"),
        ),
        (
            CaptureBody::new(usize::MAX).allow_partial(true),
            5_000_000,
            200,
            MAX,
            Some("true"),
        ),
        (
            CaptureBody::new(1000).allow_partial(true),
            1000,
            200,
            1000,
            Some("false"),
        ),
    ] {
        let agent = FakeAgent::start();
        let client = client(&agent);
        let mut layer = ApertureLayer::http(client.clone(), "ingress");
        let mut request = Request::post(format!("/{}", "p".repeat(60_000)));
        for at in 0..64 {
            layer = layer
                .send_header(format!("x-{at}"))
                .label(format!("label-{at}"), "\"".repeat(100));
            request = request.header(format!("x-{at}"), "h".repeat(70_000));
        }
        let request = request
            .body(Full::<Bytes>::from(vec![b'x'; size]))
            .expect("a request");
        let service = capture.layer(layer.layer(Seen::default().service()));
        let response = service.oneshot(request).await.expect("a response");
        assert_eq!(response.status(), status, "{capture:?} {size}");
        if status == 200 {
            let seen = attributes(&agent);
            assert_eq!(seen.body.len(), sent);
            let partial_header = seen
                .headers
                .get(HttpAttributes::PARTIAL_BODY)
                .map(|value| &**value);
            assert_eq!(partial_header, partial);
        } else {
            assert!(agent.http_checks().is_empty());
        }
        assert_fits(&agent, &client);
    }
}

#[tokio::test]
async fn attributes_given_without_a_layer_fit_after_the_largest_is_shortened() {
    let huge = "x".repeat(5_000_000);
    let long = "y".repeat(300_000);
    for at in 0..5 {
        let agent = FakeAgent::start();
        let client = client(&agent);
        let mut request = HttpAttributes::new("POST", "/cart").header("x-kind", &*long);
        match at {
            0 => request.body = &huge,
            1 => request.path = &huge,
            2 => request.host = &huge,
            3 => request = request.header("x-user", &*huge),
            _ => {
                (request.body, request.path, request.method) = (&huge, &huge, &huge);
                request = request.header("x-user", &*huge);
            }
        }
        let params = FlowParams::new().label("user_id", "42");
        let flow = client.start_http_flow("ingress", params, &request).await;
        assert_eq!(flow.decision(), FlowDecision::Accepted, "{at}");
        flow.end().await;
        let seen = attributes(&agent);
        assert_eq!(seen.headers["baggage"], "user_id=42");
        assert_eq!(seen.headers["x-kind"], long, "the smaller value is kept");
        let partial = seen.headers.get(HttpAttributes::PARTIAL_BODY);
        assert_eq!(partial.is_some(), seen.body.len() < request.body.len());
        if at == 0 {
            assert!(seen.body.len() > 3_000_000 && huge.starts_with(&seen.body));
            assert_eq!(seen.path, "/cart");
        } else if at == 1 {
            assert_eq!(seen.path, shortened(&huge));
        }
        assert!(client.stats().labels_shortened >= 1);
        assert_fits(&agent, &client);
    }
}

#[tokio::test]
async fn more_headers_than_fit_are_dropped_and_counted() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let names: Vec<String> = (0..50_000).map(|at| format!("x-{at}")).collect();
    let mut request = HttpAttributes::new("GET", "/").header("x-kind", "m");
    for name in &names {
        request = request.header(name, "v".repeat(90));
    }
    let flow = client
        .start_http_flow("ingress", FlowParams::new(), &request)
        .await;
    assert_eq!(flow.decision(), FlowDecision::Accepted);
    let headers = attributes(&agent).headers;
    assert_eq!(headers["x-kind"], "m", "the largest headers are dropped");
    assert!(headers.len() > 10_000);
    let lost = 50_001 - u64::try_from(headers.len()).expect("few");
    assert_eq!(client.stats().labels_dropped, lost);
    assert_fits(&agent, &client);
}
