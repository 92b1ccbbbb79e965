//! Only complete responses are stored, and only up to a limit.

use std::convert::Infallible;

use bytes::buf::Chain;
use bytes::{Buf, Bytes};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};

use crate::layer_support::body::{Script, Step};
use crate::origin::{client, layer, origin, request, text};

/// Section 3.3: incomplete responses.
#[tokio::test]
async fn only_a_complete_body_is_stored() {
    stored! {
        origin(&[]).body(|| Script::new([Step::Data("a"), Step::Error])) => false,
        origin(&[]).body(|| Script::new([])) => true,
        origin(&[]).body(|| Script::new([Step::Data("a")]).knowing_its_end()) => true,
        origin(&[]).body(|| Script::new([Step::Data("a"), Step::Data("b")]).hint(2)) => true,
        origin(&[]).body(|| Script::new([Step::Data("a"), Step::Data("b")]).hint(3)) => false,
        origin(&[("content-length", "9")]) => true,
        origin(&[("content-length", "8")]) => false,
        origin(&[("content-length", "10")]) => false,
        origin(&[("content-length", "9"), ("content-length", "10")]) => false,
        origin(&[("content-length", "nine")]) => false,
        origin(&[("content-length", "9")]).body(|| text().hint(8)) => false,
    }
}

/// Sends a request, reads `frames` frames of the response and drops the rest; returns the number of
/// cache writes.
async fn writes_after_reading(frames: usize, body: fn() -> Script) -> u64 {
    let client = client();
    let service = layer(&client).layer(service_fn(move |_: Request<()>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(body())))
    }));
    let response = service.oneshot(request(Method::GET, "/a", &[])).await;
    let mut body = response.expect("infallible").into_body();
    for _ in 0..frames {
        assert!(body.frame().await.is_some());
    }
    drop(body);
    client.stats().cache_writes
}

#[tokio::test]
async fn a_response_whose_client_left_is_not_stored() {
    for frames in 0..=2 {
        assert_eq!(
            writes_after_reading(frames, text).await,
            0,
            "{frames} frames of unknown length"
        );
        // Servers that count bytes do not poll for the end.
        let known = writes_after_reading(frames, || text().hint(9)).await;
        assert_eq!(known, u64::from(frames == 2), "{frames} frames");
    }
}

#[tokio::test]
async fn a_response_whose_body_panics_is_not_stored() {
    let work = tokio::spawn(writes_after_reading(3, || {
        Script::new([Step::Data("a"), Step::Panic]).hint(1)
    }));
    assert!(work.await.is_err());
    let client = client();
    let service = layer(&client).layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(
            Script::new([Step::Data("a"), Step::Panic]).hint(1),
        ))
    }));
    let work = tokio::spawn(async move {
        let response = service.oneshot(request(Method::GET, "/a", &[])).await;
        response.expect("infallible").into_body().collect().await
    });
    assert!(work.await.is_err_and(|error| error.is_panic()));
    assert_eq!(client.stats().cache_writes, 0);
}

#[tokio::test]
async fn bodies_are_stored_up_to_the_size_limit() {
    let small = layer(&client()).max_body(9);
    assert!(origin(&[]).is_stored_by(&small, Method::GET, &[]).await);
    let smaller = layer(&client()).max_body(8);
    assert!(!origin(&[]).is_stored_by(&smaller, Method::GET, &[]).await);
    let known = origin(&[("content-length", "9")]);
    assert!(!known.is_stored_by(&smaller, Method::GET, &[]).await);
    assert!(known.is_stored_by(&smaller, Method::HEAD, &[]).await);
}

/// A buffer in two pieces.
#[derive(Debug)]
struct Rope(Chain<Bytes, Bytes>);

impl From<Bytes> for Rope {
    fn from(whole: Bytes) -> Self {
        Self(whole.chain(Bytes::new()))
    }
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.0.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.0.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.0.advance(count);
    }
}

#[tokio::test]
async fn data_in_pieces_is_stored_whole_and_returned_as_the_same_type() {
    let client = client();
    for stored in [false, true] {
        let service = layer(&client).layer(service_fn(|_: Request<()>| {
            let rope = Rope(Bytes::from("some ").chain(Bytes::from("text")));
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(rope))))
        }));
        let response = service.oneshot(request(Method::GET, "/a", &[])).await;
        let response = response.expect("infallible");
        assert_eq!(response.headers().contains_key("age"), stored);
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "some text");
    }
}
