//! `RateLimit` headers, as a parser of Structured Fields reads them.
#![cfg(all(feature = "embedded", feature = "remote"))]

use std::convert::Infallible;
use std::time::Duration;

use crate::layer_support::inner::{Body, hello};
use crate::support::agent::{FakeAgent, Reply, answer};
use http::{HeaderMap, Request, Response};
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::engine::{EngineBuilder, ManualClock};
use tower_aperture::pb::check::check_response::RejectReason as Reason;
use tower_aperture::pb::check::limiter_decision::{
    Details, QuotaSchedulerInfo, RateLimiterInfo, TokensInfo,
};
use tower_aperture::pb::check::{CheckResponse, LimiterDecision};
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

async fn head<R>(layer: &ApertureLayer<ApertureClient, R>, user: &str) -> (u16, HeaderMap)
where
    R: tower_aperture::layer::OnReject<Body>,
{
    let inner = service_fn(async |request: Request<()>| {
        let mut response = hello();
        if let Some(own) = request.headers().get("x-own") {
            response.headers_mut().append("ratelimit", own.clone());
        }
        Ok::<Response<Body>, Infallible>(response)
    });
    let request = Request::get("/").header("x-user-id", user);
    let request = request.header("x-own", "\"mine\";r=7").body(());
    let response = layer.layer(inner).oneshot(request.expect("a request"));
    let response = response.await.expect("a response");
    (response.status().as_u16(), response.headers().clone())
}

/// Returns the members of a header's list, as name and parameters.
fn list(headers: &HeaderMap, field: &str) -> Vec<(String, Vec<(String, i64)>)> {
    let values: Vec<_> = headers.get_all(field).iter().collect();
    let text = values
        .iter()
        .map(|value| value.to_str().expect("ASCII"))
        .collect::<Vec<_>>()
        .join(", ");
    let list: sfv::List = sfv::Parser::new(&text).parse().expect("a list");
    let member = |entry: &sfv::ListEntry| {
        let sfv::ListEntry::Item(item) = entry else {
            panic!("the list has no inner lists")
        };
        let name = item.bare_item.as_string().expect("a string").to_string();
        let params = item.params.iter().map(|(key, value)| {
            let number = value.as_integer().expect("an integer");
            (key.to_string(), i64::from(number))
        });
        (name, params.collect())
    };
    list.iter().map(member).collect()
}

fn item(name: &str, params: &[(&str, i64)]) -> (String, Vec<(String, i64)>) {
    let params = params
        .iter()
        .map(|(key, value)| ((*key).to_owned(), *value));
    (name.to_owned(), params.collect())
}

fn engine(policies: &[(&str, &str)]) -> (EngineBuilder, ManualClock) {
    let clock = ManualClock::new();
    let mut engine = Engine::builder().clock(clock.clone());
    for (name, text) in policies {
        engine = engine.policy_text(*name, *text);
    }
    (engine, clock)
}

fn layer(engine: EngineBuilder) -> ApertureLayer<ApertureClient> {
    let client = ApertureClient::embedded(engine.build().expect("a policy"));
    ApertureLayer::new(client, "checkout")
        .label_from_header("user_id", "x-user-id")
        .rate_limit_headers(true)
}

const PER_USER: &str = "
blueprint: rate-limiting/base
policy:
  policy_name: per-user
  rate_limiter:
    bucket_capacity: 3
    fill_amount: 1
    parameters: {interval: 10s, limit_by_label_key: user_id}
    selectors: [{control_point: checkout}]
";

#[tokio::test]
async fn rate_limit_headers_report_remaining_tokens_and_the_time_until_full() {
    let (engine, clock) = engine(&[("p", PER_USER)]);
    let layer = layer(engine).baggage(false);
    let name = "per-user/root.0";
    for (left, full_in) in [(2, 10), (1, 20), (0, 30)] {
        let (status, headers) = head(&layer, "ann").await;
        assert_eq!(status, 200);
        let policy = list(&headers, "ratelimit-policy");
        assert_eq!(policy, [item(name, &[("q", 3), ("w", 30)])]);
        let limit = list(&headers, "ratelimit");
        let mine = item("mine", &[("r", 7)]);
        let own = item(name, &[("r", left), ("t", full_in)]);
        assert_eq!(limit, [mine, own], "the service's own value is kept");
    }
    clock.advance(Duration::from_millis(2500));
    let (status, headers) = head(&layer, "ann").await;
    assert_eq!(status, 429);
    assert_eq!(headers["retry-after"], "8");
    let limit = list(&headers, "ratelimit");
    assert_eq!(limit, [item(name, &[("r", 0), ("t", 8)])]);
    assert_eq!(list(&headers, "ratelimit-policy").len(), 1);

    let (_, headers) = head(&layer, "ben").await;
    let limit = &list(&headers, "ratelimit")[1];
    assert_eq!(
        *limit,
        item(name, &[("r", 2), ("t", 10)]),
        "another key has its own bucket"
    );
    for text in headers.values() {
        let text = text.to_str().expect("ASCII");
        assert!(!text.contains("ben") && !text.contains("user_id"));
    }
}

