//! Flow handles: handlers that read and set the state of their flow.

mod hold;
#[cfg(all(feature = "axum", feature = "embedded"))]
mod websocket;

use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::layer_support::Recorder;
use crate::layer_support::body::{Script, Step};
use http::{Request, Response};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::FlowStatus::{Error, Ok as Fine, Unset};
use tower_aperture::cache::CacheError;
use tower_aperture::layer::FlowHandle;
use tower_aperture::{ApertureLayer, Decider, FlowDecision, FlowError, FlowErrorKind, FlowStatus};

const MINUTE: Duration = Duration::from_secs(60);

fn request() -> Request<()> {
    Request::get("/a").body(()).expect("a valid request")
}

fn response(status: u16, body: Script) -> Response<Script> {
    let response = Response::builder().status(status).body(body);
    response.expect("a valid response")
}

/// Sends a request whose handler does `work` with its handle; returns the handle, and whether the
/// body ended without an error.
async fn run<D: Decider + Clone>(
    layer: &ApertureLayer<D>,
    respond: fn() -> Response<Script>,
    work: fn(&FlowHandle),
) -> (FlowHandle, bool) {
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    let service = layer.layer(service_fn(move |request: Request<()>| {
        let flow = request.extensions().get::<FlowHandle>();
        let flow = flow.expect("the flow is exposed").clone();
        work(&flow);
        *keep.lock().expect("no panic") = Some(flow);
        ready(Ok::<_, Infallible>(respond()))
    }));
    let response = service.oneshot(request()).await.expect("infallible");
    let ended = response.into_body().collect().await.is_ok();
    let flow = kept.lock().expect("no panic").take();
    (flow.expect("the handler ran"), ended)
}

fn exposed(recorder: &Recorder) -> ApertureLayer<Recorder> {
    ApertureLayer::new(recorder.clone(), "shop").expose_flow()
}

fn fine() -> Response<Script> {
    response(200, Script::new([Step::Data("text")]))
}

fn broken() -> Response<Script> {
    response(500, Script::default())
}

#[tokio::test]
async fn a_handle_is_inserted_only_when_configured() {
    let layer = ApertureLayer::new(Recorder::accepting(), "shop");
    let service = layer.layer(service_fn(|request: Request<()>| {
        assert!(request.extensions().is_empty());
        ready(Ok::<_, Infallible>(fine()))
    }));
    service.oneshot(request()).await.expect("infallible");
}

#[tokio::test]
async fn a_handle_has_the_decision_and_the_control_point() {
    let recorder = Recorder::accepting();
    let (flow, _) = run(&exposed(&recorder), fine, |flow| {
        assert!(!flow.is_ended());
        assert_eq!(flow.decision(), FlowDecision::Accepted);
    })
    .await;
    assert_eq!(flow.control_point(), "shop");
    assert!(flow.is_ended());

    let recorder = Recorder::unreachable(FlowError::new(FlowErrorKind::Timeout, "late"));
    run(&exposed(&recorder), fine, |flow| {
        assert_eq!(flow.decision(), FlowDecision::Unreachable);
        // An unreachable flow has no end, so its status cannot be set.
        assert!(flow.is_ended() && !flow.set_status(Error));
    })
    .await;
    assert!(recorder.ends().is_empty());
}

#[tokio::test]
async fn a_status_set_by_the_handler_prevails_over_that_of_the_response() {
    type Case = (fn() -> Response<Script>, fn(&FlowHandle), FlowStatus, u16);
    let cases: [Case; 6] = [
        (fine, |_| (), Fine, 200),
        (broken, |_| (), Error, 500),
        (fine, |flow| assert!(flow.set_status(Error)), Error, 200),
        (broken, |flow| assert!(flow.set_status(Fine)), Fine, 500),
        (fine, |flow| assert!(flow.set_status(Unset)), Unset, 200),
        (
            fine,
            |flow| {
                flow.set_status(Error);
                flow.clone().set_status(Fine);
            },
            Fine,
            200,
        ),
    ];
    for (at, (respond, work, status, http)) in cases.into_iter().enumerate() {
        let recorder = Recorder::accepting();
        run(&exposed(&recorder), respond, work).await;
        assert_eq!(recorder.end(), (status, Some(http)), "case {at}");
    }
}

#[tokio::test]
async fn the_classify_hook_decides_if_the_handler_sets_no_status() {
    let recorder = Recorder::accepting();
    let layer = exposed(&recorder).classify(|_| Error);
    run(&layer, fine, |_| ()).await;
    run(&layer, fine, |flow| assert!(flow.set_status(Fine))).await;
    let ends = recorder.ends().into_iter().map(|end| end.status);
    assert_eq!(ends.collect::<Vec<_>>(), [Error, Fine]);
}

