//! An inner service whose pages change, behind a layer with a cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::layer::{DefaultReject, ResultCacheLayer};
use tower_aperture::{ApertureClient, Engine};

use crate::layer_support::body::{Script, Step};

/// Pages that all show one version, which each request with an unsafe method counts up.
///
/// Fields of a request say what happens with it:
///
/// - `x-held`: the service looks or changes, and answers when [`release`](Self::release) is called
/// - `x-broken`: the service changes, and then fails (`error`) or panics (`panic`)
/// - `x-status`: the status of the response
/// - `x-says-location`, `x-says-content-location`: fields of the response
#[derive(Clone)]
pub(crate) struct Site {
    version: Arc<AtomicUsize>,
    runs: Arc<AtomicUsize>,
    held: Arc<Semaphore>,
}

/// The inner service failed.
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

    /// Requests that came to the service.
    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    pub(crate) fn change(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn release(&self) {
        self.held.add_permits(1);
    }

    /// Waits until so many requests have come to the service.
    pub(crate) async fn came(&self, runs: usize) {
        let wait = async {
            while self.runs() < runs {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(crate::layer_support::HANG, wait).await;
        assert!(waited.is_ok(), "{} of {runs} came", self.runs());
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
            async move { site.answer(&request).await }
        })
    }

    async fn answer(&self, request: &Request<()>) -> Result<Response<Script>, Broken> {
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
            Some(_) => panic!("the service panicked, as it was asked to"),
            None => {}
        }
        let mut response = Response::builder().header("cache-control", "max-age=600");
        if let Some(status) = fields.get("x-status") {
            response = response.status(status.as_bytes());
        }
        for (name, from) in [
            ("location", "x-says-location"),
            ("content-location", "x-says-content-location"),
        ] {
            if let Some(value) = fields.get(from) {
                response = response.header(name, value);
            }
        }
        let text = Bytes::from(version.to_string());
        let body = Script::new([Step::Bytes(text), Step::Data("")]);
        Ok(response.body(body).expect("a sound response"))
    }

    /// Sends a request and reads what came: the version, and whether it was stored.
    pub(crate) async fn ask(&self, layer: &Cache, request: Request<()>) -> (usize, bool) {
        let response = layer.layer(self.service()).oneshot(request).await;
        let (head, body) = response.expect("the service answers").into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("text");
        let stored = head.headers.contains_key("age");
        (text.parse().expect("a version"), stored)
    }

    pub(crate) async fn get(&self, layer: &Cache, path: &str) -> (usize, bool) {
        self.ask(layer, with(Method::GET, path, &[])).await
    }

    pub(crate) async fn post(&self, layer: &Cache, path: &str) {
        self.ask(layer, with(Method::POST, path, &[])).await;
    }
}

pub(crate) fn with(method: Method, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a sound request")
}

pub(crate) fn engine() -> Engine {
    Engine::builder().build().expect("no policy")
}
