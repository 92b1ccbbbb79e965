//! Requests without a label that the layer requires are rejected without a check.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::layer::{OnReject, baggage_member};
use tower_aperture::{ApertureLayer, RejectReason, Rejection, RequestHead};

use super::request;
use crate::layer_support::inner::{Body, hello};
use crate::layer_support::{Recorder, server};

fn strict(recorder: &Recorder) -> ApertureLayer<Recorder> {
    ApertureLayer::new(recorder.clone(), "checkout")
        .label_from_header("user_id", "x-user-id")
        .require_label("user_id")
}

async fn respond_to<R: OnReject<Body>>(
    layer: &ApertureLayer<Recorder, R>,
    request: Request<()>,
) -> Response<impl http_body::Body<Data = bytes::Bytes, Error: std::fmt::Debug> + use<R>> {
    let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(hello()));
    layer
        .layer(inner)
        .oneshot(request)
        .await
        .expect("a response")
}

#[tokio::test]
async fn a_request_without_the_label_is_answered_400_without_a_check() {
    let recorder = Recorder::accepting();
    let layer = strict(&recorder);
    for headers in [
        &[][..],
        &[("x-user-id", "")],
        &[("x-user-id", " \t")],
        &[("x-user-id", "\u{fc}")],
        &[("baggage", "user_id=7")],
        &[("baggage", "%75ser_id=7")],
    ] {
        assert_eq!(
            respond_to(&layer, request(headers)).await.status(),
            400,
            "{headers:?}"
        );
    }
    assert!(recorder.asked().is_empty());
    let asked = respond_to(&layer, request(&[("x-user-id", "7")])).await;
    assert_eq!(asked.status(), 200);
    assert_eq!(recorder.question().label("user_id"), Some("7"));
}

#[tokio::test]
async fn each_of_several_labels_is_required_and_a_default_satisfies_it() {
    let recorder = Recorder::accepting();
    let layer = strict(&recorder)
        .label_from("tenant", baggage_member("tenant-id"))
        .require_label("tenant")
        .require_label("service")
        .label("service", "shop");
    let user = ("x-user-id", "7");
    for (headers, status) in [
        (&[user][..], 400),
        (&[("baggage", "tenant-id=1")], 400),
        (&[user, ("baggage", "tenant-id=")], 400),
        (&[user, ("baggage", "tenant-id=1")], 200),
    ] {
        assert_eq!(
            respond_to(&layer, request(headers)).await.status(),
            status,
            "{headers:?}"
        );
    }
    assert_eq!(recorder.asked().len(), 1);
    let unread = ApertureLayer::new(recorder.clone(), "checkout").require_label("plan");
    assert_eq!(
        respond_to(&unread, request(&[("baggage", "plan=free")]))
            .await
            .status(),
        400
    );
}

#[tokio::test]
async fn a_grpc_call_without_the_label_gets_invalid_argument() {
    let recorder = Recorder::accepting();
    let mut call = request(&[("content-type", "application/grpc")]);
    *call.method_mut() = http::Method::POST;
    let response = respond_to(&strict(&recorder), call).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "3");
    assert_eq!(
        response.headers()["grpc-message"],
        "rejected: a required label is missing"
    );
    assert!(recorder.asked().is_empty());
}

#[tokio::test]
async fn problem_details_and_reject_hooks_name_the_missing_label() {
    let recorder = Recorder::accepting();
    let problem = respond_to(&strict(&recorder).problem_details(), request(&[])).await;
    assert_eq!(problem.status(), 400);
    let body = problem
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(
        (&body["title"], &body["reason"]),
        (&"Bad Request".into(), &"missing_label".into())
    );

    let hooked = strict(&recorder).on_reject(|rejection: &Rejection, _: RequestHead<'_>| {
        assert_eq!(rejection.reason(), RejectReason::MissingLabel);
        assert_eq!(rejection.control_point(), "checkout");
        let missing = rejection.missing_label().expect("a label").to_owned();
        let mut response = Response::new(Body::from(missing));
        *response.status_mut() = rejection.status();
        response
    });
    let response = respond_to(&hooked, request(&[])).await;
    assert_eq!(response.status(), 400);
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    assert_eq!(body, "user_id");
}

#[tokio::test]
async fn skipped_and_shadowed_requests_are_not_rejected_for_a_missing_label() {
    let recorder = Recorder::accepting();
    let skipping = strict(&recorder).skip(|head| head.uri().path() == "/cart");
    assert_eq!(respond_to(&skipping, request(&[])).await.status(), 200);
    assert!(recorder.asked().is_empty());
    let shadow = strict(&recorder).shadow_mode(true);
    assert_eq!(respond_to(&shadow, request(&[])).await.status(), 200);
    assert_eq!(
        recorder.asked().len(),
        1,
        "a shadowed request is checked like any other"
    );
}

#[tokio::test]
async fn a_required_label_is_enforced_by_real_servers_and_around_clients() {
    for version in server::BOTH {
        let recorder = Recorder::accepting();
        let inner = service_fn(async |_| Ok::<_, Infallible>(hello()));
        let address = server::serve(version, strict(&recorder).layer(inner)).await;
        let mut client = server::Client::connect(version, address).await;
        for (user, status) in [("", 400), ("7", 200)] {
            let request = Request::get("http://shop.example/").header("host", "shop.example");
            let response = client.send(request.header("x-user-id", user)).await;
            assert_eq!(response.expect("a response").status(), status);
        }
    }
    let recorder = Recorder::accepting();
    let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(hello()));
    let outgoing = strict(&recorder).into_client().layer(inner);
    let error = outgoing.oneshot(request(&[])).await.expect_err("rejected");
    let rejection = error.rejection().expect("the layer rejected the call");
    assert_eq!(rejection.missing_label(), Some("user_id"));
}