#[tokio::test]
async fn a_later_failure_is_an_error_in_spite_of_a_set_status() {
    let recorder = Recorder::accepting();
    let failing = || response(200, Script::new([Step::Data("text"), Step::Error]));
    let (flow, ended) = run(&exposed(&recorder), failing, |flow| {
        flow.set_status(Fine);
    })
    .await;
    assert!(!ended && flow.is_ended());
    assert_eq!(recorder.end(), (Error, Some(200)));
}

#[tokio::test]
async fn a_kept_handle_does_not_keep_the_flow_open() {
    let recorder = Recorder::accepting();
    let (flow, _) = run(&exposed(&recorder), fine, |_| ()).await;
    assert_eq!(recorder.end(), (Fine, Some(200)));
    assert!(flow.is_ended());
    assert!(
        !flow.set_status(Error),
        "the flow has ended, so setting fails"
    );
    drop(flow);
    assert_eq!(recorder.end(), (Fine, Some(200)));
}

#[tokio::test]
async fn a_decider_without_caches_returns_cache_errors() {
    let (flow, _) = run(&exposed(&Recorder::accepting()), fine, |_| ()).await;
    assert_eq!(flow.result_cache().get(), Err(CacheError::NotRequested));
    assert_eq!(flow.global_cache("g").get(), Err(CacheError::UnknownKey));
    let stored = flow.global_cache("g").set("v", MINUTE).await;
    assert_eq!(stored, Err(CacheError::Unsupported));
    assert_eq!(flow.result_cache().delete().await, Err(CacheError::NoKey));
}

#[cfg(feature = "embedded")]
mod caches {
    use tower_aperture::{ApertureClient, Engine};

    use super::*;

    fn client() -> ApertureClient {
        ApertureClient::embedded(Engine::builder().build().expect("no policy"))
    }

    #[tokio::test]
    async fn a_handle_reads_cached_values_and_writes_for_later_flows() {
        let layer = ApertureLayer::new(client(), "shop")
            .result_cache_key(|head| head.uri().path().into())
            .global_cache_key(|_| "settings".into())
            .expose_flow();
        let (flow, _) = run(&layer, fine, |_| ()).await;
        assert_eq!(flow.result_cache().get(), Ok(None));
        assert_eq!(flow.global_cache("settings").get(), Ok(None));
        assert_eq!(
            flow.global_cache("other").get(),
            Err(CacheError::UnknownKey)
        );
        // The caches outlive the flow.
        assert!(flow.is_ended());
        assert_eq!(flow.result_cache().set("ann", MINUTE).await, Ok(()));
        assert_eq!(
            flow.global_cache("settings").set("big", MINUTE).await,
            Ok(())
        );
        let none = flow
            .global_cache("settings")
            .set("big", Duration::ZERO)
            .await;
        assert_eq!(none, Err(CacheError::NoTtl));

        let (flow, _) = run(&layer, fine, |_| ()).await;
        assert_eq!(flow.result_cache().get(), Ok(Some("ann".into())));
        assert_eq!(flow.global_cache("settings").get(), Ok(Some("big".into())));
        assert!(!format!("{flow:?}").contains("ann"));
        assert_eq!(flow.result_cache().delete().await, Ok(()));
        assert_eq!(flow.global_cache("settings").delete().await, Ok(()));

        let (flow, _) = run(&layer, fine, |_| ()).await;
        assert_eq!(flow.result_cache().get(), Ok(None));
        assert_eq!(flow.global_cache("settings").get(), Ok(None));
    }

    #[tokio::test]
    async fn the_extension_and_the_handle_have_the_same_lookup() {
        let layer = ApertureLayer::new(client(), "shop")
            .result_cache_key(|_| "k".into())
            .insert_cache_lookup(true)
            .expose_flow();
        let service = layer.layer(service_fn(|request: Request<()>| {
            let lookup = request
                .extensions()
                .get::<tower_aperture::cache::CacheLookup>();
            assert_eq!(
                lookup.expect("the layer inserted it").result,
                Some(Ok(None))
            );
            let flow = request.extensions().get::<FlowHandle>().expect("exposed");
            assert_eq!(flow.result_cache().get(), Ok(None));
            ready(Ok::<_, Infallible>(fine()))
        }));
        service.oneshot(request()).await.expect("infallible");
    }

    /// The stored response belongs to the layer.
    #[cfg(feature = "response-cache")]
    #[tokio::test]
    async fn with_a_response_cache_the_handle_cannot_use_the_result_cache() {
        let layer = ApertureLayer::new(client(), "shop")
            .expose_flow()
            .result_cache(|_| "k".into(), MINUTE);
        let service = layer.layer(service_fn(async |request: Request<()>| {
            let flow = request.extensions().get::<FlowHandle>().expect("exposed");
            assert_eq!(flow.result_cache().get(), Err(CacheError::NotRequested));
            let set = flow.result_cache().set("v", MINUTE).await;
            assert_eq!(set, Err(CacheError::NoKey));
            assert!(flow.set_status(Error));
            Ok::<_, Infallible>(fine())
        }));
        service.oneshot(request()).await.expect("infallible");
    }
}

