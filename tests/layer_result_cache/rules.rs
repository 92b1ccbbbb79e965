//! What RFC 9111 lets a shared cache store and answer, section by section.

use std::time::Duration;

use http::Method;
use tower_aperture::ApertureLayer;

use crate::layer_support::body::{Script, Step, grpc_status};
use crate::origin::{Fields, MINUTE, client, layer, origin, request};

/// RFC 9111, section 3: the method is understood, and only GET and HEAD are.
#[tokio::test]
async fn get_and_head_are_stored_and_no_other_method() {
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
async fn statuses_are_stored_that_are_final_and_for_everybody() {
    const FRESH: Fields = &[("cache-control", "max-age=60")];
    for status in 200..600 {
        let explicit = matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 410);
        let said = origin(FRESH)
            .status(status)
            .is_stored(Method::GET, &[])
            .await;
        assert_eq!(said, explicit, "{status} that says how long");
        let silent = origin(&[]).status(status).is_stored(Method::GET, &[]).await;
        assert_eq!(silent, status == 200, "{status} that does not");
    }
}

/// Section 5.2.2, and 3 for what must not be stored.
#[tokio::test]
async fn what_a_response_says_against_it_counts() {
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
async fn only_what_is_fresh_is_stored() {
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

/// Section 7.3 and RFC 6265: a cookie is somebody's.
#[tokio::test]
async fn a_response_that_sets_a_cookie_is_not_stored() {
    stored! {
        origin(&[("cache-control", "public, max-age=60"), ("set-cookie", "a=b")]) => false,
    }
}

/// Section 3.3: parts of a response, and responses with something after the body.
#[tokio::test]
async fn parts_are_not_stored() {
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
async fn a_response_to_somebody_is_stored_only_where_both_sides_allow_it() {
    const WHO: Fields = &[("authorization", "Bearer x")];
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
        assert!(!origin.is_stored(Method::GET, WHO).await, "{fields:?}");
        let allowed = layer(&client()).allow_authorized(true);
        let stored = origin.twice(&allowed, Method::GET, WHO).await;
        assert_eq!(stored, expected, "{fields:?}");
    }
    // Nor is what anybody may have given to somebody, unless it is allowed.
    let (client, origin) = (client(), origin(&[("cache-control", "public")]));
    let closed = layer(&client);
    let anybody = || request(Method::GET, "/a", &[]);
    assert!(!origin.ask(&closed, anybody()).await.stored);
    assert!(origin.ask(&closed, anybody()).await.stored);
    let somebody = || request(Method::GET, "/a", WHO);
    assert!(!origin.ask(&closed, somebody()).await.stored);
    let open = closed.allow_authorized(true);
    assert!(origin.ask(&open, somebody()).await.stored);
}

/// Section 4.1.
#[tokio::test]
async fn a_response_that_varies_is_stored_where_the_key_does() {
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
        let stored = origin.twice(&keyed, Method::GET, &[]).await;
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
                .ask(&keyed, request(Method::GET, "/a", fields))
                .await
                .stored
        );
    }
    let lines: Fields = &[("accept", "a"), ("accept", "b")];
    assert!(
        origin
            .ask(&keyed, request(Method::GET, "/a", lines))
            .await
            .stored
    );
}

/// Section 5.2.1: a lookup that the request could refuse is not made.
#[tokio::test]
async fn a_request_may_ask_for_something_newer() {
    let (layer, origin) = (
        layer(&client()),
        origin(&[("cache-control", "max-age=600"), ("age", "60")]),
    );
    assert!(
        !origin
            .ask(&layer, request(Method::GET, "/a", &[]))
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
        let came = origin.ask(&layer, request(Method::GET, "/a", fields)).await;
        assert_eq!(came.stored, expected, "{fields:?}");
    }
}

