//! The cache beside `http-cache-semantics`: each difference is listed, with its reason.

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
    asks: Fields,
    status: u16,
    says: Fields,
}

/// A difference between the layer and the oracle.
struct Difference {
    reason: &'static str,
    /// What the layer does with the second request: answers it from the cache, or not.
    answers: bool,
    applies: fn(Case) -> bool,
}

const METHODS: [&str; 4] = ["GET", "HEAD", "POST", "OPTIONS"];

const STATUSES: [u16; 12] = [200, 201, 204, 206, 302, 303, 307, 404, 405, 410, 500, 501];

const ASKS: [Fields; 20] = [
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

const SAYS: [Fields; 54] = [
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

/// In this order: the first that applies is the reason.
const DIFFERENCES: [Difference; 21] = [
    Difference {
        reason: "the oracle stores responses to POST; the layer answers GET and HEAD",
        answers: false,
        applies: |case| case.method == "POST",
    },
    Difference {
        reason: "5.2.1: the layer looks nothing up that the request could refuse, because a lookup \
                 skips schedulers; the oracle compares with the age",
        answers: false,
        applies: |case| {
            asks(case, "cache-control", "max-age=300") || asks(case, "cache-control", "min-fresh")
        },
    },
    Difference {
        reason: "5.2: names of directives are of any case; the oracle knows lower case only",
        answers: false,
        applies: |case| {
            asks(case, "cache-control", "NO-CACHE") || says(case, "cache-control", "No-Store")
        },
    },
    Difference {
        reason: "5.2: names of directives are of any case; the oracle knows lower case only",
        answers: true,
        applies: |case| says(case, "cache-control", "Max-Age"),
    },
    Difference {
        reason: "the layer leaves conditions and ranges to the inner service",
        answers: false,
        applies: |case| has(case.asks, "if-none-match") || has(case.asks, "range"),
    },
    Difference {
        reason: "the layer keeps out of the cache what it cannot read",
        answers: false,
        applies: |case| asks(case, "cache-control", "\"") || says(case, "cache-control", "\"open"),
    },
    Difference {
        reason: "5.4: `pragma` counts only without `cache-control`",
        answers: true,
        applies: |case| has(case.asks, "pragma") && has(case.asks, "cache-control"),
    },
    Difference {
        reason: "7.3 and RFC 6265: a cookie belongs to one client; the oracle stores it with \
                 `public`",
        answers: false,
        applies: |case| has(case.says, "set-cookie"),
    },
    Difference {
        reason: "3.3: a part of a response, or one with trailers",
        answers: false,
        applies: |case| has(case.says, "trailer") || has(case.says, "content-range"),
    },
    Difference {
        reason: "3.3: the body is not as long as it says; the oracle sees no body",
        answers: false,
        applies: |case| {
            says(case, "content-length", "10")
                || (case.status == 204 && has(case.says, "content-length"))
        },
    },
    Difference {
        reason: "4.1: the layer stores by keys, and this field is not part of the key",
        answers: false,
        applies: |case| says(case, "vary", "x-other"),
    },
    Difference {
        reason: "4.2.1: two lifetimes that differ are invalid; the oracle takes the first",
        answers: false,
        applies: |case| {
            says(case, "cache-control", "max-age=61")
                || case
                    .says
                    .iter()
                    .filter(|(name, _)| *name == "expires")
                    .count()
                    > 1
        },
    },
    Difference {
        reason: "5.1: of a list of ages the first counts; the oracle takes none",
        answers: false,
        applies: |case| says(case, "age", "90, 0"),
    },
    Difference {
        reason: "4.2.3: `date` makes a response older; the oracle reads `age` only",
        answers: false,
        applies: |case| has(case.says, "date"),
    },
    Difference {
        reason: "4.2.2: without a lifetime of its own, only a plain 200 is kept; the oracle keeps \
                 others by `last-modified` or `immutable`",
        answers: false,
        applies: |case| {
            case.status != 200
                && (has(case.says, "last-modified") || says(case, "cache-control", "immutable"))
        },
    },
    Difference {
        reason: "3: the layer stores 302, 303, 307, 405 and 501 never: they are temporary, or of one \
                 method",
        answers: false,
        applies: |case| matches!(case.status, 302 | 303 | 307 | 405 | 501),
    },
    Difference {
        reason: "5.2.2.8: `proxy-revalidate` matters once a response is stale; the oracle takes it \
                 for stale at once",
        answers: true,
        applies: |case| says(case, "cache-control", "proxy-revalidate"),
    },
    Difference {
        reason: "5.2: a comma in quotes ends no directive; the oracle splits there",
        answers: true,
        applies: |case| says(case, "cache-control", "a, no-store"),
    },
    Difference {
        reason: "RFC 9110, section 5.6.7: dates have three forms; the oracle reads one",
        answers: true,
        applies: |case| says(case, "expires", "Thursday,"),
    },
    Difference {
        reason: "4.2.2: a plain 200 without a lifetime is kept for the layer's time to live; the \
                 oracle keeps it by `last-modified`",
        answers: true,
        applies: |case| {
            let lifetime = has(case.says, "expires")
                || says(case, "cache-control", "max-age")
                || says(case, "cache-control", "s-maxage");
            case.status == 200 && !lifetime
        },
    },
    Difference {
        reason: "4.2.4: the layer serves nothing that is stale, also where `max-stale` would allow it",
        answers: false,
        applies: |case| asks(case, "cache-control", "max-stale"),
    },
];

fn has(fields: Fields, name: &str) -> bool {
    fields.iter().any(|(known, _)| *known == name)
}

fn contains(fields: Fields, name: &str, part: &str) -> bool {
    let mut values = fields.iter().filter(|(known, _)| *known == name);
    values.any(|(_, value)| value.contains(part))
}

fn asks(case: Case, name: &str, part: &str) -> bool {
    contains(case.asks, name, part)
}

fn says(case: Case, name: &str, part: &str) -> bool {
    contains(case.says, name, part)
}

fn method(case: Case) -> Method {
    case.method.parse().expect("a method")
}

/// All requests with all responses of a plain GET, and all methods and statuses.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for says in SAYS {
        for asks in ASKS {
            cases.push(Case {
                method: "GET",
                asks,
                status: 200,
                says,
            });
        }
        for method in METHODS {
            for status in STATUSES {
                cases.push(Case {
                    method,
                    asks: &[],
                    status,
                    says,
                });
            }
        }
    }
    cases
}

