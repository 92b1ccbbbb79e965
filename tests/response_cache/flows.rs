//! A response from the cache is a flow like any other.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::FlowStatus::{Error, Ok as Fine, Unset};
use tower_aperture::cache::{CacheCall, CacheEvent, CacheKey, CacheLookup, Caches};
use tower_aperture::layer::{DefaultReject, NoBody, ResponseBody};
use tower_aperture::response_cache::{CachedBody, ResultCacheLayer};
use tower_aperture::{
    ApertureClient, ApertureLayer, Check, Decider, Engine, FlowError, FlowErrorKind, FlowOutcome,
    FlowParams, FlowStatus, Rejection, RequestHead, Ticket, Verdict,
};

use crate::layer_support::inner::denial;
use crate::layer_support::server::{BOTH, Client, serve};
use crate::layer_support::{Answer, ByHand, Recorded, Recorder};
use crate::origin::{MINUTE, origin};

/// A recorder with a result cache.
#[derive(Clone)]
struct Shop {
    recorder: Recorder,
    cache: Arc<MemoryCache>,
    runs: Arc<AtomicUsize>,
}

#[derive(Default)]
struct MemoryCache {
    values: Mutex<HashMap<String, Bytes>>,
    events: Mutex<Vec<CacheEvent>>,
}

impl MemoryCache {
    fn values(&self) -> MutexGuard<'_, HashMap<String, Bytes>> {
        self.values.lock().expect("the lock is not poisoned")
    }
}

struct TicketWithLookup(Recorded, Option<CacheLookup>);

impl Ticket for TicketWithLookup {
    fn end(self, outcome: FlowOutcome) {
        self.0.end(outcome);
    }

    fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        self.1.take()
    }
}

struct PendingWithLookup(ByHand, Option<CacheLookup>);

fn with_lookup(
    verdict: Verdict<Recorded>,
    lookup: Option<CacheLookup>,
) -> Verdict<TicketWithLookup> {
    match verdict {
        Verdict::Accepted(ticket) => Verdict::Accepted(TicketWithLookup(ticket, lookup)),
        Verdict::Rejected(denial, ticket) => {
            Verdict::Rejected(denial, TicketWithLookup(ticket, lookup))
        }
        Verdict::Unreachable(error) => Verdict::Unreachable(error),
    }
}

impl Future for PendingWithLookup {
    type Output = Verdict<TicketWithLookup>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let lookup = self.1.clone();
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|verdict| with_lookup(verdict, lookup))
    }
}

impl Decider for Shop {
    type Ticket = TicketWithLookup;
    type Pending = PendingWithLookup;

    fn decide(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Check<TicketWithLookup, PendingWithLookup> {
        let lookup = params.result_cache_key.as_deref().map(|key| {
            let mut lookup = CacheLookup::default();
            lookup.result = Some(Ok(self.cache.values().get(key).cloned()));
            lookup
        });
        match self.recorder.decide(control_point, params) {
            Check::Ready(verdict) => Check::Ready(with_lookup(verdict, lookup)),
            Check::Pending(pending) => Check::Pending(PendingWithLookup(pending, lookup)),
        }
    }

    fn caches(&self) -> Option<Arc<dyn Caches>> {
        Some(self.cache.clone())
    }
}

impl Caches for MemoryCache {
    fn set<'a>(&'a self, key: CacheKey<'a>, value: Bytes, ttl: Duration) -> CacheCall<'a> {
        self.set_later(key, value, ttl);
        Box::pin(ready(Ok(())))
    }

    fn delete<'a>(&'a self, key: CacheKey<'a>) -> CacheCall<'a> {
        self.delete_later(key);
        Box::pin(ready(Ok(())))
    }

    fn set_later(&self, key: CacheKey<'_>, value: Bytes, ttl: Duration) {
        assert_eq!(ttl, MINUTE);
        assert!(matches!(
            key,
            CacheKey::Result {
                control_point: "shop",
                ..
            }
        ));
        self.values().insert(key.as_str().to_owned(), value);
    }