#[tokio::test]
async fn checks_by_attributes_report_the_same_quotas() {
    let (engine, _) = engine(&[("p", PER_USER)]);
    let layer = layer(engine).check_http();
    let (_, headers) = head(&layer, "ann").await;
    let limit = &list(&headers, "ratelimit")[1];
    assert_eq!(*limit, item("per-user/root.0", &[("r", 2), ("t", 10)]));
}

#[tokio::test]
async fn rate_limit_headers_are_sent_only_when_configured() {
    let (engine, _) = engine(&[("p", PER_USER)]);
    let layer = layer(engine).rate_limit_headers(false);
    for status in [200, 200, 200, 429] {
        let (got, headers) = head(&layer, "ann").await;
        assert_eq!(got, status);
        assert!(!headers.contains_key("ratelimit-policy"));
        assert!(
            headers
                .get_all("ratelimit")
                .iter()
                .all(|own| own == "\"mine\";r=7")
        );
    }
}

#[tokio::test]
async fn responses_of_reject_hooks_have_rate_limit_headers() {
    let (engine, _) = engine(&[("p", PER_USER)]);
    let layer = layer(engine).on_reject(|_, _| Response::new(Body::from("later")));
    for _ in 0..3 {
        head(&layer, "ann").await;
    }
    let (status, headers) = head(&layer, "ann").await;
    assert_eq!(
        (status, headers.get("retry-after")),
        (200, None),
        "the hook sets the status"
    );
    let limit = list(&headers, "ratelimit");
    assert_eq!(limit, [item("per-user/root.0", &[("r", 0), ("t", 10)])]);
}

/// A limiter without a bucket for the flow reports no quota. A bucket that is never filled has no
/// window.
#[tokio::test]
async fn the_list_has_every_limiter_with_a_quota() {
    let quota = "
circuit:
  components:
  - flow_control:
      quota_scheduler:
        selectors: [{control_point: checkout}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 10.5}}
          fill_amount: {constant_signal: {value: 0}}
        rate_limiter: {interval: 1s}
        scheduler: {}
  - flow_control:
      concurrency_limiter:
        selectors: [{control_point: checkout}]
        in_ports: {max_concurrency: {constant_signal: {value: 5}}}
        parameters: {max_inflight_duration: 60s}
  - flow_control:
      rate_limiter:
        selectors: [{control_point: checkout}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 5}}
          fill_amount: {constant_signal: {value: 1}}
        parameters: {interval: 1s, limit_by_label_key: not_there}
";
    let (engine, _) = engine(&[
        ("per-user", &PER_USER.replace("per-user", r"per\user")),
        ("für \"alle\"", quota),
    ]);
    let (_, headers) = head(&layer(engine), "ann").await;
    let mut policy = list(&headers, "ratelimit-policy");
    policy.sort();
    assert_eq!(
        policy,
        [
            item("f_r \"alle\"/root.0", &[("q", 10)]),
            item(r"per\user/root.0", &[("q", 3), ("w", 30)]),
        ]
    );
    let mut limit = list(&headers, "ratelimit");
    limit.sort();
    assert_eq!(
        limit,
        [
            item("f_r \"alle\"/root.0", &[("r", 9)]),
            item("mine", &[("r", 7)]),
            item(r"per\user/root.0", &[("r", 2), ("t", 10)]),
        ]
    );
}

#[tokio::test]
async fn after_a_rejection_only_the_rejecting_limiter_reports_a_time() {
    let all = PER_USER
        .replace("per-user", "all")
        .replace("capacity: 3", "capacity: 1")
        .replace("user_id", "nobody_");
    let all = all.replace(", limit_by_label_key: nobody_", "");
    let (engine, _) = engine(&[("per-user", PER_USER), ("all", &all)]);
    let layer = layer(engine);
    assert_eq!(head(&layer, "ann").await.0, 200);
    let (status, headers) = head(&layer, "ben").await;
    assert_eq!(status, 429);
    let mut limit = list(&headers, "ratelimit");
    limit.sort();
    assert_eq!(
        limit,
        [
            item("all/root.0", &[("r", 0), ("t", 10)]),
            item("per-user/root.0", &[("r", 2)]),
        ]
    );
}