async fn layer_answers(layer: &Cache, path: &str, case: Case) -> bool {
    let origin = origin(case.says).status(case.status);
    let ask = || request(method(case), path, case.asks);
    origin.ask(layer, ask()).await;
    origin.ask(layer, ask()).await;
    origin.runs() == 1
}

fn response(case: Case) -> Response<()> {
    let mut response = Response::builder().status(case.status);
    for (name, value) in case.says {
        response = response.header(*name, *value);
    }
    response.body(()).expect("a sound response")
}

/// The oracle, of the second request a moment later.
fn oracle_answers(case: Case) -> Option<HeaderMap> {
    let request: Request<()> = request(method(case), "/a", case.asks);
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
        let answers = layer_answers(&layer, &format!("/{at}"), case).await;
        if answers == oracle_answers(case).is_some() {
            continue;
        }
        let mut all = DIFFERENCES.iter().enumerate();
        match all.find(|(_, one)| one.answers == answers && (one.applies)(case)) {
            Some((known, _)) => drop(seen.insert(known)),
            None => unexplained.push((answers, case)),
        }
    }
    let first: Vec<_> = unexplained.iter().take(40).collect();
    assert!(
        first.is_empty(),
        "{} without a reason: {first:#?}",
        unexplained.len()
    );
    for (at, difference) in DIFFERENCES.iter().enumerate() {
        assert!(seen.contains(&at), "never seen: {}", difference.reason);
    }
}

/// RFC 9111, section 3.1, and `set-cookie`, with which nothing is stored at all.
#[tokio::test]
async fn fields_that_are_never_stored_are_those_of_the_oracle_and_of_the_rfc() {
    const SAYS: Fields = &[
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
    /// Not in the answer of the layer, but in that of the oracle.
    const ONLY_ORACLE: [&str; 4] = [
        // RFC 9111, section 3.1, and RFC 9110, section 7.6.1: of one connection or proxy.
        "proxy-authentication-info",
        "proxy-connection",
        // They are of the client that caused the response.
        "ratelimit",
        "ratelimit-policy",
    ];
    /// In the answer of the layer, but not in that of the oracle: RFC 9111, section 5.5, took the
    /// field out of the protocol.
    const ONLY_LAYER: [&str; 1] = ["warning"];

    use tower::{Layer, ServiceExt, service_fn};
    let case = Case {
        method: "GET",
        asks: &[],
        status: 200,
        says: SAYS,
    };
    let service = layer(&client()).layer(service_fn(move |_: Request<()>| {
        let response = response(case).map(|()| Script::default().hint(0));
        std::future::ready(Ok::<_, std::convert::Infallible>(response))
    }));
    let get = || request(Method::GET, "/a", &[]);
    let first = service
        .clone()
        .oneshot(get())
        .await
        .expect("it never fails");
    http_body_util::BodyExt::collect(first.into_body())
        .await
        .expect("a body");
    let second = service.oneshot(get()).await.expect("it never fails");
    let names = |headers: &HeaderMap| -> BTreeSet<String> {
        headers.keys().map(ToString::to_string).collect()
    };
    let (layer, oracle) = (
        names(second.headers()),
        names(&oracle_answers(case).expect("it is stored")),
    );
    assert!(layer.contains("age"));
    let only: Vec<_> = oracle.difference(&layer).collect();
    assert_eq!(only, ONLY_ORACLE);
    let only: Vec<_> = layer.difference(&oracle).collect();
    assert_eq!(only, ONLY_LAYER);
}
