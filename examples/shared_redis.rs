//! Two nodes that share one limit in Redis.
//!
//! `cargo run --features redis --example shared_redis -- redis://127.0.0.1:6379` makes two engines as
//! two processes on different machines would, sends each of them more requests than the limit
//! allows, prints what each accepted, and asserts that the sum is the limit. Without an argument it
//! uses the server at 127.0.0.1:6379.
#![allow(clippy::print_stdout)]

use std::convert::Infallible;
use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Request, Response, StatusCode};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_aperture::engine::shared::StoreAbsence;
use tower_aperture::policy::{ConcurrencyLimit, Policy, RateLimit};
use tower_aperture::redis::Redis;
use tower_aperture::{ApertureClient, ApertureLayer, Engine, Flow, FlowParams};

/// What all nodes together accept for one user at once.
const BURST: u32 = 10;
/// The exports that run on all nodes together.
const EXPORTS: u32 = 2;

fn policies() -> [Policy; 2] {
    // The bucket is filled so slowly that no token comes back while the example runs.
    let checkouts = RateLimit::per_day(BURST).by("user_id");
    let exports = ConcurrencyLimit::slots(EXPORTS);
    [
        Policy::new("per-user").at("checkout").limit(checkouts),
        Policy::new("exports").at("export").limit(exports),
    ]
}

/// Returns the client of one node. Nodes with the same prefix and policies share their limits.
fn node(url: &str, prefix: &str) -> Result<(ApertureClient, Redis), Box<dyn Error>> {
    let store = Redis::builder(url)
        .prefix(prefix)
        // Long enough for a busy machine. The default of 20 ms suits a server in the same network.
        .deadline(Duration::from_secs(2))
        // This example counts exactly. By default, a node decides by its share of the limit while
        // the server is away.
        .absence(StoreAbsence::Closed)
        .build()?;
    let mut engine = Engine::builder().shared(store.clone());
    for policy in policies() {
        engine = engine.policy(policy);
    }
    Ok((ApertureClient::embedded(engine.build()?), store))
}

/// Sends a user's requests to a node, one after the other. Returns how many were accepted.
async fn count_accepted(node: &ApertureClient, requests: u32) -> u32 {
    let layer = ApertureLayer::new(node.clone(), "checkout")
        .label_from_header("user_id", "x-user-id")
        .check_timeout(Duration::from_secs(5));
    let mut service =
        ServiceBuilder::new()
            .layer(layer)
            .service(service_fn(|_: Request<String>| async {
                Ok::<_, Infallible>(Response::new("thank you".to_owned()))
            }));
    let mut accepted = 0;
    for _ in 0..requests {
        let request = Request::get("/").header("x-user-id", "ann");
        let request = request.body(String::new()).expect("a valid request");
        let service = service.ready().await.expect("infallible");
        let response = service.call(request).await.expect("infallible");
        accepted += u32::from(response.status() == StatusCode::OK);
    }
    accepted
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1);
    let url = url.unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    // A prefix of its own for each run, so that no earlier run has used the limits.
    let started = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let prefix = format!("example:{}", started.as_nanos());
    let (first, store) = node(&url, &prefix)?;
    let (second, _) = node(&url, &prefix)?;

    let each = BURST;
    let accepted = [
        count_accepted(&first, each / 2).await,
        count_accepted(&second, each).await,
        count_accepted(&first, each).await,
    ];
    let total: u32 = accepted.iter().sum();
    let stats = store.stats();
    if stats.decided_without > 0 {
        return Err(format!("{url}: no Redis or Valkey answers here").into());
    }
    println!("one user may send {BURST} requests at once, on all nodes together");
    println!("node | requests | accepted");
    println!("-----|---------:|--------:");
    println!("1    | {:8} | {:8}", each / 2, accepted[0]);
    println!("2    | {each:8} | {:8}", accepted[1]);
    println!("1    | {each:8} | {:8}", accepted[2]);
    assert_eq!(total, BURST);

    // A slot that is held on one node is taken on all of them.
    let export = async |node: &ApertureClient| {
        let params = FlowParams::new().check_timeout(Duration::from_secs(5));
        node.start_flow("export", params).await
    };
    let held = [export(&first).await, export(&second).await];
    assert!(held.iter().all(Flow::should_run));
    assert!(!export(&first).await.should_run());
    drop(held);
    println!("\n{EXPORTS} exports ran on two nodes, and a third was rejected on both");
    Ok(())
}