/// Sections 5.2.1.4 and 5.2.1.5.
#[tokio::test]
async fn a_reload_is_stored_and_what_must_not_be_stored_is_not() {
    let (client, origin) = (client(), origin(&[]));
    let layer = layer(&client);
    let ask = async |fields| {
        origin
            .ask(&layer, request(Method::GET, "/a", fields))
            .await
            .stored
    };
    assert!(!ask(&[("cache-control", "no-store")]).await);
    assert!(!ask(&[("cache-control", "no-cache")]).await);
    assert!(ask(&[]).await);
    assert_eq!(client.stats().cache_writes, 1);
}

/// Section 5.1, and 4.2.3 for how old it is.
#[tokio::test]
async fn what_comes_from_the_cache_says_how_old_it_is() {
    let (layer, young) = (layer(&client()), origin(&[]));
    let first = young.ask(&layer, request(Method::GET, "/a", &[])).await;
    assert_eq!(first.age, None);
    let again = young.ask(&layer, request(Method::GET, "/a", &[])).await;
    assert!(again.age.is_some());
    let old = origin(&[("age", "3600"), ("cache-control", "max-age=7200")]);
    old.ask(&layer, request(Method::GET, "/b", &[])).await;
    let again = old.ask(&layer, request(Method::GET, "/b", &[])).await;
    assert!(again.age.is_some_and(|age| age >= 3600), "{again:?}");
}

/// RFC 9110, sections 13 and 14: between the client and the inner service.
#[tokio::test]
async fn conditions_ranges_and_other_protocols_pass_the_cache_by() {
    let (layer, origin) = (layer(&client()), origin(&[("etag", "\"1\"")]));
    let get = |fields| request(Method::GET, "/a", fields);
    assert!(!origin.ask(&layer, get(&[])).await.stored);
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
        assert!(!origin.ask(&layer, get(fields)).await.stored, "{fields:?}");
    }
    assert!(
        origin
            .ask(&layer, get(&[("content-length", "0")]))
            .await
            .stored
    );
}

/// Section 4.4.
#[tokio::test]
async fn a_change_that_succeeds_deletes_what_is_stored() {
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
            assert!(!origin.ask(&layer, request(read, "/a", &[])).await.stored);
        }
        let change = request(method.clone(), "/a", &[]);
        origin.clone().status(status).ask(&layer, change).await;
        for read in [Method::GET, Method::HEAD] {
            let came = origin.ask(&layer, request(read, "/a", &[])).await;
            assert_eq!(came.stored, expected, "{method} {status}");
        }
    }
}

#[tokio::test]
async fn each_method_and_each_key_has_a_response_of_its_own() {
    let (layer, origin) = (layer(&client()), origin(&[]));
    let ask = async |method, path| origin.ask(&layer, request(method, path, &[])).await.stored;
    assert!(!ask(Method::GET, "/a").await);
    assert!(!ask(Method::HEAD, "/a").await);
    assert!(!ask(Method::GET, "/b").await);
    assert!(ask(Method::GET, "/a").await);
    assert!(ask(Method::HEAD, "/a").await);
    // Long ones too.
    let long = format!("/{}", "x".repeat(5000));
    let longer = format!("{long}y");
    assert!(!ask(Method::GET, &long).await);
    assert!(!ask(Method::GET, &longer).await);
    assert!(ask(Method::GET, &long).await);
}

#[tokio::test]
async fn an_empty_key_is_none() {
    let keyless = ApertureLayer::new(client(), "shop").result_cache(|_| "".into(), MINUTE);
    assert!(!origin(&[]).twice(&keyless, Method::GET, &[]).await);
}

#[tokio::test]
async fn a_time_to_live_that_is_none_stores_nothing() {
    let never = ApertureLayer::new(client(), "shop").result_cache(|_| "k".into(), Duration::ZERO);
    assert!(!origin(&[]).twice(&never, Method::GET, &[]).await);
}

#[tokio::test]
async fn a_key_must_not_hold_a_secret() {
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
