//! Prometheus servers that are slow, endless or hostile, and what they cost the queries of others.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Form, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tower_aperture::agent::Prometheus;
use tower_aperture::engine::SignalSource;

use crate::{engine, follow, until};

/// Answers by what the name of a query begins with.
#[derive(Clone, Default)]
struct Hostile(Arc<Counts>);

#[derive(Default)]
struct Counts {
    asked: Mutex<HashMap<String, u64>>,
    /// Bytes of endless answers.
    sent: AtomicU64,
}

impl Hostile {
    async fn start(&self) -> Prometheus {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let app = Router::new()
            .route("/api/v1/query", post(answer))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Prometheus::new(&format!("http://{address}")).expect("a URL")
    }

    /// The least and the most that one of these queries was asked.
    fn asked(&self, queries: &[String]) -> (u64, u64) {
        let asked = self.0.asked.lock().expect("no panic");
        let counts = queries
            .iter()
            .map(|query| asked.get(query).copied().unwrap_or(0));
        (counts.clone().min().unwrap_or(0), counts.max().unwrap_or(0))
    }

    /// The same bytes again and again, for as long as somebody takes them.
    fn endless(&self, status: StatusCode, head: &'static str, again: String) -> Response {
        let counts = Arc::clone(&self.0);
        let again = Bytes::from(again);
        let stream = futures_util::stream::unfold(0_u64, move |chunk| {
            let bytes = match chunk {
                0 => Bytes::from_static(head.as_bytes()),
                _ => again.clone(),
            };
            counts.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            async move { Some((Ok::<_, io::Error>(bytes), chunk + 1)) }
        });
        let mut response = Response::new(Body::from_stream(stream));
        *response.status_mut() = status;
        response
    }
}

async fn answer(
    State(hostile): State<Hostile>,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let query = form["query"].clone();
    let asked = &hostile.0.asked;
    *asked
        .lock()
        .expect("no panic")
        .entry(query.clone())
        .or_default() += 1;
    let scalar = json!({"status": "success", "data": {"resultType": "scalar", "result": [1, "3"]}});
    let vector = r#"{"status":"success","data":{"resultType":"vector","result":["#;
    let ok = StatusCode::OK;
    match query.split('_').next().expect("a name") {
        "quick" => axum::Json(scalar).into_response(),
        "slow" => {
            tokio::time::sleep(Duration::from_millis(1200)).await;
            axum::Json(scalar).into_response()
        }
        "hangs" => std::future::pending().await,
        "series" => {
            let one = format!(
                r#"{{"metric":{{"a":"{}"}},"value":[1,"1"]}},"#,
                "x".repeat(200)
            );
            hostile.endless(ok, vector, one.repeat(100))
        }
        "nested" => hostile.endless(ok, vector, "[".repeat(10_000)),
        "blanks" => hostile.endless(ok, "", " ".repeat(10_000)),
        "refusal" => hostile.endless(
            StatusCode::SERVICE_UNAVAILABLE,
            r#"{"status":"error","error":""#,
            "e".repeat(10_000),
        ),
        "announced" => {
            let mut response = hostile.endless(ok, vector, "1,".repeat(5_000));
            let length = header::HeaderValue::from_static("10000000000");
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length);
            response
        }
        "deep" => (ok, format!("{vector}{}", "[".repeat(100_000))).into_response(),
        "labels" => {
            let label = "x".repeat(100_000);
            let series = json!([{"metric": {"a": label}, "value": [1, "5"]}]);
            let data = json!({"resultType": "vector", "result": series});
            axum::Json(json!({"status": "success", "data": data})).into_response()
        }
        other => panic!("an unknown query {other}"),
    }
}

fn named(kind: &str, number: usize) -> Vec<String> {
    (0..number).map(|at| format!("{kind}_{at}")).collect()
}

fn texts(queries: &[String]) -> Vec<&str> {
    queries.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn queries_take_turns_by_which_is_due_longest() {
    let hostile = Hostile::default();
    let prometheus = hostile.start().await;
    let queries = named("slow", 24);
    let engine = engine(&prometheus, &texts(&queries));
    let _following = follow(&prometheus, &engine);
    // More are due at any time than are asked at once.
    until("each is asked twice", || hostile.asked(&queries).0 >= 2).await;
    let (least, most) = hostile.asked(&queries);
    assert!(most <= least + 2, "from {least} to {most} times");
}

#[tokio::test]
async fn slow_queries_delay_no_others() {
    let hostile = Hostile::default();
    let prometheus = hostile.start().await;
    let (hanging, quick) = (named("hangs", 40), named("quick", 4));
    let queries = [texts(&hanging), texts(&quick)].concat();
    let engine = engine(&prometheus, &queries);
    let _following = follow(&prometheus, &engine);
    until("a first answer to each quick query", || {
        hostile.asked(&quick).0 >= 1
    })
    .await;
    let before = hostile.asked(&hanging);
    until("many more answers", || hostile.asked(&quick).0 >= 8).await;
    let after = hostile.asked(&hanging);
    assert!(
        after.1 <= before.1 + 3,
        "a quick query was asked less often than every slow one: {before:?} {after:?}"
    );
    for query in &quick {
        assert_eq!(prometheus.latest(query), Some(3.0), "{query}");
    }
}

#[tokio::test]
async fn an_answer_is_bounded_while_it_is_read() {
    for kind in ["series", "nested", "blanks", "refusal", "announced", "deep"] {
        let hostile = Hostile::default();
        let prometheus = hostile.start().await;
        let queries = named(kind, 1);
        let engine = engine(&prometheus, &texts(&queries));
        let following = follow(&prometheus, &engine);
        until(kind, || prometheus.stats().failed >= 1).await;
        following.abort();
        assert_eq!(prometheus.latest(&queries[0]), None, "{kind}");
        // What sockets hold on their way is more than what is read.
        let sent = hostile.0.sent.load(Ordering::SeqCst);
        assert!(sent < 32 << 20, "{kind}: {sent} bytes were taken");
    }
}

#[tokio::test]
async fn a_series_with_long_labels_is_an_answer() {
    let hostile = Hostile::default();
    let prometheus = hostile.start().await;
    let queries = named("labels", 1);
    let engine = engine(&prometheus, &texts(&queries));
    let _following = follow(&prometheus, &engine);
    until("a number", || prometheus.latest("labels_0") == Some(5.0)).await;
}