    fn delete_later(&self, key: CacheKey<'_>) {
        self.values().remove(key.as_str());
    }

    fn note(&self, event: CacheEvent) {
        self.events.lock().expect("no panic").push(event);
    }
}

impl Shop {
    fn new(recorder: Recorder) -> Self {
        Self {
            recorder,
            cache: Arc::default(),
            runs: Arc::default(),
        }
    }

    /// Returns a shop with the same cache and other decisions.
    fn with_recorder(&self, recorder: Recorder) -> Self {
        Self {
            recorder,
            cache: self.cache.clone(),
            runs: self.runs.clone(),
        }
    }

    fn layer(&self) -> ResultCacheLayer<Self, DefaultReject> {
        ApertureLayer::new(self.clone(), "shop")
            .result_cache(|head| head.uri().path().into(), MINUTE)
    }

    /// Returns a service for the page, behind the layer, that counts its runs.
    fn service(&self, layer: &ResultCacheLayer<Self, DefaultReject>) -> impl PageService + use<> {
        let runs = self.runs.clone();
        layer.layer(service_fn(move |_: Request<()>| {
            runs.fetch_add(1, Ordering::SeqCst);
            ready(Ok::<_, Infallible>(Response::new(Full::from("a page"))))
        }))
    }

    /// Requests the page and returns its status and body.
    async fn send(&self) -> (u16, Bytes) {
        let service = self.service(&self.layer());
        let response = service.oneshot(page()).await.expect("infallible");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body");
        (status, body.to_bytes())
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    fn events(&self) -> Vec<CacheEvent> {
        self.cache.events.lock().expect("no panic").clone()
    }
}

type PageBody = ResponseBody<CachedBody<Full<Bytes>>, NoBody, TicketWithLookup>;

trait PageService:
    Service<Request<()>, Response = Response<PageBody>, Error = Infallible, Future: Send> + Send
{
}

impl<S> PageService for S where
    S: Service<Request<()>, Response = Response<PageBody>, Error = Infallible, Future: Send> + Send
{
}

fn page() -> Request<()> {
    Request::get("/page").body(()).expect("a valid request")
}

fn status_of(outcome: FlowOutcome) -> (FlowStatus, Option<u16>) {
    (
        outcome.status,
        outcome.http_status.map(|status| status.as_u16()),
    )
}

/// Returns a shop whose page is stored.
async fn shop_with_stored_page() -> Shop {
    let shop = Shop::new(Recorder::accepting());
    assert_eq!(shop.send().await, (200, "a page".into()));
    assert_eq!((shop.runs(), shop.cache.values().len()), (1, 1));
    shop
}

#[tokio::test]
async fn a_response_from_the_cache_is_a_flow_that_ends_with_its_body() {
    let shop = shop_with_stored_page().await;
    let service = shop.service(&shop.layer());
    let response = service.oneshot(page()).await.expect("infallible");
    assert_eq!(shop.recorder.ends().len(), 1, "its body has not ended");
    assert_eq!(response.body().size_hint().exact(), Some(6));
    let body = response.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), "a page");
    let ends: Vec<_> = shop.recorder.ends().into_iter().map(status_of).collect();
    assert_eq!(ends, [(Fine, Some(200)), (Fine, Some(200))]);
    assert_eq!(shop.runs(), 1);
    assert_eq!(shop.events(), [CacheEvent::Answered]);
}

#[tokio::test]
async fn a_client_that_leaves_during_a_stored_response_ends_the_flow_as_error() {
    let shop = shop_with_stored_page().await;
    let service = shop.service(&shop.layer());
    let response = service.oneshot(page()).await.expect("infallible");
    drop(response);
    assert_eq!(status_of(shop.recorder.ends()[1]), (Error, Some(200)));
}

