//! Passes arbitrary bytes to each parser of outside input. A panic is a finding.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use tower_aperture::engine::{HttpAnswer, HttpInput, HttpRequest};
use tower_aperture::layer::{ClientAddress, RequestHead, client_ip, query};
use tower_aperture::{
    ApertureLayer, Check, Decider, Engine, FlowOutcome, FlowParams, FlowStatus, Ticket,
    TraceContext, Verdict,
};
use tower_layer::Layer;
use tower_service::Service;

/// Builds an engine from a policy file and checks a flow.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let built = Engine::builder().policy_text("fuzz.yaml", text).build();
    match built {
        Ok(engine) => check(&engine, &FlowParams::new().label("user", "42")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Matches a label value with a pattern. The data is the pattern, a line break and the value.
pub fn matcher(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (pattern, value) = text.split_once('\n').unwrap_or((text, ""));
    // A JSON string is a valid YAML string.
    let pattern = serde_json::Value::from(pattern);
    let policy = format!(
        "circuit:
  components:
  - flow_control:
      rate_limiter:
        in_ports:
          bucket_capacity: {{constant_signal: {{value: 2}}}}
          fill_amount: {{constant_signal: {{value: 1}}}}
        parameters: {{interval: 1s}}
        selectors:
        - control_point: fuzz
          agent_group: default
          label_matcher: {{expression: {{label_matches: {{label: user, regex: {pattern}}}}}}}
"
    );
    if let Ok(engine) = Engine::builder().policy_text("fuzz.yaml", policy).build() {
        check(&engine, &FlowParams::new().label("user", value));
    }
}

fn check(engine: &Engine, params: &FlowParams<'_>) {
    drop(engine.decide("fuzz", params));
}

/// Classifies an HTTP request. The data is the rules of a classifier in YAML's flow style, the
/// path, the `authorization` header and the body, separated by line breaks.
pub fn classify(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut parts = text.splitn(4, '\n');
    let mut part = || parts.next().unwrap_or("");
    let policy = format!(
        "resources:
  flow_control:
    classifiers:
    - selectors: [{{control_point: fuzz}}]
      rules: {}
",
        part()
    );
    let Ok(engine) = Engine::builder().policy_text("fuzz.yaml", policy).build() else {
        return;
    };
    let (path, authorization, body) = (part(), part(), part());
    let request = HttpRequest {
        path,
        body,
        headers: &[("authorization", authorization)],
        ..HttpRequest::default()
    };
    let report = engine.check_http(&HttpInput::new("fuzz").request(request));
    let report = report.expect("the request is valid");
    let HttpAnswer::Ok { headers } = &report.answer else {
        panic!("no component limits the flow: {report:?}");
    };
    // The `baggage` for the next service must be a legal header with at most one member per label.
    if let Some(baggage) = headers.get("baggage") {
        HeaderValue::from_str(baggage).expect("a legal header");
        assert!(baggage.split(',').count() <= report.check.telemetry_flow_labels.len());
    }
}

/// Passes a request with a `baggage` header through the layer.
pub fn baggage(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let request = Request::builder().header("baggage", value).body(());
    let mut service = ApertureLayer::new(AssertsLimits, "fuzz").layer(EmptyService);
    drop(service.call(request.expect("the parts are valid")));
}

/// Parses a trace context. The data is a `traceparent`, a line break and a `tracestate`.
pub fn trace(data: &[u8]) {
    let cut = data.iter().position(|byte| *byte == b'\n');
    let (parent, state) = match cut {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b""[..]),
    };
    let (Ok(parent), Ok(state)) = (
        HeaderValue::from_bytes(parent),
        HeaderValue::from_bytes(state),
    ) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", parent.clone());
    headers.insert("tracestate", state);
    let valid = TraceContext::from_headers(&headers).is_valid();
    // A text that is not legal in a header is not a valid trace either.
    let text = parent.to_str().unwrap_or("");
    assert_eq!(valid, TraceContext::new(text, "").is_valid());
    headers.append("traceparent", parent);
    assert!(!TraceContext::from_headers(&headers).is_valid());
}

/// Runs the extractors for query parameters and client addresses. The data is a query, a line break
/// and the value of the proxies' headers.
pub fn extract(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n');
    let (target, hops) = data.split_at(at.unwrap_or(data.len()));
    let hops = hops.strip_prefix(b"\n").unwrap_or(hops);
    let Ok(uri) = Uri::try_from([b"/?", target].concat()) else {
        return;
    };
    let Ok(hops) = HeaderValue::from_bytes(hops) else {
        return;
    };
    let request = Request::builder()
        .uri(uri)
        .header("x-forwarded-for", hops.clone())
        .header("forwarded", hops)
        .extension(SocketAddr::from(([10, 0, 0, 1], 443)));
    let request = request.body(()).expect("the parts are valid");
    let head = RequestHead::new(&request);

    let value = query("a")(head);
    assert!(value.len() <= 3 * target.len());
    let address = ClientAddress::of(|peer: &SocketAddr| Some(*peer));
    assert_eq!(
        client_ip(address.clone())(head),
        "10.0.0.1",
        "no proxy is trusted"
    );
    let address = address.trust("0.0.0.0/0").trust("::/0");
    for address in [address.clone(), address.forwarded()] {
        let exact = address.ip(head);
        let key = client_ip(address)(head);
        match exact {
            None => assert_eq!(key, "unknown"),
            Some(IpAddr::V4(ip)) => assert_eq!(key, ip.to_string()),
            Some(IpAddr::V6(ip)) => {
                let network = key.strip_suffix("/64").expect("a network");
                let network: Ipv6Addr = network.parse().expect("an address");
                assert_eq!(network.segments()[..4], ip.segments()[..4]);
                assert!(ip.to_ipv4_mapped().is_none());
            }
        }
    }
}

/// Passes a request with a `grpc-timeout` through the layer. The decider gets at most the largest
/// valid timeout, eight digits of hours.
pub fn timeout(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let request = Request::post("/").header("grpc-timeout", value).body(());
    let layer = ApertureLayer::new(AssertsLimits, "fuzz");
    drop(
        layer
            .layer(EmptyService)
            .call(request.expect("the parts are valid")),
    );
}

/// Accepts every flow, and asserts that its labels and its timeout are within the limits.
#[derive(Clone)]
struct AssertsLimits;

struct IgnoresEnd;

impl Ticket for IgnoresEnd {
    fn end(self, _: FlowOutcome) {}
}

impl Decider for AssertsLimits {
    type Ticket = IgnoresEnd;
    type Pending = Ready<Verdict<IgnoresEnd>>;

    fn decide(&self, _: &str, params: &FlowParams<'_>) -> Check<IgnoresEnd, Self::Pending> {
        let bytes: usize = params
            .labels
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        assert!(params.labels.len() <= 64 && bytes <= 8192);
        let longest = std::time::Duration::from_secs(99_999_999 * 3600);
        assert!(params.caller_timeout.is_none_or(|time| time <= longest));
        Check::Ready(Verdict::Accepted(IgnoresEnd))
    }
}

#[derive(Clone)]
struct EmptyService;

impl Service<Request<()>> for EmptyService {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::new(String::new())))
    }
}

