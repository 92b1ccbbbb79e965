//! Limits of tokens and of requests for each user of a language model, whose answers stream.
//!
//! The cost of an answer is known when it is complete: the check takes an estimate, and the body
//! settles the flow at its end. `cargo run --example llm_tokens` asserts what it prints, and
//! exits.
#![allow(clippy::print_stdout)]

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Extension;
use axum::{Router, routing::post};
use futures_util::stream::{self, StreamExt};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_aperture::engine::ManualClock;
use tower_aperture::layer::FlowHandle;
use tower_aperture::{ApertureClient, ApertureLayer, Engine, Labels, RequestHead};

/// 600 tokens a minute for each user, and at most 1000 at once.
const TOKENS: &str = "
blueprint: rate-limiting/base
policy:
  policy_name: tokens
  rate_limiter:
    bucket_capacity: 1000
    fill_amount: 600
    parameters: {interval: 60s, limit_by_label_key: user_id}
    request_parameters: {tokens_label_key: tokens}
    selectors: [{control_point: completions}]
";

/// Four requests a minute for each user. This limiter counts one for each flow, so it is not settled.
const REQUESTS: &str = "
blueprint: rate-limiting/base
policy:
  policy_name: requests
  rate_limiter:
    bucket_capacity: 4
    fill_amount: 4
    parameters: {interval: 60s, limit_by_label_key: user_id}
    selectors: [{control_point: completions}]
";

fn number(head: RequestHead<'_>, header: &str) -> u64 {
    let number = head.header(header).and_then(|text| text.parse().ok());
    number.unwrap_or(1000)
}

/// The tokens of the prompt, and the most that the answer may have.
fn estimate(head: RequestHead<'_>, labels: &mut Labels<'_>) {
    let tokens = number(head, "x-prompt-tokens") + number(head, "x-max-tokens");
    labels.insert("tokens", tokens.to_string());
}

/// The stand-in for a model: streams as many words as the request says, a token each.
async fn complete(Extension(flow): Extension<FlowHandle>, headers: HeaderMap) -> Body {
    let count = |name: &str| {
        let text = headers.get(name).and_then(|value| value.to_str().ok());
        text.and_then(|text| text.parse::<u32>().ok()).unwrap_or(0)
    };
    let tokens = count("x-prompt-tokens") + count("x-answer-tokens");
    let words = stream::repeat("word ").take(count("x-answer-tokens") as usize);
    let settle = stream::once(async move {
        // The last item is empty: it settles the flow before the body ends.
        if let Err(error) = flow.settle(f64::from(tokens)) {
            println!("the estimate counts: {error}");
        }
        ""
    });
    Body::from_stream(words.chain(settle).map(Ok::<_, Infallible>))
}

/// A request: when, by whom, its tokens, and what is expected of it.
struct Row {
    second: u64,
    user: &'static str,
    prompt: u32,
    max: u32,
    answer: u32,
    /// The tokens left after the check, or the seconds to wait after a rejection.
    expected: Result<u32, u32>,
}

const fn row(
    (second, user): (u64, &'static str),
    (prompt, max, answer): (u32, u32, u32),
    expected: Result<u32, u32>,
) -> Row {
    Row {
        second,
        user,
        prompt,
        max,
        answer,
        expected,
    }
}

const ROWS: [Row; 12] = [
    row((0, "ann"), (100, 700, 150), Ok(200)), // takes 800 and costs 250: 750 are left
    row((0, "ann"), (200, 500, 480), Ok(50)),  // takes 700 and costs 680: 70 are left
    row((0, "ann"), (100, 200, 200), Err(23)), // lacks 230 tokens, of 10 a second
    row((0, "bob"), (100, 700, 200), Ok(200)), // has a bucket of his own
    row((23, "ann"), (100, 200, 320), Ok(0)),  // costs more than its estimate: 120 are owed
    row((23, "ann"), (20, 30, 10), Err(17)),   // lacks the debt and 50 tokens
    row((40, "ann"), (20, 30, 10), Ok(0)),
    // Small requests of one user: the fifth waits for the limit of requests.
    row((40, "cem"), (1, 9, 4), Ok(990)),
    row((40, "cem"), (1, 9, 4), Ok(985)),
    row((40, "cem"), (1, 9, 4), Ok(980)),
    row((40, "cem"), (1, 9, 4), Ok(975)),
    row((40, "cem"), (1, 9, 4), Err(15)),
];

/// Returns the tokens that are left after the check, as the response states them.
fn tokens_left(headers: &HeaderMap) -> Option<u32> {
    let limits = headers.get("ratelimit")?.to_str().ok()?;
    let limit = limits.split(',').find(|limit| limit.contains("tokens/"))?;
    let left = limit.split(';').find_map(|part| part.strip_prefix("r="))?;
    left.parse().ok()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("tokens.yaml", TOKENS)
        .policy_text("requests.yaml", REQUESTS)
        .clock(clock.clone())
        .build()?;
    let layer = ApertureLayer::new(ApertureClient::embedded(engine), "completions")
        .label_from_header("user_id", "x-user-id")
        .labels(estimate)
        .reserve_label("tokens")
        .rate_limit_headers(true)
        .expose_flow();
    let app: Router = Router::new().route("/", post(complete)).layer(layer);

    println!("second  user  estimate  status  left  cost");
    let mut costs = [("ann", 0), ("bob", 0), ("cem", 0)];
    for row in &ROWS {
        clock.advance_to(Duration::from_secs(row.second));
        let request = Request::post("/")
            .header("x-user-id", row.user)
            .header("x-prompt-tokens", row.prompt)
            .header("x-max-tokens", row.max)
            .header("x-answer-tokens", row.answer)
            .body(Body::empty())?;
        let response = app.clone().oneshot(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        // The flow is settled when the body has ended.
        let body = response.into_body().collect().await?.to_bytes();

        let estimate = row.prompt + row.max;
        let (second, user, code) = (row.second, row.user, status.as_u16());
        match row.expected {
            Ok(expected) => {
                let cost = row.prompt + row.answer;
                let left = tokens_left(&headers).ok_or("the response states no tokens")?;
                println!("{second:>6}  {user}   {estimate:>8}  {code}  {left:>6}  {cost:>4}");
                assert_eq!((status, left), (StatusCode::OK, expected));
                assert_eq!(body.len(), row.answer as usize * "word ".len());
                let of_user = costs.iter_mut().find(|(name, _)| *name == user);
                of_user.ok_or("an unknown user")?.1 += cost;
            }
            Err(expected) => {
                let wait = headers["retry-after"].to_str()?;
                println!("{second:>6}  {user}   {estimate:>8}  {code}  retry after {wait} s");
                assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
                assert_eq!(wait.parse(), Ok(expected));
            }
        }
    }
    println!("tokens by user: {costs:?}");
    assert_eq!(costs, [("ann", 1380), ("bob", 300), ("cem", 20)]);
    Ok(())
}
