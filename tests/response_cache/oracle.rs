//! Compares the cache with `http-cache-semantics`; the list has every difference with its reason.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, Request, Response};
use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy};

use crate::layer_support::body::Script;
use crate::origin::{Fields, client, layer, origin, request};
use crate::site::Cache;

/// A request that is sent twice, and the response of the inner service.
#[derive(Clone, Copy, Debug)]
struct Case {
    method: &'static str,
    request_fields: Fields,
    status: u16,
    response_fields: Fields,
}

/// A difference between the layer and the oracle.
struct Difference {
    reason: &'static str,
    /// Whether the layer responds to the second request from the cache.
    from_cache: bool,
    applies: fn(Case) -> bool,
}

const METHODS: [&str; 4] = ["GET", "HEAD", "POST", "OPTIONS"];

const STATUSES: [u16; 12] = [200, 201, 204, 206, 302, 303, 307, 404, 405, 410, 500, 501];

const REQUESTS: [Fields; 20] = [
    &[],
    &[("cache-control", "no-store")],
    &[("cache-control", "no-cache")],
    &[("cache-control", "max-age=0")],
    &[("cache-control", "max-age=300")],
    &[("cache-control", "min-fresh=5")],
    &[("cache-control", "min-fresh=100000")],
    &[("cache-control", "max-stale")],
    &[("cache-control", "max-stale=5")],
    &[("cache-control", "only-if-cached")],
    &[("cache-control", "no-transform")],
    &[("cache-control", "NO-CACHE")],
    &[("cache-control", "\"")],
    &[("pragma", "no-cache")],
    &[("pragma", "no-cache"), ("cache-control", "max-stale")],
    &[("authorization", "Bearer x")],
    &[("if-none-match", "\"1\"")],
    &[("range", "bytes=0-1")],
    &[("accept", "text/html")],
    &[("content-length", "0")],
];

const RESPONSES: [Fields; 54] = [
    &[],
    &[("cache-control", "max-age=60")],
    &[("cache-control", "max-age=0")],
    &[("cache-control", "max-age=x")],
    &[("cache-control", "max-age=\"60\"")],
    &[("cache-control", "max-age=60, max-age=60")],
    &[("cache-control", "max-age=60, max-age=61")],
    &[("cache-control", "s-maxage=60")],
    &[("cache-control", "s-maxage=60, max-age=0")],
    &[("cache-control", "s-maxage=0, max-age=60")],
    &[("cache-control", "s-maxage=x, max-age=60")],
    &[("cache-control", "public")],
    &[("cache-control", "public, max-age=60")],
    &[("cache-control", "private, max-age=60")],
    &[("cache-control", "private=\"x\", max-age=60")],
    &[("cache-control", "no-store")],
    &[("cache-control", "no-store, max-age=60")],
    &[("cache-control", "No-Store, max-age=60")],
    &[("cache-control", "Max-Age=60")],
    &[("cache-control", "no-cache, max-age=60")],
    &[("cache-control", "no-cache=\"x\", max-age=60")],
    &[("cache-control", "must-revalidate, max-age=60")],
    &[("cache-control", "proxy-revalidate, max-age=60")],
    &[("cache-control", "must-understand, max-age=60")],
    &[("cache-control", "immutable")],
    &[("cache-control", "immutable, max-age=60")],
    &[("cache-control", "x=\"a, no-store, b\", max-age=60")],
    &[("cache-control", "x=\"open, max-age=60")],
    &[
        ("cache-control", "max-age=60"),
        ("cache-control", "private"),
    ],
    &[("pragma", "no-cache")],
    &[("pragma", "no-cache"), ("cache-control", "max-age=60")],
    &[("expires", "Fri, 01 Jan 2100 00:00:00 GMT")],
    &[("expires", "Thu, 01 Jan 1970 00:00:00 GMT")],
    &[("expires", "0")],
    &[("expires", "Thursday, 01-Jan-60 00:00:00 GMT")],
    &[
        ("expires", "Fri, 01 Jan 2100 00:00:00 GMT"),
        ("expires", "0"),
    ],
    &[("expires", "0"), ("cache-control", "max-age=60")],
    &[("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT")],
    &[("age", "30"), ("cache-control", "max-age=60")],
    &[("age", "90"), ("cache-control", "max-age=60")],
    &[("age", "90, 0"), ("cache-control", "max-age=60")],
    &[("age", "old"), ("cache-control", "max-age=60")],
    &[
        ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("cache-control", "max-age=60"),
    ],
    &[("vary", "*"), ("cache-control", "max-age=60")],
    &[("vary", "accept, *"), ("cache-control", "max-age=60")],
    &[("vary", "accept"), ("cache-control", "max-age=60")],
    &[("vary", "x-other"), ("cache-control", "max-age=60")],
    &[("set-cookie", "a=b")],
    &[("set-cookie", "a=b"), ("cache-control", "max-age=60")],
    &[
        ("set-cookie", "a=b"),
        ("cache-control", "public, max-age=60"),
    ],
    &[("trailer", "x-sum"), ("cache-control", "max-age=60")],
    &[
        ("content-range", "bytes 0-8/20"),
        ("cache-control", "max-age=60"),
    ],
    &[("content-length", "9"), ("cache-control", "max-age=60")],
    &[("content-length", "10"), ("cache-control", "max-age=60")],
];