#[tokio::test]
async fn a_flow_that_waited_has_rate_limit_headers() {
    let text = "
circuit:
  components:
  - flow_control:
      quota_scheduler:
        selectors: [{control_point: checkout}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 1}}
          fill_amount: {constant_signal: {value: 1}}
        rate_limiter: {interval: 4s}
        scheduler: {default_workload_parameters: {queue_timeout: 60s}}
";
    let (engine, clock) = engine(&[("paced", text)]);
    let layer = layer(engine).check_timeout(Duration::from_secs(60));
    assert_eq!(head(&layer, "ann").await.0, 200);
    let waiting = layer.clone();
    let mut waiting = std::pin::pin!(head(&waiting, "ann"));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    clock.advance(Duration::from_secs(4));
    let (status, headers) = waiting.await;
    assert_eq!(status, 200);
    let policy = list(&headers, "ratelimit-policy");
    assert_eq!(policy, [item("paced/root.0", &[("q", 1), ("w", 4)])]);
    assert_eq!(list(&headers, "ratelimit")[1].1[0], ("r".to_owned(), 0));
}

fn decision(dropped: bool, details: Details) -> LimiterDecision {
    LimiterDecision {
        policy_name: "remote".to_owned(),
        component_id: "root.3".to_owned(),
        dropped,
        details: Some(details),
        wait_time: Some(prost_duration(1, 500_000_000)),
        ..LimiterDecision::default()
    }
}

fn prost_duration(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

fn tokens(remaining: f64, current: f64) -> Option<TokensInfo> {
    Some(TokensInfo {
        remaining,
        current,
        consumed: 1.0,
    })
}

#[tokio::test]
async fn with_an_agent_the_headers_report_tokens_and_no_windows() {
    let agent = FakeAgent::start();
    let client = ApertureClient::builder().address(agent.address());
    let client = client
        .insecure(true)
        .check_timeout(crate::layer_support::HANG);
    let client = client.build().expect("a client");
    let layer = ApertureLayer::new(client, "checkout").rate_limit_headers(true);
    let rate = |remaining, current| {
        Details::RateLimiterInfo(RateLimiterInfo {
            label: "user_id:ann".to_owned(),
            tokens_info: tokens(remaining, current),
        })
    };
    agent.on_check(move |request| {
        Reply::Now(CheckResponse {
            limiter_decisions: vec![
                decision(false, rate(3.5, 6.5)),
                decision(
                    false,
                    Details::QuotaSchedulerInfo(QuotaSchedulerInfo {
                        tokens_info: tokens(-2.0, 12.0),
                        ..QuotaSchedulerInfo::default()
                    }),
                ),
                decision(false, rate(f64::NAN, f64::INFINITY)),
                // The limiter looked at no bucket.
                decision(false, rate(0.0, 0.0)),
                answer::limiter(false),
            ],
            ..answer::accepted(request)
        })
    });
    let (_, headers) = head(&layer, "ann").await;
    let policy = list(&headers, "ratelimit-policy");
    assert_eq!(policy[0], item("remote/root.3", &[("q", 10)]));
    assert_eq!(policy[1], item("remote/root.3", &[("q", 10)]));
    assert_eq!(policy.len(), 3);
    let limit = list(&headers, "ratelimit");
    assert_eq!(limit[1], item("remote/root.3", &[("r", 3)]));
    assert_eq!(
        limit[2],
        item("remote/root.3", &[("r", 0)]),
        "a negative number of tokens is zero"
    );
    assert_eq!(limit[3], item("remote/root.3", &[("r", 0)]), "NaN is zero");

    agent.on_check(move |request| {
        Reply::Now(CheckResponse {
            limiter_decisions: vec![decision(true, rate(0.5, 9.5))],
            ..answer::rejected(request, Reason::RateLimited)
        })
    });
    let (status, headers) = head(&layer, "ann").await;
    assert_eq!(status, 429);
    let limit = list(&headers, "ratelimit");
    assert_eq!(limit, [item("remote/root.3", &[("r", 0), ("t", 2)])]);
}
