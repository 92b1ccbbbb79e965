//! How the layer applies the Agent's response to a check, and how the flow ends.

use super::*;

#[tokio::test]
async fn headers_of_an_accepted_response_replace_those_of_the_request() {
    let agent = FakeAgent::start();
    agent.on_check_http(|_| {
        let headers = [
            ("baggage", "tier=gold,kind=mobile"),
            ("X-Added", "yes"),
            ("Content-Length", "7"),
            ("bad name", "x"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Reply::Now(CheckHttpResponse {
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
                headers: headers.into(),
                ..OkHttpResponse::default()
            })),
            ..CheckHttpResponse::default()
        })
    });
    for version in BOTH {
        let seen = Seen::default();
        let address = serve(version, layer(&agent).layer(seen.service())).await;
        let mut client = Client::connect(version, address).await;
        let request = Request::get("http://shop.example/")
            .header("host", "shop.example")
            .header("baggage", "tier=gold")
            .header("baggage", "more=1")
            .header("x-mine", "1");
        client.send(request).await.expect("a response");
        let heads = seen.heads();
        let baggage: Vec<_> = heads[0].get_all("baggage").iter().collect();
        assert_eq!(baggage, ["tier=gold,kind=mobile"], "replaced, not added");
        assert_eq!(heads[0]["x-added"], "yes");
        assert_eq!(heads[0]["x-mine"], "1");
        assert!(!heads[0].contains_key("content-length"));
    }
}

/// Returns the values of a header, sorted, because a map of headers has no order.
fn sorted(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter();
    let mut values: Vec<_> = values
        .map(|value| value.to_str().expect("text").to_owned())
        .collect();
    values.sort_unstable();
    values
}

#[tokio::test]
async fn two_headers_of_one_name_stay_two_in_accepted_and_denied_responses() {
    // The message has one value for each name, so the two names differ in case.
    let two = [
        ("set-cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("x-mine", "new"),
    ];
    let agent = FakeAgent::start();
    agent.on_check_http(move |_| {
        let headers = two.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Reply::Now(CheckHttpResponse {
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
                headers: headers.into(),
                ..OkHttpResponse::default()
            })),
            ..CheckHttpResponse::default()
        })
    });
    let seen = Seen::default();
    let service = layer(&agent).layer(seen.service());
    let request = Request::get("/")
        .header("set-cookie", "old")
        .header("x-mine", "1")
        .header("x-mine", "2");
    let response = service.oneshot(request.body(()).expect("a request")).await;
    assert_eq!(response.expect("a response").status(), 200);
    let head = seen.heads().remove(0);
    assert_eq!(
        sorted(&head, "set-cookie"),
        ["a=1", "b=2"],
        "the request's value is replaced by both"
    );
    assert_eq!(sorted(&head, "x-mine"), ["new"]);

    agent.on_check_http(move |_| Reply::Now(denied(401, &two, "log in")));
    for version in BOTH {
        let address = serve(version, layer(&agent).layer(seen.service())).await;
        let mut client = Client::connect(version, address).await;
        let response = client.get().await.expect("a response");
        assert_eq!(response.status(), 401);
        let cookies = sorted(response.headers(), "set-cookie");
        assert_eq!(cookies, ["a=1", "b=2"], "{version:?}");
    }
}

#[tokio::test]
async fn an_accepted_response_without_headers_leaves_the_request_unchanged() {
    let agent = FakeAgent::start();
    let seen = Seen::default();
    let service = layer(&agent).layer(seen.service());
    let request = Request::get("/").header("baggage", "tier=gold");
    let response = service.oneshot(request.body(()).expect("a request")).await;
    assert_eq!(response.expect("a response").status(), 200);
    assert_eq!(seen.heads()[0]["baggage"], "tier=gold");
}

#[tokio::test]
async fn a_denied_response_sets_status_headers_and_body_of_the_rejection() {
    for version in BOTH {
        let agent = FakeAgent::start();
        agent.on_check_http(|_| {
            let headers = [
                ("retry-after", "3"),
                ("x-policy", "per-user"),
                ("content-length", "1"),
            ];
            Reply::Now(denied(418, &headers, "not today"))
        });
        let seen = Seen::default();
        let address = serve(version, layer(&agent).layer(seen.service())).await;
        let mut client = Client::connect(version, address).await;
        let response = client.get().await.expect("a response");
        assert_eq!(response.status(), 418);
        let headers = response.headers().clone();
        assert_eq!(
            headers.get_all("retry-after").iter().collect::<Vec<_>>(),
            ["3"]
        );
        assert_eq!(headers["x-policy"], "per-user");
        assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
        let body = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        assert_eq!(body, "not today");
        assert!(seen.heads().is_empty());
    }
}

