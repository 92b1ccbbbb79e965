//! Route tables: requests fall through to wider routes, and normalization finds other spellings.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::{Method, Request};
use proptest::prelude::*;
use tower::util::MapRequestLayer;
use tower::{Layer, ServiceExt};
use tower_aperture::client::{Script, ScriptedDecision};
use tower_aperture::layer::{RouteTable, Skip};
use tower_aperture::{ApertureLayer, RejectReason, RequestHead};

use crate::reading::{Inner, limited, request, send};

fn found<'t>(table: &'t RouteTable, line: &str) -> Option<&'t str> {
    let (method, target) = line.split_once(' ').expect("a method and a target");
    let request = Request::builder().method(method).uri(target).body(());
    let request = request.expect("a request");
    table.control_point(RequestHead::new(&request))
}

#[test]
fn a_route_without_the_method_is_ignored() {
    let table = RouteTable::new()
        .post("/checkout", "checkout")
        .get("/checkout/{id}", "show")
        .any("/checkout/{*rest}", "deeper")
        .delete("/checkout/{id}/items/{item}", "drop-item")
        .any("/status", Skip)
        .head("/probe", Skip)
        .any("/{*rest}", "rest")
        .get("/", "home")
        .fallback("none");
    for (line, expected) in [
        ("POST /checkout", Some("checkout")),
        ("GET /checkout", Some("rest")),
        ("DELETE /checkout", Some("rest")),
        ("BREW /checkout", Some("rest")),
        ("GET /checkout/7", Some("show")),
        ("HEAD /checkout/7", Some("show")),
        ("PUT /checkout/7", Some("deeper")),
        ("PUT /checkout/", Some("rest")),
        ("DELETE /checkout/7/items/8", Some("drop-item")),
        ("GET /checkout/7/items/8", Some("deeper")),
        ("GET /status", None),
        ("PATCH /status", None),
        ("HEAD /probe", None),
        ("GET /probe", Some("rest")),
        ("GET /", Some("home")),
        ("HEAD /", Some("home")),
        ("POST /", Some("none")),
    ] {
        assert_eq!(found(&table, line), expected, "{line}");
    }
}

#[tokio::test]
async fn other_methods_of_a_narrower_route_fall_through_to_the_wider_one() {
    let script = Script::new();
    script.otherwise(ScriptedDecision::reject(RejectReason::RateLimited));
    let routes = RouteTable::new()
        .put("/orders/{id}", "change-order")
        .any("/{*rest}", "rest");
    let layer = ApertureLayer::with_routes(script.client(), routes);
    let inner = Inner::default();
    for line in [
        "PUT /orders/7",
        "GET /orders/7",
        "HEAD /orders/7",
        "POST /a/b/c",
    ] {
        assert_eq!(send(&layer, &inner, request(line, &[])).await.status, 429);
    }
    assert_eq!(inner.ran(), 0);
    let flows = script.flows().into_iter();
    let names: Vec<_> = flows.map(|flow| flow.control_point).collect();
    assert_eq!(names, ["change-order", "rest", "rest", "rest"]);
}

// --- comparison with a slow table that tries every route

#[derive(Clone, Debug)]
struct Row {
    method: Option<Method>,
    path: String,
}

/// Ranks how a template matches a path, by segment: 2 for text, 1 for a parameter, 0 for the rest.
fn matches(template: &str, path: &str) -> Option<Vec<u8>> {
    let mut rank = Vec::new();
    let mut segments = path[1..].split('/');
    for part in template[1..].split('/') {
        if part == "{*r}" {
            let rest: Vec<_> = segments.collect();
            rank.push(0);
            return (!rest.concat().is_empty() || rest.len() > 1).then_some(rank);
        }
        let segment = segments.next()?;
        match part {
            "{p}" if !segment.is_empty() => rank.push(1),
            part if part == segment => rank.push(2),
            _ => return None,
        }
    }
    segments.next().is_none().then_some(rank)
}

fn find_by_trying_all<'t>(rows: &'t [Row], method: &Method, path: &str) -> Option<&'t Row> {
    let of = |method: Option<&Method>, row: &Row| row.method.as_ref() == method;
    let get = (*method == Method::HEAD).then_some(&Method::GET);
    let wanted = rows.iter().filter_map(|row| {
        let order = match () {
            () if of(Some(method), row) => 2,
            () if get.is_some() && of(get, row) => 1,
            () if of(None, row) => 0,
            () => return None,
        };
        Some((matches(&row.path, path)?, order, row))
    });
    wanted
        .max_by(|one, two| (&one.0, one.1).cmp(&(&two.0, two.1)))
        .map(|(.., row)| row)
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let segment = prop::sample::select(vec!["a", "b", "{p}"]);
    let path = (prop::collection::vec(segment, 1..4), any::<bool>()).prop_map(|(parts, rest)| {
        let mut path = format!("/{}", parts.join("/"));
        if rest {
            path.push_str("/{*r}");
        }
        path
    });
    let path = prop_oneof![4 => path, 1 => Just("/{*r}".to_owned())];
    let method = prop::sample::select(vec![
        None,
        Some(Method::GET),
        Some(Method::HEAD),
        Some(Method::POST),
    ]);
    let row = (method, path).prop_map(|(method, path)| Row { method, path });
    prop::collection::vec(row, 1..8).prop_map(|mut rows| {
        let mut seen = std::collections::HashSet::new();
        rows.retain(|row| seen.insert((row.method.clone(), row.path.clone())));
        rows
    })
}