/// The first difference that applies is the reason, so the order counts.
const DIFFERENCES: [Difference; 21] = [
    Difference {
        reason: "the oracle stores responses to POST; the layer answers GET and HEAD",
        from_cache: false,
        applies: |case| case.method == "POST",
    },
    Difference {
        reason: "5.2.1: the layer looks nothing up that the request could refuse, because a lookup \
                 skips schedulers; the oracle compares with the age",
        from_cache: false,
        applies: |case| {
            request_contains(case, "cache-control", "max-age=300")
                || request_contains(case, "cache-control", "min-fresh")
        },
    },
    Difference {
        reason: "5.2: names of directives are of any case; the oracle knows lower case only",
        from_cache: false,
        applies: |case| {
            request_contains(case, "cache-control", "NO-CACHE")
                || response_contains(case, "cache-control", "No-Store")
        },
    },
    Difference {
        reason: "5.2: names of directives are of any case; the oracle knows lower case only",
        from_cache: true,
        applies: |case| response_contains(case, "cache-control", "Max-Age"),
    },
    Difference {
        reason: "the layer leaves conditions and ranges to the inner service",
        from_cache: false,
        applies: |case| {
            has(case.request_fields, "if-none-match") || has(case.request_fields, "range")
        },
    },
    Difference {
        reason: "the layer keeps out of the cache what it cannot read",
        from_cache: false,
        applies: |case| {
            request_contains(case, "cache-control", "\"")
                || response_contains(case, "cache-control", "\"open")
        },
    },
    Difference {
        reason: "5.4: `pragma` counts only without `cache-control`",
        from_cache: true,
        applies: |case| {
            has(case.request_fields, "pragma") && has(case.request_fields, "cache-control")
        },
    },
    Difference {
        reason: "7.3 and RFC 6265: a cookie belongs to one client; the oracle stores it with \
                 `public`",
        from_cache: false,
        applies: |case| has(case.response_fields, "set-cookie"),
    },
    Difference {
        reason: "3.3: a part of a response, or one with trailers",
        from_cache: false,
        applies: |case| {
            has(case.response_fields, "trailer") || has(case.response_fields, "content-range")
        },
    },
    Difference {
        reason: "3.3: the body is not as long as `content-length`; the oracle sees no body",
        from_cache: false,
        applies: |case| {
            response_contains(case, "content-length", "10")
                || (case.status == 204 && has(case.response_fields, "content-length"))
        },
    },
    Difference {
        reason: "4.1: the layer stores by keys, and this field is not part of the key",
        from_cache: false,
        applies: |case| response_contains(case, "vary", "x-other"),
    },
    Difference {
        reason: "4.2.1: two lifetimes that differ are invalid; the oracle takes the first",
        from_cache: false,
        applies: |case| {
            response_contains(case, "cache-control", "max-age=61")
                || case
                    .response_fields
                    .iter()
                    .filter(|(name, _)| *name == "expires")
                    .count()
                    > 1
        },
    },
    Difference {
        reason: "5.1: of a list of ages the first counts; the oracle takes none",
        from_cache: false,
        applies: |case| response_contains(case, "age", "90, 0"),
    },
    Difference {
        reason: "4.2.3: `date` makes a response older; the oracle reads `age` only",
        from_cache: false,
        applies: |case| has(case.response_fields, "date"),
    },
    Difference {
        reason: "4.2.2: without a lifetime of its own, only a plain 200 is kept; the oracle keeps \
                 others by `last-modified` or `immutable`",
        from_cache: false,
        applies: |case| {
            case.status != 200
                && (has(case.response_fields, "last-modified")
                    || response_contains(case, "cache-control", "immutable"))
        },
    },
    Difference {
        reason: "3: the layer stores 302, 303, 307, 405 and 501 never: they are temporary, or of one \
                 method",
        from_cache: false,
        applies: |case| matches!(case.status, 302 | 303 | 307 | 405 | 501),
    },
    Difference {
        reason: "5.2.2.8: `proxy-revalidate` matters once a response is stale; the oracle takes it \
                 for stale at once",
        from_cache: true,
        applies: |case| response_contains(case, "cache-control", "proxy-revalidate"),
    },
    Difference {
        reason: "5.2: a comma in quotes ends no directive; the oracle splits there",
        from_cache: true,
        applies: |case| response_contains(case, "cache-control", "a, no-store"),
    },
    Difference {
        reason: "RFC 9110, section 5.6.7: dates have three forms; the oracle reads one",
        from_cache: true,
        applies: |case| response_contains(case, "expires", "Thursday,"),
    },
    Difference {
        reason: "4.2.2: a plain 200 without a lifetime is kept for the layer's time to live; the \
                 oracle keeps it by `last-modified`",
        from_cache: true,
        applies: |case| {
            let lifetime = has(case.response_fields, "expires")
                || response_contains(case, "cache-control", "max-age")
                || response_contains(case, "cache-control", "s-maxage");
            case.status == 200 && !lifetime
        },
    },
    Difference {
        reason: "4.2.4: the layer serves nothing that is stale, also where `max-stale` would allow it",
        from_cache: false,
        applies: |case| request_contains(case, "cache-control", "max-stale"),
    },
];