#[tokio::test]
async fn a_status_unknown_to_http_is_replaced_by_that_of_the_reason() {
    for (status, expected) in [(0, 429), (7, 429), (1000, 429), (-1, 429), (503, 503)] {
        let agent = FakeAgent::start();
        agent.on_check_http(move |_| Reply::Now(denied(status, &[], "")));
        let (status, headers, body) = send(&layer(&agent), plain()).await;
        assert_eq!((status, &*body), (expected, ""));
        assert!(!headers.contains_key("retry-after") && !headers.contains_key("content-type"));
    }
}

#[tokio::test]
async fn reject_hooks_see_headers_body_and_wait() {
    let agent = FakeAgent::start();
    agent.on_check_http(|_| {
        let headers = [("retry-after", "3"), ("content-type", "text/html")];
        Reply::Now(denied(403, &headers, "<p>no</p>"))
    });
    let (_, headers, _) = send(&layer(&agent), plain()).await;
    assert_eq!(
        headers["content-type"], "text/html",
        "the Agent's own header precedes the default"
    );

    let hook = |rejection: &Rejection, _: RequestHead<'_>| {
        assert_eq!(rejection.reason(), RejectReason::RateLimited);
        assert_eq!(rejection.retry_after(), Some(Duration::from_secs(3)));
        assert_eq!(
            rejection.headers().expect("some")["content-type"],
            "text/html"
        );
        Response::new(Full::from(rejection.body().expect("one").clone()))
    };
    let (status, _, body) = send(&layer(&agent).on_reject(hook), plain()).await;
    assert_eq!((status, &*body), (200, "<p>no</p>"));
}

#[tokio::test]
async fn a_grpc_request_is_rejected_with_a_grpc_status() {
    let agent = FakeAgent::start();
    agent.on_check_http(|_| Reply::Now(denied(429, &[("retry-after", "2")], "not today")));
    let mut request = Request::post("http://shop.example/shop.v1.Carts/Add")
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .body(())
        .expect("a request");
    request
        .headers_mut()
        .insert("te", HeaderValue::from_static("trailers"));
    let (status, headers, body) = send(&layer(&agent), request).await;
    assert_eq!((status, &*body), (200, ""));
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(headers["grpc-status"], "8");
    assert_eq!(headers.get_all("retry-after").iter().count(), 1);

    let request = attributes(&agent);
    assert_eq!(request.path, "/shop.v1.Carts/Add");
    assert_eq!((&*request.protocol, request.size), ("HTTP/2", -1));
}

#[tokio::test]
async fn an_unreachable_request_runs_unless_the_layer_fails_closed() {
    let agent = FakeAgent::start();
    agent.on_check_http(|_| Reply::Status(tonic::Status::unavailable("going down")));
    let client = client(&agent);
    let open = ApertureLayer::http(client.clone(), "ingress");
    assert_eq!(send(&open, plain()).await.0, 200);
    assert_eq!(send(&open.clone().ramp_mode(true), plain()).await.0, 503);
    let closed = open.on_unreachable(FailureMode::Closed);
    assert_eq!(send(&closed, plain()).await.0, 503);
    let stats = client.stats();
    assert_eq!((stats.unreachable, stats.unavailable), (3, 3));
}

#[tokio::test]
async fn slots_are_returned_when_the_flow_ends_and_when_its_caller_leaves() {
    let agent = FakeAgent::start();
    let gate = Gate::new();
    let granted = |request: &CheckHttpRequest| CheckHttpResponse {
        check_response: Some(CheckResponse {
            control_point: request.control_point.clone(),
            limiter_decisions: vec![answer::limiter(false)],
            expect_end: true,
            ..CheckResponse::default()
        }),
        ..CheckHttpResponse::default()
    };
    agent.on_check_http(move |request| Reply::Now(granted(request)));
    let layer = layer(&agent);
    send(&layer, plain()).await;
    agent
        .until("the end", |agent| agent.refs_ended() == 1)
        .await;

    let held = gate.clone();
    agent.on_check_http(move |request| Reply::When(held.clone(), granted(request)));
    let service = layer.layer(Seen::default().service());
    give_up(service.oneshot(plain()), "the check", || {
        agent.http_checks().len() == 2
    })
    .await;
    gate.open();
    agent
        .until("the end", |agent| agent.refs_ended() == 2)
        .await;
    assert_eq!(agent.tokens_in_flight(), 0);
}

#[cfg(feature = "telemetry")]
#[tokio::test]
async fn each_flow_leaves_a_span_with_its_status() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let layer = ApertureLayer::http(client.clone(), "ingress");
    send(&layer, plain()).await;
    agent.on_check_http(|_| Reply::Now(denied(429, &[], "")));
    send(&layer, plain()).await;
    assert!(client.shutdown(LONG).await);
    let spans = agent.spans();
    let codes = spans.iter().map(|span| {
        let text = |key| crate::support::agent::text(span, key).expect("an attribute");
        assert!(!text("aperture.check_response").is_empty());
        (text("http.status_code"), text("aperture.flow.status"))
    });
    let expected = [("200", "OK"), ("429", "Unset")];
    let expected = expected.map(|(code, status)| (code.to_owned(), status.to_owned()));
    assert_eq!(codes.collect::<Vec<_>>(), expected);
}