proptest! {
    #[test]
    fn the_most_specific_route_with_the_method_is_found(
        rows in rows(),
        asked in prop::collection::vec(
            (prop::sample::select(vec!["GET", "HEAD", "POST", "PUT"]), "(/[abc]){1,4}"),
            1..12,
        ),
    ) {
        let mut table = RouteTable::new();
        for row in &rows {
            let name = format!("{:?} {}", row.method, row.path);
            table = match &row.method {
                Some(method) => table.route(method.clone(), &row.path, name),
                None => table.any(&row.path, name),
            };
        }
        for (method, path) in &asked {
            let method_of = Method::from_bytes(method.as_bytes()).expect("a method");
            let expected = find_by_trying_all(&rows, &method_of, path)
                .map(|row| format!("{:?} {}", row.method, row.path));
            let line = format!("{method} {path}");
            prop_assert_eq!(found(&table, &line), expected.as_deref(), "{}", line);
        }
    }
}

// --- spellings

const SPELLINGS: [&str; 13] = [
    "/shop/login",
    "/shop/login/",
    "//shop/login",
    "/shop//login//",
    "/./shop/login",
    "/shop/./login/.",
    "/x/../shop/login",
    "/../shop/y/z/../../login",
    "/shop/%6Cogin",
    "/shop/x/%2e%2E/login",
    "/%2e/shop/login",
    "/shop%2Flogin",
    "/shop%2f/login%2F",
];

#[test]
fn a_normalizing_table_finds_every_spelling_of_a_path() {
    let table = || {
        RouteTable::new()
            .post("/shop/login", "login")
            .fallback("none")
    };
    let (plain, normal) = (table(), table().normalize());
    for path in SPELLINGS {
        let line = format!("POST {path}");
        assert_eq!(found(&normal, &line), Some("login"), "{line}");
        let itself = path == SPELLINGS[0];
        let expected = if itself { "login" } else { "none" };
        assert_eq!(found(&plain, &line), Some(expected), "{line}");
    }
    for line in [
        "GET /shop/login",
        "POST /shop",
        "POST /shop/login/x",
        "POST /shop/login%252F",
    ] {
        assert_eq!(found(&normal, line), Some("none"), "{line}");
    }
}

#[test]
fn an_encoded_slash_is_first_tried_as_part_of_a_parameter() {
    let table = RouteTable::new()
        .get("/files/{name}", "file")
        .get("/files/{name}/versions", "versions")
        .get("/tree/{*path}", "tree")
        .get("/", "home")
        .fallback("none")
        .normalize();
    for (line, expected) in [
        ("GET /files/a%2Fb", "file"),
        ("GET /files/..%2Fsecret", "file"),
        ("GET /files/a/versions/", "versions"),
        ("GET /files/a%2Fversions", "file"),
        ("GET /files%2Fa", "file"),
        ("GET /tree/a//b/../c/", "tree"),
        ("GET //", "home"),
        ("GET /x/..", "home"),
        ("GET /x", "none"),
        ("GET /files%2Fa%2Fx", "none"),
    ] {
        assert_eq!(found(&table, line), Some(expected), "{line}");
    }
}

#[test]
fn a_table_with_routes_that_normalize_alike_is_refused() {
    let table = RouteTable::new().get("/a", "one").get("/a/", "two");
    let error = table.try_normalize().expect_err("refused");
    assert_eq!(
        error.to_string(),
        "the route `GET /a/`: the route already exists; remove one of the two"
    );
    // Routes that are added later are normalized as well.
    let table = RouteTable::new().normalize().any("/b//c", "one");
    assert!(table.clone().try_any("/b/./c/", "two").is_err());
    assert_eq!(found(&table, "GET /b/c/"), Some("one"));
    // Routes with different methods may normalize alike.
    let table = RouteTable::new().get("/d", "get").post("/d/", "post");
    let table = table.normalize();
    assert_eq!(found(&table, "GET /d/"), Some("get"));
    assert_eq!(found(&table, "POST /d"), Some("post"));
}

#[tokio::test]
async fn a_normalizing_router_is_limited_for_every_spelling() {
    // Normalizes as proxies and tower-http's `NormalizePath` do.
    let normalizing = MapRequestLayer::new(|mut request: Request<Body>| {
        let path = request.uri().path().replace("%2F", "/").replace("%2f", "/");
        let mut kept = Vec::new();
        for segment in path.split('/') {
            match segment.replace("%2e", ".").replace("%2E", ".").as_str() {
                "" | "." => {}
                ".." => drop(kept.pop()),
                segment => kept.push(segment.replace("%6C", "l")),
            }
        }
        let path = format!("/{}", kept.join("/"));
        *request.uri_mut() = path.parse().expect("a path");
        request
    });
    let router = Router::new().route("/shop/login", post(|| async { "in" }));
    let client = limited(1, "control_point: login", "");
    let routes = RouteTable::new().post("/shop/login", "login").normalize();
    let app = ApertureLayer::with_routes(client, routes).layer(normalizing.layer(router));
    let mut accepted = 0;
    for path in SPELLINGS {
        let request = Request::post(path).body(Body::empty()).expect("a request");
        let response: Result<_, Infallible> = app.clone().oneshot(request).await;
        let Ok(response) = response;
        match response.status().as_u16() {
            200 => accepted += 1,
            429 => {}
            other => panic!("{path}: status {other}"),
        }
    }
    assert_eq!(accepted, 1);
}
