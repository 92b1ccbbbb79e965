//! An axum service with a token bucket per user, and a burst of requests that shows the limit.
//!
//! `cargo run --example quickstart` decides in process, asserts what it prints, and exits.
//! `cargo run --example quickstart -- --serve` keeps serving and prints commands to try.
//! If `APERTURE_AGENT_ADDRESS` is set, that Agent decides instead, with its own policies.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::{Request, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower_aperture::policy::{Policy, RateLimit};
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

/// A burst of requests for each user, and then one more in each interval.
const CAPACITY: usize = 5;
const REFILL: Duration = Duration::from_secs(1);

const USERS: [&str; 3] = ["ann", "bob", "cem"];
const BURST: usize = 8;

type AnyError = Box<dyn Error + Send + Sync>;

/// The same limit as the file `examples/policies/per-user-rate-limit.yaml`.
fn policy() -> Policy {
    Policy::new("per-user-rate-limit")
        .at("checkout")
        .limit(RateLimit::every(REFILL).burst(CAPACITY).by("user_id"))
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let remote = std::env::var_os("APERTURE_AGENT_ADDRESS").is_some();
    let client = if remote {
        ApertureClient::from_env()?
    } else {
        ApertureClient::embedded(Engine::builder().policy(policy()).build()?)
    };

    let app = Router::new()
        .route("/checkout/{id}", post(|| async { "thank you\n" }))
        .route_layer(
            ApertureLayer::new(client.clone(), "checkout")
                .label_from_header("user_id", "x-user-id"),
        );

    let serve = std::env::args().any(|arg| arg == "--serve");
    let port = if serve { 3000 } else { 0 };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    if serve {
        println!("Serving on http://{address}. Each user has {CAPACITY} tokens; try, in a loop:\n");
        println!("  curl -i -X POST -H 'x-user-id: ann' http://{address}/checkout/1");
        println!("  curl -i -X POST -H 'x-user-id: bob' http://{address}/checkout/1");
        println!("\nCtrl-C to stop.");
        tokio::signal::ctrl_c().await?;
    } else {
        burst(address, !remote).await?;
    }

    server.abort();
    client.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

/// The responses to one user's burst.
struct Tally {
    user: &'static str,
    accepted: usize,
    rejected: usize,
    retry_after: Option<u64>,
    took: Duration,
}

async fn burst(address: SocketAddr, check: bool) -> Result<(), AnyError> {
    let http = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let send = |user: &'static str| {
        let request = Request::post(format!("http://{address}/checkout/1"))
            .header("x-user-id", user)
            .body(Body::empty());
        let http = http.clone();
        async move { Ok::<_, AnyError>(http.request(request?).await?) }
    };

    println!(
        "{BURST} requests a user; a bucket holds {CAPACITY} tokens and gets one every {REFILL:?}\n"
    );
    println!("user  accepted  rejected  retry-after  after waiting that long");
    for user in USERS {
        let start = Instant::now();
        let mut tally = Tally {
            user,
            accepted: 0,
            rejected: 0,
            retry_after: None,
            took: Duration::ZERO,
        };
        for response in futures_util::future::join_all((0..BURST).map(|_| send(user))).await {
            let response = response?;
            match response.status() {
                StatusCode::OK => tally.accepted += 1,
                StatusCode::TOO_MANY_REQUESTS => {
                    tally.rejected += 1;
                    let value = response.headers().get(header::RETRY_AFTER);
                    tally.retry_after = value.and_then(|value| value.to_str().ok()?.parse().ok());
                }
                other => return Err(format!("{user} got an unexpected {other}").into()),
            }
        }
        tally.took = start.elapsed();

        let again = match tally.retry_after {
            Some(seconds) => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                send(user).await?.status().to_string()
            }
            None => "-".to_owned(),
        };
        println!(
            "{user:<5} {:>8}  {:>8}  {:>9} s  {again}",
            tally.accepted,
            tally.rejected,
            tally
                .retry_after
                .map_or("-".to_owned(), |seconds| seconds.to_string()),
        );
        if check {
            assert_limits(&tally, &again);
        }
    }
    if check {
        println!("\nThe responses match the policy.");
    }
    Ok(())
}

fn assert_limits(tally: &Tally, again: &str) {
    // Zero, unless the machine paused for longer than a refill takes.
    let refilled = (tally.took.as_nanos() / REFILL.as_nanos()) as usize;
    let user = tally.user;
    assert!(
        (CAPACITY..=CAPACITY + refilled).contains(&tally.accepted),
        "{user}: as many requests as the bucket holds are accepted"
    );
    assert_eq!(
        tally.accepted + tally.rejected,
        BURST,
        "{user}: the other requests get 429"
    );
    if refilled == 0 {
        let waits =
            REFILL.saturating_sub(tally.took).as_secs_f64().ceil() as u64..=REFILL.as_secs();
        let retry_after = tally.retry_after.expect("a rejection has `retry-after`");
        assert!(
            waits.contains(&retry_after),
            "{user}: `retry-after` matches the fill rate"
        );
        assert_eq!(
            again, "200 OK",
            "{user}: one more is accepted after the wait"
        );
    }
}
