//! A concurrency limit that finds itself, behind the layer: what it measures, and that each slot is
//! returned.
#![cfg(feature = "embedded")]

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::{sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::policy::{AdaptiveConcurrency, ConcurrencyLimit, Policy};
use tower_aperture::{ApertureClient, ApertureLayer, Engine, FlowParams};

const WORK: Duration = Duration::from_millis(50);

fn engine(settings: AdaptiveConcurrency) -> Engine {
    let limit = ConcurrencyLimit::adaptive_by(settings);
    let policy = Policy::new("export").at("export").limit(limit);
    let engine = Engine::builder().policy(policy);
    engine.build().expect("a valid policy")
}

fn layer(engine: &Engine) -> ApertureLayer<ApertureClient> {
    ApertureLayer::new(ApertureClient::embedded(engine.clone()), "export")
}

fn limit(engine: &Engine) -> f64 {
    engine.adaptive_limits()[0].mean
}

/// Works on each request and responds with a body.
async fn export(request: Request<&'static str>) -> Result<Response<Full<Bytes>>, Infallible> {
    sleep(WORK).await;
    assert_ne!(*request.body(), "panic", "the test intends it");
    let mut response = Response::new(Full::from("rows"));
    if *request.body() == "fail" {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    Ok(response)
}

/// Sends as many requests as the limit lets in, again and again. Each client begins to read its
/// body after this time.
async fn send(engine: &Engine, rounds: u32, reads_after: Duration) {
    let service = layer(engine).layer(service_fn(export));
    for _ in 0..rounds {
        let requests = (0..limit(engine) as u32).map(|_| async {
            let response = service.clone().oneshot(Request::new("")).await;
            let response = response.expect("infallible");
            assert_eq!(response.status(), StatusCode::OK);
            sleep(reads_after).await;
            response.into_body().collect().await.expect("a whole body");
        });
        join_all(requests).await;
    }
}

#[tokio::test(start_paused = true)]
async fn slow_readers_do_not_lower_the_limit_unless_told() {
    for settings in [
        AdaptiveConcurrency::gradient(),
        AdaptiveConcurrency::vegas(),
    ] {
        let to_head = engine(settings.clone());
        send(&to_head, 40, Duration::ZERO).await;
        let before = limit(&to_head);
        send(&to_head, 40, Duration::from_secs(10)).await;
        assert!(limit(&to_head) > before, "{before}: {settings:?}");

        let to_end = engine(settings.until_end());
        send(&to_end, 40, Duration::ZERO).await;
        let before = limit(&to_end);
        send(&to_end, 40, Duration::from_secs(10)).await;
        assert!(
            limit(&to_end) < 0.75 * before,
            "{before} {}",
            limit(&to_end)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_flow_without_a_response_is_measured_to_its_end() {
    let engine = engine(AdaptiveConcurrency::vegas());
    let client = ApertureClient::embedded(engine.clone());
    let run = async |rounds: u32, work: Duration| {
        for _ in 0..rounds {
            let flows = (0..limit(&engine) as u32).map(|_| async {
                let flow = client.start_flow("export", FlowParams::new()).await;
                sleep(work).await;
                let ended = flow.end().await;
                assert!(ended.token_returns()[0].returned);
            });
            join_all(flows).await;
        }
    };
    run(40, WORK).await;
    let before = limit(&engine);
    assert!(before > 25.0, "{before}");
    run(40, 5 * WORK).await;
    assert!(limit(&engine) < before / 2.0, "{}", limit(&engine));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_panicking_or_failed_request_returns_its_slot_once() {
    let engine = engine(AdaptiveConcurrency::vegas().initial(1).max(1));
    let mut service = layer(&engine).layer(service_fn(export));
    let status = async |body: &'static str| {
        let service = layer(&engine).layer(service_fn(export));
        let response = service.oneshot(Request::new(body)).await;
        response.expect("infallible").status()
    };
    for round in 0..3 {
        // A caller who leaves before the head of the response.
        let cancelled = timeout(WORK / 2, status(""));
        assert!(cancelled.await.is_err());
        // A handler that panics.
        let panics = std::panic::AssertUnwindSafe(status("panic"));
        assert!(panics.catch_unwind().await.is_err());
        // A response that failed.
        assert_eq!(status("fail").await, StatusCode::INTERNAL_SERVER_ERROR);
        // A body that is dropped unread holds the slot until then.
        let response = service.ready().await.expect("infallible");
        let response = response.call(Request::new("")).await.expect("infallible");
        assert_eq!(response.status(), StatusCode::OK);
        let second = status("").await;
        assert_eq!(
            second,
            StatusCode::TOO_MANY_REQUESTS,
            "{round}: the only slot is held"
        );
        drop(response);
        assert_eq!(status("").await, StatusCode::OK);
    }
}
