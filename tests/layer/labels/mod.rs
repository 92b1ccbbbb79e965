//! Labels and control points of a layer: their sources, and the limits of a client's influence.

mod baggage;
mod bounds;
mod required;
mod sources;

use std::convert::Infallible;
use std::future::ready;

use crate::layer_support::{Asked, Recorder};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::ApertureLayer;

/// Sends a request through a layer and returns the check that its decider received.
async fn check_of(
    build: impl FnOnce(ApertureLayer<Recorder>) -> ApertureLayer<Recorder>,
    request: Request<()>,
) -> Asked {
    let recorder = Recorder::accepting();
    let layer = build(ApertureLayer::new(recorder.clone(), "test"));
    pass(&layer, request).await;
    recorder.question()
}

async fn pass(layer: &ApertureLayer<Recorder>, request: Request<()>) {
    let inner = service_fn(|_: Request<()>| {
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    });
    let response = layer.layer(inner).oneshot(request).await;
    response.expect("a response");
}

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get("/cart?id=1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request")
}
