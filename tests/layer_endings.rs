//! When flows end, behind real hyper servers over HTTP/1 and HTTP/2.

mod layer_support;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use layer_support::Recorder;
use layer_support::body::{BoxError, Script, Step, grpc_status};
use layer_support::server::{BOTH, Client, Version, serve};
use tower::{Layer, Service, service_fn};
use tower_aperture::FlowStatus::{Error, Ok as Fine, Unset};
use tower_aperture::{ApertureLayer, Denial, RejectReason};

/// Serves what `respond` makes behind a layer.
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

fn of(body: Script) -> Response<Script> {
    Response::new(body)
}

fn with_status(status: u16, body: Script) -> Response<Script> {
    let mut response = of(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

#[tokio::test]
async fn a_body_read_to_its_end_is_fine() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            of(Script::new([Step::Data("one"), Step::Data("two")]))
        })
        .await;
        let response = client.get().await.expect("a response");
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "onetwo");
        assert_eq!(recorder.ended().await, (Fine, Some(200)), "{version:?}");
    }
}

#[tokio::test]
async fn a_body_that_knows_its_size_and_end_is_fine() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            let body = Script::new([Step::Data("hello")]).hint(5).knowing_its_end();
            with_status(201, body)
        })
        .await;
        let response = client.get().await.expect("a response");
        assert_eq!(response.headers()["content-length"], "5", "the hint passes");
        assert_eq!(recorder.ended().await, (Fine, Some(201)), "{version:?}");
    }
}

#[tokio::test]
async fn an_empty_body_is_fine() {
    for version in BOTH {
        let (recorder, mut client) =
            start(version, |_| of(Script::new([]).hint(0).knowing_its_end())).await;
        client.get().await.expect("a response");
        assert_eq!(recorder.ended().await, (Fine, Some(200)), "{version:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_is_an_error() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            of(Script::new([Step::Data("part"), Step::Hang]))
        })
        .await;
        let mut response = client.get().await.expect("a response");
        response.frame().await.expect("a frame").expect("data");
        assert_eq!(recorder.ends(), [], "the body is on its way");
        drop((response, client));
        assert_eq!(recorder.ended().await, (Error, Some(200)), "{version:?}");
    }
}

#[tokio::test]
async fn leaving_after_content_length_is_fine() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            let mut response = of(Script::new([Step::Data("hello"), Step::Hang]));
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
async fn leaving_before_content_length_is_an_error() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            let mut response = of(Script::new([Step::Data("hell"), Step::Hang]));
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
async fn the_body_of_an_answer_to_head_need_not_be_sent() {
    for version in BOTH {
        let (recorder, mut client) =
            start(version, |_| of(Script::new([Step::Data("x"), Step::Hang]))).await;
        let request = Request::head("http://shop.example/").header("host", "shop.example");
        let response = client.send(request).await.expect("a response");
        drop((response, client));
        assert_eq!(recorder.ended().await, (Fine, Some(200)), "{version:?}");
    }
}

#[tokio::test]
async fn the_body_of_a_204_or_304_need_not_be_sent() {
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
        // The upgraded connection stays open for as long as the test has its end.
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
            of(Script::new([]).hint(0).knowing_its_end())
        })
        .await;
        let request = Request::connect("shop.example:443").header("host", "shop.example:443");
        let response = client.send(request).await.expect("a response");
        assert_eq!(recorder.ended().await, (Fine, Some(200)), "{version:?}");
        hyper::upgrade::on(response).await.expect("a tunnel");
    }
}

#[tokio::test]
async fn a_body_error_is_an_error() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            of(Script::new([Step::Data("part"), Step::Error]))
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
async fn a_body_that_panics_is_an_error() {
    for version in BOTH {
        let (recorder, mut client) = start(version, |_| {
            of(Script::new([Step::Data("part"), Step::Panic]))
        })
        .await;
        if let Ok(response) = client.get().await {
            assert!(response.into_body().collect().await.is_err());
        }
        assert_eq!(recorder.ended().await, (Error, Some(200)), "{version:?}");
    }
}

