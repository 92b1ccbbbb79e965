//! An inner service whose pages change, behind a layer with a cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::layer::DefaultReject;
use tower_aperture::response_cache::ResultCacheLayer;
use tower_aperture::{ApertureClient, Engine};

use crate::layer_support::body::{Script, Step};

/// Pages that all show one version, which each request with an unsafe method increments.
///
/// Fields of a request control the service:
///
/// - `x-held`: the service reads or changes, and responds after [`release`](Self::release)
/// - `x-broken`: the service changes, and then fails (`error`) or panics (`panic`)
/// - `x-status`: the status of the response
/// - `x-set-location`, `x-set-content-location`: fields of the response
#[derive(Clone)]
pub(crate) struct Site {
    version: Arc<AtomicUsize>,
    runs: Arc<AtomicUsize>,
    held: Arc<Semaphore>,
}

/// The error of the inner service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken;

pub(crate) type Cache = ResultCacheLayer<ApertureClient, DefaultReject>;

impl Site {
    pub(crate) fn new() -> Self {
        Self {
            version: Arc::default(),
            runs: Arc::default(),
            held: Arc::new(Semaphore::new(0)),
        }
    }

    /// Returns the number of requests that reached the service.
    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    pub(crate) fn change(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn release(&self) {
        self.held.add_permits(1);
    }

    /// Waits until `runs` requests have reached the service.
    pub(crate) async fn wait_for_requests(&self, runs: usize) {
        let wait = async {
            while self.runs() < runs {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(crate::layer_support::HANG, wait).await;
        assert!(
            waited.is_ok(),
            "{} of {runs} requests reached the service",
            self.runs()
        );
    }

    pub(crate) fn service(
        &self,
    ) -> impl Service<Request<()>, Response = Response<Script>, Error = Broken, Future: Send>
    + Clone
    + Send
    + use<> {
        let site = self.clone();
        service_fn(move |request: Request<()>| {
            let site = site.clone();
            async move { site.respond(&request).await }
        })
    }

    async fn respond(&self, request: &Request<()>) -> Result<Response<Script>, Broken> {
        if !request.method().is_safe() {
            self.change();
        }
        let version = self.version.load(Ordering::SeqCst);
        self.runs.fetch_add(1, Ordering::SeqCst);
        let fields = request.headers();
        if fields.contains_key("x-held") {
            self.held.acquire().await.expect("never closed").forget();
        }
        match fields.get("x-broken").map(http::HeaderValue::as_bytes) {
            Some(b"error") => return Err(Broken),
            Some(_) => panic!("the service panicked, as the request demands"),
            None => {}
        }
        let mut response = Response::builder().header("cache-control", "max-age=600");
        if let Some(status) = fields.get("x-status") {
            response = response.status(status.as_bytes());
        }
        for (name, from) in [
            ("location", "x-set-location"),
            ("content-location", "x-set-content-location"),
        ] {
            if let Some(value) = fields.get(from) {
                response = response.header(name, value);
            }
        }
        let text = Bytes::from(version.to_string());
        let body = Script::new([Step::Bytes(text), Step::Data("")]);
        Ok(response.body(body).expect("a valid response"))
    }

    /// Sends a request and returns the version of its response, and whether it was stored.
    pub(crate) async fn send(&self, layer: &Cache, request: Request<()>) -> (usize, bool) {
        let response = layer.layer(self.service()).oneshot(request).await;
        let (head, body) = response.expect("the service responds").into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("text");
        let stored = head.headers.contains_key("age");
        (text.parse().expect("a version"), stored)
    }

    pub(crate) async fn get(&self, layer: &Cache, path: &str) -> (usize, bool) {
        self.send(layer, request_with(Method::GET, path, &[])).await
    }

    pub(crate) async fn post(&self, layer: &Cache, path: &str) {
        self.send(layer, request_with(Method::POST, path, &[]))
            .await;
    }
}

pub(crate) fn request_with(method: Method, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a valid request")
}

pub(crate) fn engine() -> Engine {
    Engine::builder().build().expect("no policy")
}
