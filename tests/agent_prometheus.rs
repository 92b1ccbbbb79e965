//! Signals from a Prometheus: which answers count, and what becomes of the others.
#![cfg(feature = "server")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Form, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tower_aperture::Engine;
use tower_aperture::agent::{Prometheus, PrometheusStats};
use tower_aperture::engine::{CheckInput, SignalSource};

/// Only what hangs takes as long.
const LONG: Duration = Duration::from_secs(60);

/// Answers by the query's text.
#[derive(Clone, Default)]
struct Fake(Arc<Inner>);

#[derive(Default)]
struct Inner {
    asked: Mutex<HashMap<String, u64>>,
    authorization: Mutex<Option<String>>,
    number: AtomicU64,
    broken: AtomicBool,
}

impl Fake {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let app = Router::new()
            .route("/prefix/api/v1/query", post(answer))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("{address}/prefix")
    }

    fn asked(&self, query: &str) -> u64 {
        let asked = self.0.asked.lock().expect("no panic");
        asked.get(query).copied().unwrap_or(0)
    }
}

async fn answer(
    State(fake): State<Fake>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let query = form["query"].clone();
    let authorization = headers.get(header::AUTHORIZATION);
    *fake.0.authorization.lock().expect("no panic") =
        authorization.map(|value| value.to_str().expect("text").to_owned());
    *fake
        .0
        .asked
        .lock()
        .expect("no panic")
        .entry(query.clone())
        .or_default() += 1;
    if fake.0.broken.load(Ordering::SeqCst) {
        return (StatusCode::BAD_GATEWAY, "<html>no Prometheus</html>").into_response();
    }
    let number = fake.0.number.load(Ordering::SeqCst);
    let series = |values: &[&str]| {
        let series: Vec<_> = values
            .iter()
            .map(|value| json!({"metric": {"value": value}, "value": [1.5, value]}))
            .collect();
        json!({"resultType": "vector", "result": series})
    };
    let data = match query.as_str() {
        "scalar" => json!({"resultType": "scalar", "result": [1.5, "2.5"]}),
        "one" => series(&[&number.to_string()]),
        "none" => series(&[]),
        "two" => series(&["1", "2"]),
        "nan" => series(&["NaN"]),
        "infinite" => series(&["+Inf"]),
        "range[5m]" => json!({"resultType": "matrix", "result": []}),
        _ => {
            let error = json!({"status": "error", "errorType": "bad_data", "error": "parse error"});
            return (StatusCode::BAD_REQUEST, axum::Json(error)).into_response();
        }
    };
    axum::Json(json!({"status": "success", "data": data})).into_response()
}

/// A rate limiter whose buckets hold what a query says.
fn policy(query: &str) -> String {
    format!(
        "
circuit:
  evaluation_interval: 1s
  components:
  - query:
      promql:
        query_string: {query:?}
        evaluation_interval: 1s
        out_ports: {{output: {{signal_name: CAPACITY}}}}
  - flow_control:
      rate_limiter:
        selectors: [{{control_point: {query:?}}}]
        in_ports:
          bucket_capacity: {{signal_name: CAPACITY}}
          fill_amount: {{constant_signal: {{value: 0}}}}
        parameters: {{interval: 3600s}}
"
    )
}

fn engine(prometheus: &Prometheus, queries: &[&str]) -> Engine {
    let mut builder = Engine::builder().signal_source(prometheus.clone());
    for (index, query) in queries.iter().enumerate() {
        builder = builder.policy_text(format!("policy-{index}"), policy(query));
    }
    builder.build().expect("policies")
}

fn follow(prometheus: &Prometheus, engine: &Engine) -> tokio::task::JoinHandle<()> {
    let (prometheus, engine) = (prometheus.clone(), engine.clone());
    tokio::spawn(async move { prometheus.follow(&engine).await })
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(LONG, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("in vain waited until {what}"));
}

#[tokio::test]
async fn an_answer_of_one_number_is_a_signal_and_no_other() {
    let fake = Fake::default();
    fake.0.number.store(7, Ordering::SeqCst);
    let address = fake.start().await;
    let prometheus = Prometheus::new(&format!("http://{address}")).expect("a URL");
    let queries = [
        "scalar",
        "one",
        "infinite",
        "none",
        "two",
        "nan",
        "range[5m]",
        "syntax(",
    ];
    let engine = engine(&prometheus, &queries);
    assert_eq!(prometheus.latest("one"), None, "nobody asked");
    let _following = follow(&prometheus, &engine);
    until("all are answered", || {
        prometheus.stats().queries == queries.len()
    })
    .await;
    let values = queries.map(|query| prometheus.latest(query));
    assert_eq!(values[..3], [Some(2.5), Some(7.0), Some(f64::INFINITY)]);
    assert_eq!(values[3..], [None; 5]);
    let PrometheusStats {
        invalid,
        answered,
        failed,
        ..
    } = prometheus.stats();
    assert_eq!(invalid, 5);
    assert!(answered >= 3 && failed >= 5, "{answered} {failed}");
}