fn has(fields: Fields, name: &str) -> bool {
    fields.iter().any(|(known, _)| *known == name)
}

fn contains(fields: Fields, name: &str, part: &str) -> bool {
    let mut values = fields.iter().filter(|(known, _)| *known == name);
    values.any(|(_, value)| value.contains(part))
}

fn request_contains(case: Case, name: &str, part: &str) -> bool {
    contains(case.request_fields, name, part)
}

fn response_contains(case: Case, name: &str, part: &str) -> bool {
    contains(case.response_fields, name, part)
}

fn method(case: Case) -> Method {
    case.method.parse().expect("a method")
}

/// Returns all pairs of requests and responses for GET, and all responses with each method and
/// status.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for response_fields in RESPONSES {
        for request_fields in REQUESTS {
            cases.push(Case {
                method: "GET",
                request_fields,
                status: 200,
                response_fields,
            });
        }
        for method in METHODS {
            for status in STATUSES {
                cases.push(Case {
                    method,
                    request_fields: &[],
                    status,
                    response_fields,
                });
            }
        }
    }
    cases
}

async fn layer_answers_from_cache(layer: &Cache, path: &str, case: Case) -> bool {
    let origin = origin(case.response_fields).status(case.status);
    let get = || request(method(case), path, case.request_fields);
    origin.send(layer, get()).await;
    origin.send(layer, get()).await;
    origin.runs() == 1
}

fn response(case: Case) -> Response<()> {
    let mut response = Response::builder().status(case.status);
    for (name, value) in case.response_fields {
        response = response.header(*name, *value);
    }
    response.body(()).expect("a valid response")
}

