//! Only what was complete is stored, and only up to a limit.

use std::convert::Infallible;

use bytes::buf::Chain;
use bytes::{Buf, Bytes};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};

use crate::layer_support::body::{Script, Step};
use crate::origin::{client, layer, origin, request, text};

/// Section 3.3: only what was complete.
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

/// Asks once, reads so many frames, and drops the rest.
async fn left_after(frames: usize, body: fn() -> Script) -> u64 {
    let client = client();
    let service = layer(&client).layer(service_fn(move |_: Request<()>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(body())))
    }));
    let response = service.oneshot(request(Method::GET, "/a", &[])).await;
    let mut body = response.expect("it never fails").into_body();
    for _ in 0..frames {
        assert!(body.frame().await.is_some());
    }
    drop(body);
    client.stats().cache_writes
}

#[tokio::test]
async fn a_client_that_leaves_leaves_nothing_behind() {
    for frames in 0..=2 {
        assert_eq!(
            left_after(frames, text).await,
            0,
            "{frames} frames of unknown length"
        );
        // Servers that count bytes do not ask for the end.
        let known = left_after(frames, || text().hint(9)).await;
        assert_eq!(known, u64::from(frames == 2), "{frames} frames");
    }
}

#[tokio::test]
async fn a_body_that_panics_leaves_nothing_behind() {
    let work = tokio::spawn(left_after(3, || {
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
        response
            .expect("it never fails")
            .into_body()
            .collect()
            .await
    });
    assert!(work.await.is_err_and(|error| error.is_panic()));
    assert_eq!(client.stats().cache_writes, 0);
}

#[tokio::test]
async fn bodies_are_stored_up_to_the_limit() {
    let small = layer(&client()).max_body(9);
    assert!(origin(&[]).twice(&small, Method::GET, &[]).await);
    let smaller = layer(&client()).max_body(8);
    assert!(!origin(&[]).twice(&smaller, Method::GET, &[]).await);
    let known = origin(&[("content-length", "9")]);
    assert!(!known.twice(&smaller, Method::GET, &[]).await);
    assert!(known.twice(&smaller, Method::HEAD, &[]).await);
}

/// Data in two pieces.
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
async fn data_in_pieces_is_stored_whole_and_comes_back_as_such_data() {
    let client = client();
    for stored in [false, true] {
        let service = layer(&client).layer(service_fn(|_: Request<()>| {
            let rope = Rope(Bytes::from("some ").chain(Bytes::from("text")));
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(rope))))
        }));
        let response = service.oneshot(request(Method::GET, "/a", &[])).await;
        let response = response.expect("it never fails");
        assert_eq!(response.headers().contains_key("age"), stored);
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "some text");
    }
}
