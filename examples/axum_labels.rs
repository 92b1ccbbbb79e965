//! Labels and control points from requests: the route, a header, the query, the client's address.
//!
//! `cargo run --example axum_labels` starts a server, sends requests, asserts the responses and
//! exits.
#![allow(clippy::print_stdout)]

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, MatchedPath};
use axum::{Router, body::Body, routing::get};
use http::Request;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower_aperture::layer::{ClientAddress, client_ip, header, joined, path_template, query};
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

/// One route allows two requests an hour per tenant and plan, another one three per address.
const POLICY: &str = "
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{control_point: '/reports/{id}'}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 2}}
          fill_amount: {constant_signal: {value: 2}}
        parameters: {interval: 3600s, limit_by_label_key: tenant_plan}
  - flow_control:
      rate_limiter:
        selectors: [{control_point: /login}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 3}}
          fill_amount: {constant_signal: {value: 3}}
        parameters: {interval: 3600s, limit_by_label_key: ip}
";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder().policy_text("limits", POLICY).build()?;
    let client = ApertureClient::embedded(engine);

    // The template of the route is the control point. Client addresses come from the trusted proxy.
    let peer = ClientAddress::of(|ConnectInfo(peer): &ConnectInfo<SocketAddr>| Some(*peer));
    let layer = ApertureLayer::with_control_point(
        client,
        path_template::<MatchedPath>(MatchedPath::as_str),
    )
    .label_from("ip", client_ip(peer.trust("127.0.0.0/8")))
    .label_from("tenant_plan", joined((header("x-tenant"), query("plan"))));
    let app = Router::new()
        .route("/reports/{id}", get(async || "a report"))
        .route("/login", get(async || "welcome"))
        .route_layer(layer);

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });

    let http = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let send = async |path: &str, name: &str, value: &str| {
        let request = Request::get(format!("http://{address}{path}")).header(name, value);
        let response = http.request(request.body(Body::empty())?).await?;
        Ok::<_, Box<dyn std::error::Error>>(response.status().as_u16())
    };

    // A different id is the same route, and a different plan is a different key.
    assert_eq!(send("/reports/1?plan=free", "x-tenant", "acme").await?, 200);
    assert_eq!(send("/reports/2?plan=free", "x-tenant", "acme").await?, 200);
    assert_eq!(send("/reports/3?plan=free", "x-tenant", "acme").await?, 429);
    assert_eq!(send("/reports/3?plan=pro", "x-tenant", "acme").await?, 200);
    // Addresses that a client adds before its own are ignored.
    for forged in ["1.1.1.1", "2.2.2.2", "3.3.3.3"] {
        let hops = format!("{forged}, 192.0.2.7");
        assert_eq!(send("/login", "x-forwarded-for", &hops).await?, 200);
    }
    assert_eq!(send("/login", "x-forwarded-for", "192.0.2.7").await?, 429);
    assert_eq!(send("/login", "x-forwarded-for", "192.0.2.8").await?, 200);
    println!("limited by route, tenant, plan and address");
    Ok(())
}
