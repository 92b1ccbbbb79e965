//! The moment at which flows end and their status, with real hyper servers over HTTP/1 and HTTP/2.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::time::Duration;

use crate::layer_support::Recorder;
use crate::layer_support::body::{BoxError, Script, Step, grpc_status};
use crate::layer_support::server::{BOTH, Client, Version, serve};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tower::{Layer, Service, service_fn};
use tower_aperture::FlowStatus::{Error, Ok as Fine, Unset};
use tower_aperture::{ApertureLayer, Denial, RejectReason};

/// Serves a layer around a service that calls `respond`.
async fn start(
    version: Version,
    respond: impl Fn(Request<Incoming>) -> Response<Script> + Clone + Send + 'static,
) -> (Recorder, Client) {
    let recorder = Recorder::accepting();
    let service = service_fn(move |request| ready(Ok::<_, Infallible>(respond(request))));
    let layer = ApertureLayer::new(recorder.clone(), "test");
    let address = serve(version, layer.layer(service)).await;
    (recorder, Client::connect(version, address).await)
}

fn ok(body: Script) -> Response<Script> {
    Response::new(body)
}

fn with_status(status: u16, body: Script) -> Response<Script> {
    let mut response = ok(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

#[tokio::test]
async fn a_body_that_is_read_to_its_end_ends_the_flow_as_ok() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            ok(Script::new([Step::Data("one"), Step::Data("two")]))
        })
        .await;
        let response = client.get().await.expect("a response");
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "onetwo");
        assert_eq!(recorder.ended().await, (Fine, Some(200)), "{version:?}");
    }
}

#[tokio::test]
async fn a_body_that_knows_its_size_and_end_ends_the_flow_as_ok() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            let body = Script::new([Step::Data("hello")]).hint(5).knowing_its_end();
            with_status(201, body)
        })
        .await;
        let response = client.get().await.expect("a response");
        assert_eq!(
            response.headers()["content-length"],
            "5",
            "the size hint is passed on"
        );
        assert_eq!(recorder.ended().await, (Fine, Some(201)), "{version:?}");
    }
}

#[tokio::test]
async fn an_empty_body_ends_the_flow_as_ok() {
    for version in BOTH {
        let (recorder, mut client) =
            start(version, |_| ok(Script::new([]).hint(0).knowing_its_end())).await;
        client.get().await.expect("a response");
        assert_eq!(recorder.ended().await, (Fine, Some(200)), "{version:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_during_the_body_ends_the_flow_as_error() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            ok(Script::new([Step::Data("part"), Step::Hang]))
        })
        .await;
        let mut response = client.get().await.expect("a response");
        response.frame().await.expect("a frame").expect("data");
        assert_eq!(recorder.ends(), [], "the body has not ended");
        drop((response, client));
        assert_eq!(recorder.ended().await, (Error, Some(200)), "{version:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_after_content_length_ends_the_flow_as_ok() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            let mut response = ok(Script::new([Step::Data("hello"), Step::Hang]));
            let length = header::HeaderValue::from_static("5");
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length);
            response
        })
        .await;
        let mut response = client.get().await.expect("a response");
        response.frame().await.expect("a frame").expect("data");
        drop((response, client));
        assert_eq!(recorder.ended().await, (Fine, Some(200)), "{version:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_content_length_ends_the_flow_as_error() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            let mut response = ok(Script::new([Step::Data("hell"), Step::Hang]));
            let length = header::HeaderValue::from_static("5");
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length);
            response
        })
        .await;
        let mut response = client.get().await.expect("a response");
        response.frame().await.expect("a frame").expect("data");
        drop((response, client));
        assert_eq!(recorder.ended().await, (Error, Some(200)), "{version:?}");
    }
}

#[tokio::test]
async fn an_unsent_body_of_a_response_to_head_ends_the_flow_as_ok() {
    for version in BOTH {
        let (recorder, mut client) =
            start(version, |_| ok(Script::new([Step::Data("x"), Step::Hang]))).await;
        let request = Request::head("http://shop.example/").header("host", "shop.example");
        let response = client.send(request).await.expect("a response");
        drop((response, client));
        assert_eq!(recorder.ended().await, (Fine, Some(200)), "{version:?}");
    }
}

#[tokio::test]
async fn an_unsent_body_of_a_204_or_304_ends_the_flow_as_ok() {
    for version in BOTH {
        for status in [204, 304] {
            let (recorder, mut client) = start(version, move |_| {
                with_status(status, Script::new([Step::Data("x"), Step::Hang]))
            })
            .await;
            let response = client.get().await.expect("a response");
            drop((response, client));
            assert_eq!(recorder.ended().await, (Fine, Some(status)), "{version:?}");
        }
    }
}

