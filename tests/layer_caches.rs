//! Cache keys from requests, and what was found in the hands of handlers.
#![cfg(feature = "embedded")]

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::{ApertureClient, ApertureLayer, CacheLookup, Engine};

fn client() -> ApertureClient {
    ApertureClient::embedded(Engine::builder().build().expect("no policy"))
}

/// Answers with what the caches had: result, then global, `-` for what is not there.
async fn tell(request: Request<()>) -> Result<Response<String>, Infallible> {
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

async fn asked(layer: &ApertureLayer<ApertureClient>, path: &str, header: Option<&str>) -> String {
    let mut service = layer.layer(service_fn(tell));
    let mut request = Request::get(path);
    if let Some(value) = header {
        request = request.header("x-tenant", value);
    }
    let request = request.body(()).expect("a sound request");
    let service = service.ready().await.expect("always ready");
    let response = service.call(request).await.expect("it never fails");
    let body = http_body_util::BodyExt::collect(response.into_body()).await;
    let body = body.expect("a body of text").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

#[tokio::test]
async fn handlers_see_what_was_found_where_they_asked_for_it() {
    let client = client();
    let minute = Duration::from_secs(60);
    let keyed = ApertureLayer::new(client.clone(), "profile")
        .result_cache_key(|head| head.uri().path().into())
        .global_cache_key(|head| head.header("x-tenant").unwrap_or("").into())
        .global_cache_key(|_| "settings".into());
    let told = keyed.clone().insert_cache_lookup(true);
    assert_eq!(asked(&told, "/42", None).await, "- settings=-");

    client
        .set_result_cache("profile", "/42", "ann", minute)
        .await
        .expect("it fits");
    client
        .set_global_cache("acme", "big", minute)
        .await
        .expect("it fits");
    assert_eq!(
        asked(&told, "/42", Some("acme")).await,
        "ann acme=big settings=-"
    );
    assert_eq!(
        asked(&told, "/43", Some("acme")).await,
        "- acme=big settings=-"
    );
    // Not asked for.
    assert_eq!(asked(&keyed, "/42", Some("acme")).await, "none");
    let plain = ApertureLayer::new(client, "profile").insert_cache_lookup(true);
    assert_eq!(asked(&plain, "/42", None).await, "none");
}

#[tokio::test]
async fn a_decider_without_caches_tells_nothing() {
    let layer = ApertureLayer::new(ApertureClient::disabled(), "profile")
        .result_cache_key(|_| "k".into())
        .insert_cache_lookup(true);
    assert_eq!(asked(&layer, "/", None).await, "none");
}