/// Reads the status of a gRPC-Web response, which must not depend on the sizes of its frames. The
/// data is the frame size minus 1, and the body.
pub fn grpc_web(data: &[u8]) {
    let Some((size, body)) = data.split_first() else {
        return;
    };
    for content_type in ["application/grpc-web", "application/grpc-web-text"] {
        let whole = flow_status(content_type, body, body.len().max(1));
        let frames = flow_status(content_type, body, usize::from(*size) + 1);
        assert_eq!(whole, frames);
        assert_eq!(whole, flow_status(content_type, body, 1));
    }
}

/// Returns the status with which a flow ends whose response has this body, in frames of this size.
fn flow_status(content_type: &'static str, body: &[u8], size: usize) -> FlowStatus {
    use std::pin::{Pin, pin};
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http_body::{Body, Frame};

    #[derive(Clone, Default)]
    struct RecordsEnd(Arc<Mutex<Vec<FlowStatus>>>);

    impl Ticket for RecordsEnd {
        fn end(self, outcome: FlowOutcome) {
            self.0.lock().expect("no panic").push(outcome.status);
        }
    }

    impl Decider for RecordsEnd {
        type Ticket = Self;
        type Pending = Ready<Verdict<Self>>;

        fn decide(&self, _: &str, _: &FlowParams<'_>) -> Check<Self, Self::Pending> {
            Check::Ready(Verdict::Accepted(self.clone()))
        }
    }

    struct Frames(Bytes, usize);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let size = self.1.min(self.0.len());
            let piece = self.0.split_to(size);
            Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
        }
    }

    #[derive(Clone)]
    struct GrpcWebService(&'static str, Bytes, usize);

    impl Service<Request<()>> for GrpcWebService {
        type Response = Response<Frames>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            let mut response = Response::new(Frames(self.1.clone(), self.2));
            let content_type = HeaderValue::from_static(self.0);
            response.headers_mut().insert("content-type", content_type);
            ready(Ok(response))
        }
    }

    let decider = RecordsEnd::default();
    let layer = ApertureLayer::new(decider.clone(), "fuzz");
    let service = GrpcWebService(content_type, Bytes::copy_from_slice(body), size);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let response_future = pin!(layer.layer(service).call(Request::new(())));
    let Poll::Ready(Ok(response)) = Future::poll(response_future, &mut cx) else {
        panic!("the service responds at once and without an error");
    };
    let mut response_body = pin!(response.into_body());
    let mut received = Vec::new();
    while let Poll::Ready(Some(Ok(frame))) = response_body.as_mut().poll_frame(&mut cx) {
        received.extend_from_slice(&frame.into_data().expect("data"));
    }
    assert_eq!(received, body);
    let ends = decider.0.lock().expect("no panic");
    assert_eq!(ends.len(), 1);
    ends[0]
}