#[tokio::test]
async fn an_upgrade_ends_the_flow_with_the_head() {
    let (recorder, mut client) = start(Version::Http1, |request| {
        // The upgraded connection stays open while the test holds its end of it.
        tokio::spawn(async {
            let upgraded = hyper::upgrade::on(request).await;
            std::future::pending::<()>().await;
            drop(upgraded);
        });
        let mut response = with_status(101, Script::new([Step::Hang]));
        let headers = response.headers_mut();
        headers.insert("upgrade", header::HeaderValue::from_static("echo"));
        headers.insert("connection", header::HeaderValue::from_static("upgrade"));
        response
    })
    .await;
    let request = Request::get("/")
        .header("host", "shop.example")
        .header("upgrade", "echo")
        .header("connection", "upgrade");
    let response = client.send(request).await.expect("a response");
    assert_eq!(recorder.ended().await, (Fine, Some(101)));
    hyper::upgrade::on(response).await.expect("an upgrade");
    assert_eq!(recorder.end(), (Fine, Some(101)));
}

#[tokio::test]
async fn a_tunnel_ends_the_flow_with_the_head() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |request| {
            assert_eq!(request.method(), Method::CONNECT);
            tokio::spawn(async {
                let upgraded = hyper::upgrade::on(request).await;
                std::future::pending::<()>().await;
                drop(upgraded);
            });
            ok(Script::new([]).hint(0).knowing_its_end())
        })
        .await;
        let request = Request::connect("shop.example:443").header("host", "shop.example:443");
        let response = client.send(request).await.expect("a response");
        assert_eq!(recorder.ended().await, (Fine, Some(200)), "{version:?}");
        hyper::upgrade::on(response).await.expect("a tunnel");
    }
}

#[tokio::test]
async fn an_error_of_the_body_ends_the_flow_as_error() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            ok(Script::new([Step::Data("part"), Step::Error]))
        })
        .await;
        let response = client.get().await;
        if let Ok(response) = response {
            assert!(response.into_body().collect().await.is_err());
        }
        assert_eq!(recorder.ended().await, (Error, Some(200)), "{version:?}");
    }
}

#[tokio::test]
async fn a_panic_of_the_body_ends_the_flow_as_error() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            ok(Script::new([Step::Data("part"), Step::Panic]))
        })
        .await;
        if let Ok(response) = client.get().await {
            assert!(response.into_body().collect().await.is_err());
        }
        assert_eq!(recorder.ended().await, (Error, Some(200)), "{version:?}");
    }
}

#[tokio::test]
async fn a_status_of_500_or_more_ends_the_flow_as_error_after_its_body() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            with_status(503, Script::new([Step::Data("sorry")]))
        })
        .await;
        let response = client.get().await.expect("a response");
        response.into_body().collect().await.expect("a body");
        assert_eq!(recorder.ended().await, (Error, Some(503)), "{version:?}");
    }
}

#[tokio::test]
async fn a_status_below_500_ends_the_flow_as_ok() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            with_status(404, Script::new([Step::Data("?")]))
        })
        .await;
        let response = client.get().await.expect("a response");
        response.into_body().collect().await.expect("a body");
        assert_eq!(recorder.ended().await, (Fine, Some(404)), "{version:?}");
    }
}

#[tokio::test]
async fn nonzero_grpc_status_in_trailers_ends_the_flow_as_error() {
    for version in BOTH {
        for (code, status) in [("0", Fine), ("14", Error)] {
            let (recorder, mut client) = start(version, move |_| {
                let mut response = ok(Script::new([
                    Step::Data("message"),
                    Step::Trailers(grpc_status(code)),
                ]));
                let trailer = header::HeaderValue::from_static("grpc-status");
                response.headers_mut().insert(header::TRAILER, trailer);
                response
            })
            .await;
            let uri = "http://shop.example/";
            let request = Request::post(uri)
                .header("host", "shop.example")
                .header("te", "trailers");
            let response = client.send(request).await.expect("a response");
            let body = response.into_body().collect().await.expect("a body");
            let trailers = body.trailers().expect("the layer passes trailers on");
            assert_eq!(trailers["grpc-status"], code);
            assert_eq!(recorder.ended().await, (status, Some(200)), "{version:?}");
        }
    }
}

