//! An axum service whose responses are served from the result cache.
//!
//! `cargo run --features response-cache --example cache` asserts what it prints, and exits. It
//! needs no Agent: the cache is part of the engine. The cache of an Agent is shared by all
//! instances of the service.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

static LISTS_MADE: AtomicU32 = AtomicU32::new(0);

async fn list(headers: HeaderMap) -> ([(&'static str, &'static str); 2], String) {
    let language = headers["accept-language"].to_str().unwrap_or_default();
    let text = format!(
        "list {} in {language}",
        LISTS_MADE.fetch_add(1, Relaxed) + 1
    );
    let headers = [("cache-control", "max-age=30"), ("vary", "accept-language")];
    (headers, text)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = ApertureClient::embedded(Engine::builder().build()?);
    let layer = ApertureLayer::new(client.clone(), "catalogue")
        .result_cache(|head| head.uri().path().into(), Duration::from_secs(60))
        .vary(["accept-language"]);
    let list = get(list).post(|| async { "one more" });
    let app = Router::new().route("/list", list).route_layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let uri = format!("http://{}/list", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });

    let http = Client::builder(TokioExecutor::new()).build_http::<Body>();
    for (method, language, cache_control, expected, is_cached) in [
        ("GET", "de", "", "list 1 in de", false),
        ("GET", "de", "", "list 1 in de", true),
        // The header that the response varies by is part of the key.
        ("GET", "fr", "", "list 2 in fr", false),
        // A reload calls the service, and the new response is stored.
        ("GET", "de", "no-cache", "list 3 in de", false),
        ("GET", "de", "", "list 3 in de", true),
        // A POST invalidates the stored response.
        ("POST", "de", "", "one more", false),
        ("GET", "de", "", "list 4 in de", false),
    ] {
        let request = Request::builder().method(method).uri(&uri);
        let request = request.header("accept-language", language);
        let request = request.header("cache-control", cache_control);
        let response = http.request(request.body(Body::empty())?).await?;
        let age = response.headers().get("age").cloned();
        let body = response.into_body().collect().await?.to_bytes();
        println!("{method:<5}{language:<3}{cache_control:<9}{body:?}, age {age:?}");
        assert_eq!(body, expected);
        assert_eq!(age.is_some(), is_cached);
    }
    assert_eq!(
        (LISTS_MADE.load(Relaxed), client.stats().cache_answers),
        (4, 2)
    );
    println!("The service made 4 lists for 6 GET requests.");
    Ok(())
}