/// Serves the data as a response from the result cache; returns whether a GET or a HEAD got it.
#[cfg(feature = "response-cache")]
pub fn stored(data: &[u8]) -> bool {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use tower_aperture::cache::{CacheCall, CacheKey, CacheLookup, Caches};

    /// A decider whose result cache contains the data and ignores writes.
    #[derive(Clone)]
    struct CacheWith(Bytes);

    struct Found(Bytes);

    impl Ticket for Found {
        fn end(self, _: FlowOutcome) {}

        fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
            let mut lookup = CacheLookup::default();
            lookup.result = Some(Ok(Some(self.0.clone())));
            Some(lookup)
        }
    }

    impl Decider for CacheWith {
        type Ticket = Found;
        type Pending = Ready<Verdict<Found>>;

        fn decide(&self, _: &str, _: &FlowParams<'_>) -> Check<Found, Self::Pending> {
            Check::Ready(Verdict::Accepted(Found(self.0.clone())))
        }

        fn caches(&self) -> Option<Arc<dyn Caches>> {
            Some(Arc::new(self.clone()))
        }
    }

    impl Caches for CacheWith {
        fn set<'a>(&'a self, _: CacheKey<'a>, _: Bytes, _: Duration) -> CacheCall<'a> {
            Box::pin(ready(Ok(())))
        }

        fn delete<'a>(&'a self, _: CacheKey<'a>) -> CacheCall<'a> {
            Box::pin(ready(Ok(())))
        }

        fn set_later(&self, _: CacheKey<'_>, _: Bytes, _: Duration) {}

        fn delete_later(&self, _: CacheKey<'_>) {}
    }

    let decider = CacheWith(Bytes::copy_from_slice(data));
    let layer = ApertureLayer::new(decider, "fuzz").result_cache(|_| "k".into(), Duration::MAX);
    let mut was_served = false;
    for method in ["GET", "HEAD"] {
        let request = Request::builder()
            .method(method)
            .body(())
            .expect("the parts are valid");
        let response_future = std::pin::pin!(layer.layer(EmptyService).call(request));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(Ok(response)) = Future::poll(response_future, &mut cx) else {
            panic!("the service responds at once and without an error");
        };
        let (head, body) = response.into_parts();
        // Responses from the cache have an age, and no headers that belong to a connection.
        for name in ["connection", "transfer-encoding", "set-cookie"] {
            assert!(!head.headers.contains_key(name));
        }
        let length = http_body::Body::size_hint(&body)
            .exact()
            .expect("the body is complete");
        if head.headers.contains_key("age") {
            was_served = true;
            assert!(!head.status.is_informational() && length <= data.len() as u64);
            if let Some(content_length) = head
                .headers
                .get("content-length")
                .filter(|_| method == "GET")
            {
                assert_eq!(*content_length, *length.to_string());
            }
        }
    }
    was_served
}