/// Returns the headers with which the oracle answers the second request from its cache.
fn oracle_response(case: Case) -> Option<HeaderMap> {
    let request: Request<()> = request(method(case), "/a", case.request_fields);
    let options = CacheOptions::default();
    let now = SystemTime::now();
    let policy = CachePolicy::new_options(&request, &response(case), now, options);
    if !policy.is_storable() {
        return None;
    }
    match policy.before_request(&request, now + Duration::from_millis(1)) {
        BeforeRequest::Fresh(parts) => Some(parts.headers),
        BeforeRequest::Stale { .. } => None,
    }
}

#[tokio::test]
async fn each_difference_from_http_cache_semantics_has_a_reason() {
    let layer = layer(&client()).vary(["accept"]).allow_authorized(true);
    let mut seen = BTreeSet::new();
    let mut unexplained = Vec::new();
    for (at, case) in cases().into_iter().enumerate() {
        let from_cache = layer_answers_from_cache(&layer, &format!("/{at}"), case).await;
        if from_cache == oracle_response(case).is_some() {
            continue;
        }
        let mut all = DIFFERENCES.iter().enumerate();
        match all.find(|(_, one)| one.from_cache == from_cache && (one.applies)(case)) {
            Some((known, _)) => drop(seen.insert(known)),
            None => unexplained.push((from_cache, case)),
        }
    }
    let first: Vec<_> = unexplained.iter().take(40).collect();
    assert!(
        first.is_empty(),
        "{} differences without a reason: {first:#?}",
        unexplained.len()
    );
    for (at, difference) in DIFFERENCES.iter().enumerate() {
        assert!(
            seen.contains(&at),
            "no case shows the difference: {}",
            difference.reason
        );
    }
}

/// RFC 9111, section 3.1. A response with `set-cookie` is not stored at all.
#[tokio::test]
async fn the_fields_that_are_not_stored_are_those_of_the_oracle_and_of_the_rfc() {
    const RESPONSE: Fields = &[
        ("cache-control", "max-age=60"),
        ("connection", "x-hop, close"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authenticate", "Basic"),
        ("proxy-authentication-info", "nextnonce=1"),
        ("proxy-authorization", "Basic x"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("warning", "110 - stale"),
        ("ratelimit", "\"p\";r=1"),
        ("ratelimit-policy", "\"p\";q=1"),
        ("authentication-info", "nextnonce=1"),
        ("etag", "\"1\""),
        ("server", "shop"),
    ];
    /// Fields that only the oracle's response has.
    const ONLY_ORACLE: [&str; 4] = [
        // RFC 9111, section 3.1, and RFC 9110, section 7.6.1: fields of one connection or proxy.
        "proxy-authentication-info",
        "proxy-connection",
        // Fields for the client that caused the response.
        "ratelimit",
        "ratelimit-policy",
    ];
    /// Fields that only the layer's response has: RFC 9111, section 5.5, removed this one from the
    /// protocol.
    const ONLY_LAYER: [&str; 1] = ["warning"];

    use tower::{Layer, ServiceExt, service_fn};
    let case = Case {
        method: "GET",
        request_fields: &[],
        status: 200,
        response_fields: RESPONSE,
    };
    let service = layer(&client()).layer(service_fn(move |_: Request<()>| {
        let response = response(case).map(|()| Script::default().hint(0));
        std::future::ready(Ok::<_, std::convert::Infallible>(response))
    }));
    let get = || request(Method::GET, "/a", &[]);
    let first = service.clone().oneshot(get()).await.expect("infallible");
    http_body_util::BodyExt::collect(first.into_body())
        .await
        .expect("a body");
    let second = service.oneshot(get()).await.expect("infallible");
    let names = |headers: &HeaderMap| -> BTreeSet<String> {
        headers.keys().map(ToString::to_string).collect()
    };
    let (layer, oracle) = (
        names(second.headers()),
        names(&oracle_response(case).expect("the response is stored")),
    );
    assert!(layer.contains("age"));
    let only: Vec<_> = oracle.difference(&layer).collect();
    assert_eq!(only, ONLY_ORACLE);
    let only: Vec<_> = layer.difference(&oracle).collect();
    assert_eq!(only, ONLY_LAYER);
}
