//! The rules of RFC 9111 for the responses that a shared cache stores and serves, by section.

use std::time::Duration;

use http::Method;
use tower_aperture::ApertureLayer;

use crate::layer_support::body::{Script, Step, grpc_status};
use crate::origin::{Fields, MINUTE, client, layer, origin, request};

/// RFC 9111, section 3: the method is understood, and only GET and HEAD are.
#[tokio::test]
async fn only_responses_to_get_and_head_are_stored() {
    for (method, expected) in [
        (Method::GET, true),
        (Method::HEAD, true),
        (Method::POST, false),
        (Method::PUT, false),
        (Method::DELETE, false),
        (Method::OPTIONS, false),
        (Method::TRACE, false),
        (Method::from_bytes(b"QUERY").expect("a method"), false),
    ] {
        let origin = origin(&[("cache-control", "public, max-age=60")]);
        assert_eq!(
            origin.is_stored(method.clone(), &[]).await,
            expected,
            "{method}"
        );
    }
}

/// Sections 3 and 4.2.2; RFC 9110, section 15.1.
#[tokio::test]
async fn only_final_cacheable_statuses_are_stored() {
    const FRESH: Fields = &[("cache-control", "max-age=60")];
    for status in 200..600 {
        let explicit = matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 410);
        let with_lifetime = origin(FRESH)
            .status(status)
            .is_stored(Method::GET, &[])
            .await;
        assert_eq!(
            with_lifetime, explicit,
            "{status} with an explicit lifetime"
        );
        let silent = origin(&[]).status(status).is_stored(Method::GET, &[]).await;
        assert_eq!(
            silent,
            status == 200,
            "{status} without an explicit lifetime"
        );
    }
}

/// Section 5.2.2, and section 3 for responses that must not be stored.
#[tokio::test]
async fn a_response_can_forbid_its_storage() {
    stored! {
        origin(&[("cache-control", "no-store")]) => false,
        origin(&[("cache-control", "max-age=60, No-Store")]) => false,
        origin(&[("cache-control", "private")]) => false,
        origin(&[("cache-control", "PRIVATE, max-age=60")]) => false,
        origin(&[("cache-control", "private=\"x-name\", max-age=60")]) => false,
        origin(&[("cache-control", "no-cache, max-age=60")]) => false,
        origin(&[("cache-control", "no-cache=\"x-name\"")]) => false,
        origin(&[("cache-control", "max-age=60"), ("cache-control", "no-store")]) => false,
        origin(&[("cache-control", "x=\"never closed, max-age=60")]) => false,
        origin(&[("cache-control", "max-age=60, \u{fc}")]) => false,
        origin(&[("cache-control", "max-age=60, x=\"no-store\", y")]) => true,
        origin(&[("cache-control", "must-revalidate, max-age=60")]) => true,
    }
}

/// Section 4.2.1.
#[tokio::test]
async fn only_fresh_responses_are_stored() {
    stored! {
        origin(&[("cache-control", "max-age=60")]) => true,
        origin(&[("cache-control", "max-age=0")]) => false,
        origin(&[("cache-control", "s-maxage=0, max-age=60")]) => false,
        origin(&[("cache-control", "s-maxage=60, max-age=0")]) => true,
        origin(&[("cache-control", "max-age=60"), ("age", "60")]) => false,
        origin(&[("cache-control", "max-age=600"), ("age", "60")]) => true,
        origin(&[("expires", "Thu, 01 Jan 1970 00:00:00 GMT")]) => false,
        origin(&[("expires", "0")]) => false,
        origin(&[("expires", "Fri, 01 Jan 2100 00:00:00 GMT")]) => true,
        origin(&[("cache-control", "max-age=60"), ("expires", "0")]) => true,
    }
}

/// Section 7.3 and RFC 6265: a cookie is for one client.
#[tokio::test]
async fn a_response_that_sets_a_cookie_is_not_stored() {
    stored! {
        origin(&[("cache-control", "public, max-age=60"), ("set-cookie", "a=b")]) => false,
    }
}

/// Section 3.3: partial responses, and responses with trailers.
#[tokio::test]
async fn partial_responses_are_not_stored() {
    stored! {
        origin(&[("content-range", "bytes 0-8/20"), ("cache-control", "max-age=60")]) => false,
        origin(&[("trailer", "x-sum")]) => false,
        origin(&[]).body(|| Script::new([
            Step::Data("a"),
            Step::Trailers(grpc_status("0")),
        ])) => false,
    }
}

