//! An inner service that counts its requests, behind a layer with a cache.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Method, Request, Response};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::layer::DefaultReject;
use tower_aperture::response_cache::ResultCacheLayer;
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

use crate::layer_support::body::{Script, Step};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

pub(crate) type Fields = &'static [(&'static str, &'static str)];

pub(crate) fn client() -> ApertureClient {
    ApertureClient::embedded(Engine::builder().build().expect("no policy"))
}

pub(crate) fn layer(client: &ApertureClient) -> ResultCacheLayer<ApertureClient, DefaultReject> {
    ApertureLayer::new(client.clone(), "shop").result_cache(|head| head.uri().path().into(), MINUTE)
}

pub(crate) fn request(method: Method, path: &str, fields: Fields) -> Request<()> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a valid request")
}

/// An inner service that counts its requests and always sends the same response.
#[derive(Clone)]
pub(crate) struct Origin {
    runs: Arc<AtomicUsize>,
    status: u16,
    fields: Fields,
    body: fn() -> Script,
}

pub(crate) fn text() -> Script {
    Script::new([Step::Data("some "), Step::Data("text")])
}

pub(crate) fn origin(fields: Fields) -> Origin {
    Origin {
        runs: Arc::default(),
        status: 200,
        fields,
        body: text,
    }
}

/// A received response, with its age if it came from the cache.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) age: Option<u64>,
    pub(crate) stored: bool,
}

impl Origin {
    pub(crate) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn body(mut self, body: fn() -> Script) -> Self {
        self.body = body;
        self
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    pub(crate) async fn send(
        &self,
        layer: &ResultCacheLayer<ApertureClient, DefaultReject>,
        request: Request<()>,
    ) -> Received {
        let before = self.runs();
        let origin = self.clone();
        let service = layer.layer(service_fn(move |_: Request<()>| {
            origin.runs.fetch_add(1, Ordering::SeqCst);
            let mut response = Response::builder().status(origin.status);
            for (name, value) in origin.fields {
                let value = http::HeaderValue::from_bytes(value.as_bytes()).expect("a valid value");
                response = response.header(HeaderName::from_static(name), value);
            }
            let response = response.body((origin.body)()).expect("a valid response");
            async { Ok::<_, Infallible>(response) }
        }));
        let response = service.oneshot(request).await.expect("infallible");
        let (head, body) = response.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => Bytes::from_static(b"broke"),
        };
        let age = head.headers.get("age").and_then(|age| age.to_str().ok());
        let age = age.and_then(|age| age.parse().ok());
        let stored = self.runs() == before && age.is_some();
        Received {
            status: head.status.as_u16(),
            body: String::from_utf8(body.to_vec()).expect("text"),
            age,
            stored,
        }
    }

    /// Sends two equal requests and returns whether the second response was stored.
    pub(crate) async fn is_stored(&self, method: Method, fields: Fields) -> bool {
        let layer = layer(&client());
        self.is_stored_by(&layer, method, fields).await
    }

    pub(crate) async fn is_stored_by(
        &self,
        layer: &ResultCacheLayer<ApertureClient, DefaultReject>,
        method: Method,
        fields: Fields,
    ) -> bool {
        let head = method == Method::HEAD;
        let first = self
            .send(layer, request(method.clone(), "/a", fields))
            .await;
        assert!(!first.stored);
        let second = self.send(layer, request(method, "/a", fields)).await;
        assert_eq!(second.status, first.status);
        // These responses have no body, even if the inner service makes one.
        if !head && first.status != 204 && first.status != 304 {
            assert_eq!(second.body, first.body);
        }
        second.stored
    }
}
