//! Cache keys that the layer reads from requests, and cache lookups that handlers receive.
#![cfg(feature = "embedded")]

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::cache::CacheLookup;
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

fn client() -> ApertureClient {
    ApertureClient::embedded(Engine::builder().build().expect("no policy"))
}

/// Responds with the cached values: the result cache's, then the global cache's, `-` for a miss.
async fn respond_with_lookup(request: Request<()>) -> Result<Response<String>, Infallible> {
    let text = match request.extensions().get::<CacheLookup>() {
        None => "none".to_owned(),
        Some(found) => {
            let text = |value: Option<&bytes::Bytes>| match value {
                Some(value) => String::from_utf8_lossy(value).into_owned(),
                None => "-".to_owned(),
            };
            let global = found.global.iter();
            let global = global.map(|(key, _)| format!(" {key}={}", text(found.global_value(key))));
            format!(
                "{}{}",
                text(found.result_value()),
                global.collect::<String>()
            )
        }
    };
    Ok(Response::new(text))
}

async fn lookup_of(
    layer: &ApertureLayer<ApertureClient>,
    path: &str,
    header: Option<&str>,
) -> String {
    let mut service = layer.layer(service_fn(respond_with_lookup));
    let mut request = Request::get(path);
    if let Some(value) = header {
        request = request.header("x-tenant", value);
    }
    let request = request.body(()).expect("a valid request");
    let service = service.ready().await.expect("always ready");
    let response = service.call(request).await.expect("infallible");
    let body = http_body_util::BodyExt::collect(response.into_body()).await;
    let body = body.expect("a body of text").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

#[tokio::test]
async fn handlers_receive_the_lookup_when_the_layer_inserts_it() {
    let client = client();
    let minute = Duration::from_secs(60);
    let keyed = ApertureLayer::new(client.clone(), "profile")
        .result_cache_key(|head| head.uri().path().into())
        .global_cache_key(|head| head.header("x-tenant").unwrap_or("").into())
        .global_cache_key(|_| "settings".into());
    let inserting = keyed.clone().insert_cache_lookup(true);
    assert_eq!(lookup_of(&inserting, "/42", None).await, "- settings=-");

    client
        .result_cache("profile", "/42")
        .set("ann", minute)
        .await
        .expect("it fits");
    client
        .global_cache("acme")
        .set("big", minute)
        .await
        .expect("it fits");
    assert_eq!(
        lookup_of(&inserting, "/42", Some("acme")).await,
        "ann acme=big settings=-"
    );
    assert_eq!(
        lookup_of(&inserting, "/43", Some("acme")).await,
        "- acme=big settings=-"
    );
    // The layer inserts no lookup by default, nor one without keys.
    assert_eq!(lookup_of(&keyed, "/42", Some("acme")).await, "none");
    let plain = ApertureLayer::new(client, "profile").insert_cache_lookup(true);
    assert_eq!(lookup_of(&plain, "/42", None).await, "none");
}

#[tokio::test]
async fn a_decider_without_caches_inserts_no_lookup() {
    let layer = ApertureLayer::new(ApertureClient::disabled(), "profile")
        .result_cache_key(|_| "k".into())
        .insert_cache_lookup(true);
    assert_eq!(lookup_of(&layer, "/", None).await, "none");
}