#[tokio::test]
async fn nonzero_grpc_status_in_the_head_ends_the_flow_as_error() {
    for version in BOTH {
        for (code, status) in [("0", Fine), ("5", Error)] {
            let (recorder, mut client) = start(version, move |_| {
                let mut response = ok(Script::new([]).knowing_its_end());
                response.headers_mut().extend(grpc_status(code));
                response
            })
            .await;
            client.get().await.expect("a response");
            assert_eq!(recorder.ended().await, (status, Some(200)), "{version:?}");
        }
    }
}

/// Serves a layer around a service that fails or panics.
async fn start_failing<S>(version: Version, inner: S) -> (Recorder, Client)
where
    S: Service<Request<Incoming>, Response = Response<Script>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::new(recorder.clone(), "test");
    let address = serve(version, layer.layer(inner)).await;
    (recorder, Client::connect(version, address).await)
}

#[tokio::test]
async fn an_error_of_the_inner_service_ends_the_flow_as_error_without_http_status() {
    for version in BOTH {
        let inner = service_fn(|_| ready(Err::<Response<Script>, BoxError>("broken".into())));
        let (recorder, mut client) = start_failing(version, inner).await;
        assert!(client.get().await.is_err());
        assert_eq!(recorder.ended().await, (Error, None), "{version:?}");
    }
}

#[tokio::test]
async fn a_panic_of_the_handler_ends_the_flow_as_error() {
    for version in BOTH {
        let inner = service_fn(async |_| -> Result<Response<Script>, Infallible> {
            tokio::task::yield_now().await;
            panic!("the handler panicked, as the test intends")
        });
        let (recorder, mut client) = start_failing(version, inner).await;
        assert!(client.get().await.is_err());
        assert_eq!(recorder.ended().await, (Error, None), "{version:?}");
    }
}

#[tokio::test]
async fn a_panic_of_the_service_call_ends_the_flow_as_error() {
    for version in BOTH {
        let inner = service_fn(|_| -> Ready<Result<Response<Script>, Infallible>> {
            panic!("the service panicked, as the test intends")
        });
        let (recorder, mut client) = start_failing(version, inner).await;
        assert!(client.get().await.is_err());
        assert_eq!(recorder.ended().await, (Error, None), "{version:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_ends_the_flow_as_error() {
    for version in BOTH {
        let inner = service_fn(|_| std::future::pending::<Result<Response<Script>, Infallible>>());
        let (recorder, mut client) = start_failing(version, inner).await;
        tokio::select! {
            _ = client.get() => panic!("the service does not respond"),
            () = recorder.asked_once() => {}
        }
        drop(client);
        assert_eq!(recorder.ended().await, (Error, None), "{version:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_decision_cancels_the_check() {
    for version in BOTH {
        let recorder = Recorder::by_hand();
        let inner = service_fn(|_| ready(Ok::<_, Infallible>(ok(Script::default()))));
        let layer = ApertureLayer::new(recorder.clone(), "test");
        let address = serve(version, layer.layer(inner)).await;
        let mut client = Client::connect(version, address).await;
        tokio::select! {
            _ = client.get() => panic!("the service does not respond"),
            () = recorder.asked_once() => {}
        }
        drop(client);
        recorder.gave_up().await;
        assert_eq!(recorder.ends(), [], "{version:?}");
    }
}

#[tokio::test]
async fn a_rejected_request_gets_an_empty_response_and_its_connection_stays_open() {
    for version in BOTH {
        let denial = Denial::new(RejectReason::RateLimited).wait(Duration::from_millis(1200));
        let recorder = Recorder::rejecting(denial);
        let inner = service_fn(|_| -> Ready<Result<Response<Script>, Infallible>> {
            panic!("a rejected request must not reach the service")
        });
        let layer = ApertureLayer::new(recorder.clone(), "test");
        let address = serve(version, layer.layer(inner)).await;
        let mut client = Client::connect(version, address).await;
        for times in 1..=2 {
            let response = client.get().await.expect("a response");
            assert_eq!(response.status(), 429);
            assert_eq!(response.headers()["retry-after"], "2");
            if version == Version::Http1 {
                assert_eq!(response.headers()["content-length"], "0");
            }
            let body = response.into_body().collect().await.expect("a body");
            assert!(body.to_bytes().is_empty());
            let ends = recorder.ends();
            assert_eq!(ends.len(), times);
            assert_eq!(ends[times - 1].status, Unset, "{version:?}");
        }
    }
}
