//! The values that the layer reads from requests: names, addresses, routes and deadlines. A client
//! cannot evade a limit by the contents of its request.
#![cfg(all(
    feature = "axum",
    feature = "embedded",
    feature = "remote",
    feature = "response-cache",
    feature = "test-util"
))]

mod addresses;
mod deadlines;
mod names;
mod on_demand;
mod outgoing_deadlines;
mod readers;
mod routes;
mod shared_parameters;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use crate::layer_support::inner::{Body, hello};
use http::{Request, Response};
use tower::{Layer, Service, ServiceExt};
use tower_aperture::layer::OnReject;
use tower_aperture::{ApertureClient, ApertureLayer, Decider, Engine};

/// An inner service that counts its requests.
#[derive(Clone, Default)]
struct Inner(Arc<AtomicUsize>);

impl Inner {
    fn ran(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Service<Request<()>> for Inner {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        self.0.fetch_add(1, Ordering::SeqCst);
        ready(Ok(hello()))
    }
}

/// Sends a request through the layer and returns the head of the response.
async fn send<D, R>(
    layer: &ApertureLayer<D, R>,
    inner: &Inner,
    request: Request<()>,
) -> http::response::Parts
where
    D: Decider + Clone,
    R: OnReject<Body>,
{
    let response: Result<Response<_>, Infallible> =
        layer.layer(inner.clone()).oneshot(request).await;
    let Ok(response) = response;
    response.into_parts().0
}

/// Builds a request from a line with method and target, and headers.
fn request(line: &str, headers: &[(&str, &str)]) -> Request<()> {
    let (method, target) = line.split_once(' ').expect("a method and a target");
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request")
}

/// Returns a client of an engine with one rate limiter, which accepts `most` requests an hour for
/// the flows of a selector, by a key.
fn limited(most: u32, selector: &str, key: &str) -> ApertureClient {
    let policy = format!(
        "
blueprint: rate-limiting/base
policy:
  policy_name: limit
  rate_limiter:
    bucket_capacity: {most}
    fill_amount: 1
    parameters: {{interval: 3600s, {key}}}
    selectors: [{{{selector}}}]
"
    );
    let engine = Engine::builder().policy_text("limit.yaml", policy).build();
    ApertureClient::embedded(engine.expect("a policy"))
}