#[cfg(feature = "axum")]
mod axum {
    use ::axum::Router;
    use ::axum::routing::get;

    use super::*;
    use crate::layer_support::server::{BOTH, Client, Version, serve};

    async fn fetch(version: Version, app: Router, path: &str) -> (u16, String) {
        let mut client = Client::connect(version, serve(version, app).await).await;
        let request = Request::get(format!("http://shop.example{path}"));
        let response = client.send(request.header("host", "shop.example")).await;
        let response = response.expect("a response");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body");
        let text = String::from_utf8(body.to_bytes().into()).expect("text");
        (status, text)
    }

    fn app() -> Router {
        Router::new()
            .route(
                "/flow",
                get(async |flow: FlowHandle| {
                    flow.set_status(Error);
                    format!("{:?} at {}", flow.decision(), flow.control_point())
                }),
            )
            .route(
                "/maybe",
                get(async |flow: Option<FlowHandle>| format!("{}", flow.is_some())),
            )
    }

    #[tokio::test]
    async fn a_handle_is_an_extractor() {
        for version in BOTH {
            let recorder = Recorder::accepting();
            let exposed = app().route_layer(exposed(&recorder));
            let response = fetch(version, exposed.clone(), "/flow").await;
            assert_eq!(response, (200, "Accepted at shop".to_owned()));
            assert_eq!(recorder.ended().await, (Error, Some(200)));
            assert_eq!(fetch(version, exposed, "/maybe").await.1, "true");
        }
    }

    #[tokio::test]
    async fn without_a_flow_the_extractor_names_the_missing_setting() {
        let plain = app().route_layer(ApertureLayer::new(Recorder::accepting(), "shop"));
        let (status, text) = fetch(Version::Http1, plain.clone(), "/flow").await;
        assert_eq!(status, 500);
        assert!(text.contains("`.expose_flow()`"), "{text}");
        assert_eq!(fetch(Version::Http1, plain, "/maybe").await.1, "false");
    }
}

#[cfg(feature = "remote")]
mod remote {
    use tower_aperture::ApertureClient;

    use super::*;
    use crate::support::agent::{FakeAgent, Reply, answer};

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

    #[tokio::test]
    async fn with_an_agent_a_hold_keeps_the_slot_even_after_a_shutdown() {
        let agent = FakeAgent::start();
        agent.on_check(|request| Reply::Now(answer::granted(request)));
        let client = client(&agent);
        let layer = ApertureLayer::new(client.clone(), "shop").expose_flow();
        let holds = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..2 {
            let keep = holds.clone();
            let service = layer.layer(service_fn(move |request: Request<()>| {
                let flow = request.extensions().get::<FlowHandle>();
                let hold = flow.expect("the flow is exposed").hold();
                keep.lock().expect("no panic").push(hold);
                ready(Ok::<_, Infallible>(fine()))
            }));
            let response = service.oneshot(request()).await.expect("infallible");
            response.into_body().collect().await.expect("a body");
        }
        assert_eq!(agent.tokens_in_flight(), 2);
        let hold = holds.lock().expect("no panic").pop();
        drop(hold);
        agent
            .until("the first end", |agent| agent.tokens_in_flight() == 1)
            .await;
        client.shutdown(Duration::ZERO).await;
        let hold = holds.lock().expect("no panic").pop().expect("the other");
        let flow = hold.flow().clone();
        assert!(!flow.is_ended());
        drop((client, layer, hold));
        assert!(
            flow.is_ended(),
            "the flow ends although the end cannot be sent"
        );
    }

    #[tokio::test]
    async fn with_an_agent_a_handle_writes_to_the_agents_caches() {
        let agent = FakeAgent::start();
        let client = client(&agent);
        let layer = ApertureLayer::new(client.clone(), "shop")
            .result_cache_key(|_| "k".into())
            .expose_flow();
        let (flow, _) = run(&layer, fine, |_| ()).await;
        assert_eq!(flow.result_cache().get(), Ok(None));
        assert_eq!(flow.result_cache().set("ann", MINUTE).await, Ok(()));
        assert_eq!(flow.global_cache("g").set("big", MINUTE).await, Ok(()));
        let (flow, _) = run(&layer, fine, |_| ()).await;
        assert_eq!(flow.result_cache().get(), Ok(Some("ann".into())));
        assert_eq!(client.global_cache("g").get().await, Ok(Some("big".into())));
        assert_eq!(flow.result_cache().delete().await, Ok(()));
        assert_eq!(client.result_cache("shop", "k").get().await, Ok(None));
    }
}