/// Section 3.5.
#[tokio::test]
async fn an_authorized_response_is_stored_only_if_layer_and_response_allow_it() {
    const AUTHORIZED: Fields = &[("authorization", "Bearer x")];
    for (fields, expected) in [
        (&[][..], false),
        (&[("cache-control", "max-age=60")], false),
        (
            &[("cache-control", "max-age=60, max-age=61, public")],
            false,
        ),
        (&[("cache-control", "public")], true),
        (&[("cache-control", "s-maxage=60")], true),
        (&[("cache-control", "must-revalidate, max-age=60")], true),
        (&[("cache-control", "public, private")], false),
    ] {
        let origin = origin(fields);
        assert!(
            !origin.is_stored(Method::GET, AUTHORIZED).await,
            "{fields:?}"
        );
        let allowed = layer(&client()).allow_authorized(true);
        let stored = origin.is_stored_by(&allowed, Method::GET, AUTHORIZED).await;
        assert_eq!(stored, expected, "{fields:?}");
    }
    // A stored response is served to an authorized request only if the layer allows it.
    let (client, origin) = (client(), origin(&[("cache-control", "public")]));
    let closed = layer(&client);
    let anonymous = || request(Method::GET, "/a", &[]);
    assert!(!origin.send(&closed, anonymous()).await.stored);
    assert!(origin.send(&closed, anonymous()).await.stored);
    let authorized = || request(Method::GET, "/a", AUTHORIZED);
    assert!(!origin.send(&closed, authorized()).await.stored);
    let open = closed.allow_authorized(true);
    assert!(origin.send(&open, authorized()).await.stored);
}

/// Section 4.1.
#[tokio::test]
async fn a_varying_response_is_stored_only_if_the_key_varies_alike() {
    for (vary, keyed, expected) in [
        ("accept-encoding", &[][..], false),
        ("accept-encoding", &["accept-encoding"], true),
        (
            "Accept-Encoding, ACCEPT",
            &["accept", "accept-encoding"],
            true,
        ),
        ("accept-encoding, accept", &["accept-encoding"], false),
        ("*", &["accept-encoding"], false),
        ("accept-encoding, *", &["accept-encoding"], false),
        ("*", &["*"], false),
        ("accept , *", &["*", "accept"], false),
        (" , ", &[], true),
    ] {
        let origin = origin(Box::leak(Box::new([("vary", vary)])));
        let keyed = layer(&client()).vary(keyed);
        let stored = origin.is_stored_by(&keyed, Method::GET, &[]).await;
        assert_eq!(stored, expected, "{vary}");
    }
    let (origin, keyed) = (
        origin(&[("vary", "accept")]),
        layer(&client()).vary(["accept"]),
    );
    for fields in [
        &[][..],
        &[("accept", "")],
        &[("accept", "a")],
        &[("accept", "a, b")],
    ] {
        assert!(
            !origin
                .send(&keyed, request(Method::GET, "/a", fields))
                .await
                .stored
        );
    }
    let lines: Fields = &[("accept", "a"), ("accept", "b")];
    assert!(
        origin
            .send(&keyed, request(Method::GET, "/a", lines))
            .await
            .stored
    );
}

/// Section 5.2.1: the layer makes no lookup whose result the request could refuse.
#[tokio::test]
async fn a_request_can_require_a_newer_response() {
    let (layer, origin) = (
        layer(&client()),
        origin(&[("cache-control", "max-age=600"), ("age", "60")]),
    );
    assert!(
        !origin
            .send(&layer, request(Method::GET, "/a", &[]))
            .await
            .stored
    );
    for (fields, expected) in [
        (&[("cache-control", "max-age=59")][..], false),
        (&[("cache-control", "max-age=120")], false),
        (&[("cache-control", "max-age=x")], false),
        (&[("cache-control", "min-fresh=61")], false),
        (&[("cache-control", "min-fresh=30")], false),
        (&[("cache-control", "min-fresh=0")], true),
        (&[("cache-control", "max-age=2147483648")], true),
        (&[("cache-control", "No-Cache")], false),
        (&[("cache-control", "no-store")], false),
        (&[("pragma", "no-cache")], false),
        (
            &[("pragma", "no-cache"), ("cache-control", "max-stale")],
            true,
        ),
        (&[("cache-control", "only-if-cached")], true),
        (&[("cache-control", "max-stale=5")], true),
        (&[("cache-control", "\"")], false),
    ] {
        let response = origin
            .send(&layer, request(Method::GET, "/a", fields))
            .await;
        assert_eq!(response.stored, expected, "{fields:?}");
    }
}

/// Sections 5.2.1.4 and 5.2.1.5.
#[tokio::test]
async fn the_response_to_a_no_cache_request_is_stored_and_to_no_store_is_not() {
    let (client, origin) = (client(), origin(&[]));
    let layer = layer(&client);
    let is_stored = async |fields| {
        origin
            .send(&layer, request(Method::GET, "/a", fields))
            .await
            .stored
    };
    assert!(!is_stored(&[("cache-control", "no-store")]).await);
    assert!(!is_stored(&[("cache-control", "no-cache")]).await);
    assert!(is_stored(&[]).await);
    assert_eq!(client.stats().cache_writes, 1);
}