#[tokio::test]
async fn the_classify_hook_sees_stored_responses() {
    let shop = shop_with_stored_page().await;
    let strict = ApertureLayer::new(shop.clone(), "shop")
        .classify(|_| Error)
        .result_cache(|head| head.uri().path().into(), MINUTE);
    let response = shop
        .service(&strict)
        .oneshot(page())
        .await
        .expect("infallible");
    response.into_body().collect().await.expect("a body");
    assert_eq!(status_of(shop.recorder.ends()[1]), (Error, Some(200)));
    assert_eq!(shop.runs(), 1);
}

#[tokio::test]
async fn a_late_decision_returns_the_stored_response() {
    let shop = shop_with_stored_page().await;
    let slow = shop.with_recorder(Recorder::by_hand());
    let task = tokio::spawn({
        let slow = slow.clone();
        async move { slow.send().await }
    });
    slow.recorder.asked_once().await;
    slow.recorder.answer(Answer::Accept);
    assert_eq!(task.await.expect("no panic"), (200, "a page".into()));
    assert_eq!(slow.recorder.end(), (Fine, Some(200)));

    // After a miss the response is stored.
    slow.cache.values().clear();
    let task = tokio::spawn({
        let slow = slow.clone();
        async move { slow.send().await }
    });
    slow.recorder.asked_times(2).await;
    slow.recorder.answer(Answer::Accept);
    assert_eq!(task.await.expect("no panic").0, 200);
    assert_eq!((slow.runs(), slow.cache.values().len()), (2, 1));
}

#[tokio::test]
async fn a_rejected_flow_is_not_answered_from_the_cache() {
    let shop = shop_with_stored_page().await;
    let full = shop.with_recorder(Recorder::rejecting(denial()));
    assert_eq!(full.send().await, (429, Bytes::new()));
    assert_eq!(full.recorder.end(), (Unset, Some(429)));
    assert_eq!(full.events(), []);
}

#[tokio::test]
async fn a_reject_hook_that_is_set_before_the_cache_is_kept() {
    let full = Shop::new(Recorder::rejecting(denial()));
    let layer = ApertureLayer::new(full.clone(), "shop")
        .on_reject(|rejection: &Rejection, _: RequestHead<'_>| {
            let mut response = Response::new(Full::<Bytes>::from("come back later"));
            *response.status_mut() = rejection.status();
            response
        })
        .result_cache(|head| head.uri().path().into(), MINUTE);
    let service = layer.layer(service_fn(|_: Request<()>| {
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(
            "a page",
        ))))
    }));
    let response = service.oneshot(page()).await.expect("infallible");
    assert_eq!(
        (
            response.status().as_u16(),
            response.body().size_hint().exact()
        ),
        (429, Some(15))
    );
    let body = response.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), "come back later");
}

#[tokio::test]
async fn an_unreachable_flow_runs_without_the_cache() {
    let unreachable = || Recorder::unreachable(FlowError::new(FlowErrorKind::Timeout, "late"));
    let shop = Shop::new(unreachable());
    assert_eq!(shop.send().await.0, 200);
    assert_eq!((shop.runs(), shop.cache.values().len()), (1, 0));
    let shop = shop_with_stored_page().await.with_recorder(unreachable());
    assert_eq!(shop.send().await.0, 200);
    assert_eq!((shop.runs(), shop.events()), (2, vec![]));
}

#[tokio::test]
async fn a_decider_without_caches_stores_no_response() {
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::new(recorder.clone(), "shop").result_cache(|_| "k".into(), MINUTE);
    for _ in 0..2 {
        let service = layer.layer(service_fn(|_: Request<()>| {
            ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(
                "a page",
            ))))
        }));
        let response = service.oneshot(page()).await.expect("infallible");
        assert!(!response.headers().contains_key("age"));
        response.into_body().collect().await.expect("a body");
    }
    let ends: Vec<_> = recorder.ends().into_iter().map(status_of).collect();
    assert_eq!(ends, [(Fine, Some(200)), (Fine, Some(200))]);
}

