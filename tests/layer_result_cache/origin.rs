//! An inner service that counts, behind a layer with a cache.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Method, Request, Response};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::layer::{DefaultReject, ResultCacheLayer};
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
    request.body(()).expect("a sound request")
}

/// An inner service that counts, and answers alike each time.
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

/// What came, with the age when it came from the cache.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Came {
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

    pub(crate) async fn ask(
        &self,
        layer: &ResultCacheLayer<ApertureClient, DefaultReject>,
        request: Request<()>,
    ) -> Came {
        let before = self.runs();
        let origin = self.clone();
        let service = layer.layer(service_fn(move |_: Request<()>| {
            origin.runs.fetch_add(1, Ordering::SeqCst);
            let mut response = Response::builder().status(origin.status);
            for (name, value) in origin.fields {
                let value = http::HeaderValue::from_bytes(value.as_bytes()).expect("legal");
                response = response.header(HeaderName::from_static(name), value);
            }
            let response = response.body((origin.body)()).expect("a sound response");
            async { Ok::<_, Infallible>(response) }
        }));
        let response = service.oneshot(request).await.expect("it never fails");
        let (head, body) = response.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => Bytes::from_static(b"broke"),
        };
        let age = head.headers.get("age").and_then(|age| age.to_str().ok());
        let age = age.and_then(|age| age.parse().ok());
        let stored = self.runs() == before && age.is_some();
        Came {
            status: head.status.as_u16(),
            body: String::from_utf8(body.to_vec()).expect("text"),
            age,
            stored,
        }
    }

    /// Asks twice alike, and says whether the second answer was a stored one.
    pub(crate) async fn is_stored(&self, method: Method, fields: Fields) -> bool {
        let layer = layer(&client());
        self.twice(&layer, method, fields).await
    }

    pub(crate) async fn twice(
        &self,
        layer: &ResultCacheLayer<ApertureClient, DefaultReject>,
        method: Method,
        fields: Fields,
    ) -> bool {
        let head = method == Method::HEAD;
        let first = self.ask(layer, request(method.clone(), "/a", fields)).await;
        assert!(!first.stored);
        let second = self.ask(layer, request(method, "/a", fields)).await;
        assert_eq!(second.status, first.status);
        // These have none, whatever the inner service says.
        if !head && first.status != 204 && first.status != 304 {
            assert_eq!(second.body, first.body);
        }
        second.stored
    }
}