/// Section 5.1, and section 4.2.3 for the age.
#[tokio::test]
async fn a_response_from_the_cache_has_its_age() {
    let (layer, young) = (layer(&client()), origin(&[]));
    let first = young.send(&layer, request(Method::GET, "/a", &[])).await;
    assert_eq!(first.age, None);
    let again = young.send(&layer, request(Method::GET, "/a", &[])).await;
    assert!(again.age.is_some());
    let old = origin(&[("age", "3600"), ("cache-control", "max-age=7200")]);
    old.send(&layer, request(Method::GET, "/b", &[])).await;
    let again = old.send(&layer, request(Method::GET, "/b", &[])).await;
    assert!(again.age.is_some_and(|age| age >= 3600), "{again:?}");
}

/// RFC 9110, sections 13 and 14: the inner service evaluates these fields.
#[tokio::test]
async fn conditions_ranges_and_upgrades_bypass_the_cache() {
    let (layer, origin) = (layer(&client()), origin(&[("etag", "\"1\"")]));
    let get = |fields| request(Method::GET, "/a", fields);
    assert!(!origin.send(&layer, get(&[])).await.stored);
    for fields in [
        &[("range", "bytes=0-1")][..],
        &[("if-range", "\"1\"")],
        &[("if-match", "\"1\"")],
        &[("if-none-match", "\"1\"")],
        &[("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("upgrade", "websocket")],
        &[("content-length", "3")],
        &[("transfer-encoding", "chunked")],
    ] {
        assert!(!origin.send(&layer, get(fields)).await.stored, "{fields:?}");
    }
    assert!(
        origin
            .send(&layer, get(&[("content-length", "0")]))
            .await
            .stored
    );
}

/// Section 4.4.
#[tokio::test]
async fn a_successful_change_deletes_the_stored_response() {
    for (method, status, expected) in [
        (Method::POST, 200, false),
        (Method::PUT, 204, false),
        (Method::DELETE, 303, false),
        (Method::from_bytes(b"BREW").expect("a method"), 200, false),
        (Method::POST, 404, true),
        (Method::POST, 500, true),
        (Method::OPTIONS, 200, true),
    ] {
        let (layer, origin) = (layer(&client()), origin(&[]));
        for read in [Method::GET, Method::HEAD] {
            assert!(!origin.send(&layer, request(read, "/a", &[])).await.stored);
        }
        let change = request(method.clone(), "/a", &[]);
        origin.clone().status(status).send(&layer, change).await;
        for read in [Method::GET, Method::HEAD] {
            let response = origin.send(&layer, request(read, "/a", &[])).await;
            assert_eq!(response.stored, expected, "{method} {status}");
        }
    }
}

#[tokio::test]
async fn each_method_and_each_key_has_its_own_stored_response() {
    let (layer, origin) = (layer(&client()), origin(&[]));
    let is_stored =
        async |method, path| origin.send(&layer, request(method, path, &[])).await.stored;
    assert!(!is_stored(Method::GET, "/a").await);
    assert!(!is_stored(Method::HEAD, "/a").await);
    assert!(!is_stored(Method::GET, "/b").await);
    assert!(is_stored(Method::GET, "/a").await);
    assert!(is_stored(Method::HEAD, "/a").await);
    // The same for long keys.
    let long = format!("/{}", "x".repeat(5000));
    let longer = format!("{long}y");
    assert!(!is_stored(Method::GET, &long).await);
    assert!(!is_stored(Method::GET, &longer).await);
    assert!(is_stored(Method::GET, &long).await);
}

#[tokio::test]
async fn an_empty_key_disables_the_cache_for_a_request() {
    let keyless = ApertureLayer::new(client(), "shop").result_cache(|_| "".into(), MINUTE);
    assert!(!origin(&[]).is_stored_by(&keyless, Method::GET, &[]).await);
}

#[tokio::test]
async fn without_a_time_to_live_no_response_is_stored() {
    let never = ApertureLayer::new(client(), "shop").result_cache(|_| "k".into(), Duration::ZERO);
    assert!(!origin(&[]).is_stored_by(&never, Method::GET, &[]).await);
}

#[tokio::test]
async fn keys_from_secret_headers_are_refused() {
    for name in ["Authorization", "cookie", "no name"] {
        let error = layer(&client()).try_vary(["accept", name]).expect_err(name);
        assert!(
            error
                .to_string()
                .to_lowercase()
                .contains(&name.to_lowercase()),
            "{error}"
        );
    }
}