#[tokio::test]
async fn an_unreadable_entry_is_a_miss_and_is_replaced() {
    let shop = shop_with_stored_page().await;
    let good = shop
        .cache
        .values()
        .values()
        .next()
        .expect("one page")
        .clone();
    let broken = [
        Bytes::new(),
        "{}".into(),
        good.slice(1..),
        good.slice(..good.len() - 1),
    ];
    for (at, value) in broken.into_iter().enumerate() {
        for stored in shop.cache.values().values_mut() {
            *stored = value.clone();
        }
        assert_eq!(shop.send().await, (200, "a page".into()));
        assert_eq!(shop.runs(), at + 2);
    }
    assert_eq!(shop.events(), [CacheEvent::Unreadable; 4]);
    assert_eq!(shop.send().await, (200, "a page".into()));
    assert_eq!(shop.runs(), 5);
}

#[tokio::test]
async fn an_unusable_stored_response_causes_a_second_check_that_counts() {
    let junk = shop_with_stored_page().await;
    for stored in junk.cache.values().values_mut() {
        *stored = "{}".into();
    }
    for (second, status, runs) in [(Answer::Reject(denial()), 429, 1), (Answer::Accept, 200, 2)] {
        let slow = junk.with_recorder(Recorder::by_hand());
        let task = tokio::spawn({
            let slow = slow.clone();
            async move { slow.send().await.0 }
        });
        slow.recorder.asked_once().await;
        slow.recorder.answer(Answer::Accept);
        slow.recorder.asked_times(2).await;
        let first: Vec<_> = slow.recorder.ends().into_iter().map(status_of).collect();
        assert_eq!(first, [(Unset, None)], "the first flow did not run");
        assert_eq!(slow.runs(), 1);
        slow.recorder.answer(second);
        assert_eq!(task.await.expect("no panic"), status);
        assert_eq!((slow.runs(), slow.recorder.asked().len()), (runs, 2));
        assert_eq!(slow.recorder.ends().len(), 2);
    }
}

#[tokio::test]
async fn over_real_connections_a_stored_response_equals_the_first() {
    for version in BOTH {
        let client = ApertureClient::embedded(Engine::builder().build().expect("no policy"));
        let layer = ApertureLayer::new(client.clone(), "shop")
            .result_cache(|head| head.uri().path().into(), MINUTE);
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let service = layer.layer(service_fn(move |request: Request<Incoming>| {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            let response = Response::builder()
                .header("x-run", run)
                .header("content-length", 6)
                .header("connection", "x-hop")
                .header("x-hop", "1");
            let silent = request.method() == http::Method::HEAD;
            ready(response.body(Full::<Bytes>::from(if silent { "" } else { "a page" })))
        }));
        let address = serve(version, service).await;
        let mut client = Client::connect(version, address).await;
        for (method, first) in [("GET", "0"), ("HEAD", "1")] {
            for again in [false, true] {
                let request = Request::builder()
                    .method(method)
                    .uri("http://shop.example/page");
                let response = client.send(request.header("host", "shop.example")).await;
                let (head, body) = response.expect("a response").into_parts();
                assert_eq!(head.headers["x-run"], first, "{version:?} {method}");
                assert_eq!(head.headers.contains_key("age"), again);
                assert!(head.headers.contains_key("date"));
                assert_eq!(head.headers["content-length"], "6");
                assert!(!again || !head.headers.contains_key("x-hop"));
                let body = body.collect().await.expect("a body").to_bytes();
                assert_eq!(body, if method == "GET" { "a page" } else { "" });
            }
        }
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn checks_by_attributes_send_no_cache_key_and_store_no_response() {
    let client = ApertureClient::embedded(Engine::builder().build().expect("no policy"));
    let layer = ApertureLayer::http(client.clone(), "shop").reject_with(DefaultReject::default());
    let layer = layer.result_cache(|_| "k".into(), MINUTE);
    let origin = origin(&[]);
    assert!(!origin.is_stored_by(&layer, http::Method::GET, &[]).await);
    assert_eq!((origin.runs(), client.stats().cache_writes), (2, 0));
}