#[tokio::test]
async fn a_dead_prometheus_makes_signals_invalid_until_it_answers_again() {
    let fake = Fake::default();
    fake.0.number.store(3, Ordering::SeqCst);
    let address = fake.start().await;
    let prometheus = Prometheus::new(&format!("http://{address}")).expect("a URL");
    let engine = engine(&prometheus, &["one"]);
    let _following = follow(&prometheus, &engine);
    until("a number", || prometheus.latest("one") == Some(3.0)).await;
    fake.0.broken.store(true, Ordering::SeqCst);
    until("none", || prometheus.latest("one").is_none()).await;
    assert_eq!(prometheus.stats().invalid, 1);
    fake.0.number.store(4, Ordering::SeqCst);
    fake.0.broken.store(false, Ordering::SeqCst);
    until("the new number", || prometheus.latest("one") == Some(4.0)).await;
    assert_eq!(prometheus.stats().invalid, 0);
}

#[tokio::test]
async fn nobody_at_the_address_is_counted() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = free.local_addr().expect("an address");
    // Bound, but nobody accepts what is spoken.
    let prometheus = Prometheus::new(&format!("http://{address}")).expect("a URL");
    let engine = engine(&prometheus, &["one"]);
    let _following = follow(&prometheus, &engine);
    let (stream, _) = free.accept().await.expect("a connection");
    drop((stream, free));
    until("a failure", || prometheus.stats().failed > 0).await;
    assert_eq!(prometheus.latest("one"), None);
}

#[tokio::test]
async fn the_engine_decides_by_what_was_answered() {
    let fake = Fake::default();
    fake.0.number.store(2, Ordering::SeqCst);
    let address = fake.start().await;
    let prometheus = Prometheus::new(&format!("http://{address}")).expect("a URL");
    let engine = engine(&prometheus, &["one"]);
    let _following = follow(&prometheus, &engine);
    until("a number", || prometheus.latest("one").is_some()).await;
    let params = tower_aperture::FlowParams::new();
    let input = CheckInput::new("one", &params);
    let answers = [(); 3].map(|()| engine.check(&input).accepted());
    assert_eq!(answers, [true, true, false]);
}

#[tokio::test]
async fn queries_come_and_go_with_policies() {
    let fake = Fake::default();
    let address = fake.start().await;
    let prometheus = Prometheus::new(&format!("http://{address}")).expect("a URL");
    let engine = engine(&prometheus, &["one", "one", "two"]);
    assert_eq!(engine.queries().len(), 2, "the same text is asked once");
    let _following = follow(&prometheus, &engine);
    until("a number", || prometheus.latest("one").is_some()).await;
    engine
        .reload_with([("other", policy("scalar"))])
        .expect("a policy");
    until("the new query", || prometheus.latest("scalar") == Some(2.5)).await;
    assert_eq!(prometheus.latest("one"), None, "nobody asks any more");
    assert_eq!(prometheus.stats().queries, 1);
    let before = fake.asked("one");
    let rounds = fake.asked("scalar") + 2;
    until("two more rounds", || fake.asked("scalar") >= rounds).await;
    assert_eq!(fake.asked("one"), before);
}

#[tokio::test]
async fn a_password_is_sent_and_never_shown() {
    let fake = Fake::default();
    let address = fake.start().await;
    let prometheus = Prometheus::new(&format!("http://ann:sesame@{address}")).expect("a URL");
    let engine = engine(&prometheus, &["one"]);
    let _following = follow(&prometheus, &engine);
    until("a number", || prometheus.latest("one").is_some()).await;
    let sent = fake.0.authorization.lock().expect("no panic").clone();
    assert_eq!(sent.as_deref(), Some("Basic YW5uOnNlc2FtZQ=="));
    let shown = format!("{prometheus:?}");
    assert!(shown.contains("127.0.0.1"), "{shown}");
    assert!(
        !shown.contains("sesame") && !shown.contains("ann"),
        "{shown}"
    );
    for bad in ["ftp://ann:sesame@host", "ann:sesame@host"] {
        let error = Prometheus::new(bad).expect_err("no URL").to_string();
        assert!(!error.contains("sesame"), "{error}");
    }
}
