//! Inner services that check or count how the layer uses them.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::Service;
use tower_aperture::{Denial, RejectReason};

pub type Body = Full<Bytes>;

pub fn hello() -> Response<Body> {
    Response::new(Full::from("hello"))
}

pub fn denial() -> Denial {
    Denial::new(RejectReason::RateLimited)
}

/// A service that panics when it is called without having been ready; a clone is not ready.
#[derive(Debug)]
pub struct Forgetful {
    ready: bool,
    pub clones: Arc<AtomicUsize>,
    pub calls: Arc<AtomicUsize>,
}

impl Forgetful {
    pub fn new() -> Self {
        Self {
            ready: false,
            clones: Arc::default(),
            calls: Arc::default(),
        }
    }
}

impl Clone for Forgetful {
    fn clone(&self) -> Self {
        self.clones.fetch_add(1, Ordering::SeqCst);
        Self {
            ready: false,
            clones: self.clones.clone(),
            calls: self.calls.clone(),
        }
    }
}

impl Service<Request<()>> for Forgetful {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(self.ready, "the service must be ready before a call");
        self.ready = false;
        self.calls.fetch_add(1, Ordering::SeqCst);
        ready(Ok(hello()))
    }
}

/// A service that counts its dropped instances.
#[derive(Debug)]
pub struct Counted {
    pub drops: Arc<AtomicUsize>,
}

impl Counted {
    pub fn new(drops: &Arc<AtomicUsize>) -> Self {
        Self {
            drops: drops.clone(),
        }
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        Self::new(&self.drops)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

impl Service<Request<()>> for Counted {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(hello()))
    }
}