#[tokio::test]
async fn a_status_of_500_and_more_is_an_error_at_the_end_of_its_body() {
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
async fn a_status_below_500_is_fine() {
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
async fn grpc_status_in_trailers_tells() {
    for version in BOTH {
        for (code, status) in [("0", Fine), ("14", Error)] {
            let (recorder, mut client) = start(version, move |_| {
                let mut response = of(Script::new([
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
            let trailers = body.trailers().expect("trailers pass");
            assert_eq!(trailers["grpc-status"], code);
            assert_eq!(recorder.ended().await, (status, Some(200)), "{version:?}");
        }
    }
}

#[tokio::test]
async fn grpc_status_in_the_head_tells() {
    for version in BOTH {
        for (code, status) in [("0", Fine), ("5", Error)] {
            let (recorder, mut client) = start(version, move |_| {
                let mut response = of(Script::new([]).knowing_its_end());
                response.headers_mut().extend(grpc_status(code));
                response
            })
            .await;
            client.get().await.expect("a response");
            assert_eq!(recorder.ended().await, (status, Some(200)), "{version:?}");
        }
    }
}

/// Serves a service that has no response to give.
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
async fn an_error_of_the_inner_service_is_an_error_without_a_status() {
    for version in BOTH {
        let inner = service_fn(|_| ready(Err::<Response<Script>, BoxError>("broken".into())));
        let (recorder, mut client) = start_failing(version, inner).await;
        assert!(client.get().await.is_err());
        assert_eq!(recorder.ended().await, (Error, None), "{version:?}");
    }
}

#[tokio::test]
async fn a_handler_that_panics_is_an_error() {
    for version in BOTH {
        let inner = service_fn(async |_| -> Result<Response<Script>, Infallible> {
            tokio::task::yield_now().await;
            panic!("the handler panicked, as the test wants it to")
        });
        let (recorder, mut client) = start_failing(version, inner).await;
        assert!(client.get().await.is_err());
        assert_eq!(recorder.ended().await, (Error, None), "{version:?}");
    }
}

#[tokio::test]
async fn a_service_that_panics_when_called_is_an_error() {
    for version in BOTH {
        let inner = service_fn(|_| -> Ready<Result<Response<Script>, Infallible>> {
            panic!("the service panicked, as the test wants it to")
        });
        let (recorder, mut client) = start_failing(version, inner).await;
        assert!(client.get().await.is_err());
        assert_eq!(recorder.ended().await, (Error, None), "{version:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_is_an_error() {
    for version in BOTH {
        let inner = service_fn(|_| std::future::pending::<Result<Response<Script>, Infallible>>());
        let (recorder, mut client) = start_failing(version, inner).await;
        tokio::select! {
            _ = client.get() => panic!("no response comes"),
            () = recorder.asked_once() => {}
        }
        drop(client);
        assert_eq!(recorder.ended().await, (Error, None), "{version:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_decision_gives_it_up() {
    for version in BOTH {
        let recorder = Recorder::by_hand();
        let inner = service_fn(|_| ready(Ok::<_, Infallible>(of(Script::default()))));
        let layer = ApertureLayer::new(recorder.clone(), "test");
        let address = serve(version, layer.layer(inner)).await;
        let mut client = Client::connect(version, address).await;
        tokio::select! {
            _ = client.get() => panic!("no response comes"),
            () = recorder.asked_once() => {}
        }
        drop(client);
        recorder.gave_up().await;
        assert_eq!(recorder.ends(), [], "{version:?}");
    }
}

#[tokio::test]
async fn a_rejected_request_gets_an_empty_answer_on_a_connection_that_lives_on() {
    for version in BOTH {
        let denial = Denial::new(RejectReason::RateLimited).wait(Duration::from_millis(1200));
        let recorder = Recorder::rejecting(denial);
        let inner = service_fn(|_| -> Ready<Result<Response<Script>, Infallible>> {
            panic!("a rejected request never gets here")
        });
        let layer = ApertureLayer::new(recorder.clone(), "test");
        let address = serve(version, layer.layer(inner)).await;
        let mut client = Client::connect(version, address).await;
        for times in 1..=2 {
            let response = client.get().await.expect("an answer");
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
