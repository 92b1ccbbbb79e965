//! Prometheus servers that are slow, hang or send endless answers do not delay other queries.

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
use tower_aperture::engine::SignalSource;
use tower_aperture_agent::Prometheus;

use crate::{engine, follow, until};

/// A server whose answer depends on the first word of a query's name.
#[derive(Clone, Default)]
struct Hostile(Arc<Counts>);

#[derive(Default)]
struct Counts {
    requests: Mutex<HashMap<String, u64>>,
    /// Bytes sent in endless answers.
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

    /// Returns how often the least and the most frequent of these queries were sent.
    fn requests(&self, queries: &[String]) -> (u64, u64) {
        let requests = self.0.requests.lock().expect("no panic");
        let counts = queries
            .iter()
            .map(|query| requests.get(query).copied().unwrap_or(0));
        (counts.clone().min().unwrap_or(0), counts.max().unwrap_or(0))
    }

    /// A response that repeats the same bytes for as long as the client reads.
    fn endless(&self, status: StatusCode, head: &'static str, repeated: String) -> Response {
        let counts = Arc::clone(&self.0);
        let repeated = Bytes::from(repeated);
        let stream = futures_util::stream::unfold(0_u64, move |chunk| {
            let bytes = match chunk {
                0 => Bytes::from_static(head.as_bytes()),
                _ => repeated.clone(),
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
    let requests = &hostile.0.requests;
    *requests
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

fn names(kind: &str, number: usize) -> Vec<String> {
    (0..number).map(|at| format!("{kind}_{at}")).collect()
}

fn texts(queries: &[String]) -> Vec<&str> {
    queries.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn the_query_that_is_due_longest_is_sent_first() {
    let hostile = Hostile::default();
    let prometheus = hostile.start().await;
    let queries = names("slow", 24);
    let engine = engine(&prometheus, &texts(&queries));
    let _following = follow(&prometheus, &engine);
    // At any time, more queries are due than may be in flight.
    until("two requests of each query", || {
        hostile.requests(&queries).0 >= 2
    })
    .await;
    let (least, most) = hostile.requests(&queries);
    assert!(
        most <= least + 2,
        "queries were sent between {least} and {most} times"
    );
}

#[tokio::test]
async fn slow_queries_do_not_delay_other_queries() {
    let hostile = Hostile::default();
    let prometheus = hostile.start().await;
    let (hanging, quick) = (names("hangs", 40), names("quick", 4));
    let queries = [texts(&hanging), texts(&quick)].concat();
    let engine = engine(&prometheus, &queries);
    let _following = follow(&prometheus, &engine);
    until("a first answer to each quick query", || {
        hostile.requests(&quick).0 >= 1
    })
    .await;
    let before = hostile.requests(&hanging);
    until("many more answers", || hostile.requests(&quick).0 >= 8).await;
    let after = hostile.requests(&hanging);
    assert!(
        after.1 <= before.1 + 3,
        "slow queries were sent more often than quick ones: {before:?} {after:?}"
    );
    for query in &quick {
        assert_eq!(prometheus.latest(query), Some(3.0), "{query}");
    }
}

#[tokio::test]
async fn the_size_of_an_answer_is_bounded_while_it_is_read() {
    for kind in ["series", "nested", "blanks", "refusal", "announced", "deep"] {
        let hostile = Hostile::default();
        let prometheus = hostile.start().await;
        let queries = names(kind, 1);
        let engine = engine(&prometheus, &texts(&queries));
        let following = follow(&prometheus, &engine);
        until(kind, || prometheus.stats().failed >= 1).await;
        following.abort();
        assert_eq!(prometheus.latest(&queries[0]), None, "{kind}");
        // The bound is above the agent's own because sockets buffer bytes too.
        let sent = hostile.0.sent.load(Ordering::SeqCst);
        assert!(sent < 32 << 20, "{kind}: {sent} bytes were sent");
    }
}

#[tokio::test]
async fn an_answer_with_long_labels_sets_the_signal() {
    let hostile = Hostile::default();
    let prometheus = hostile.start().await;
    let queries = names("labels", 1);
    let engine = engine(&prometheus, &texts(&queries));
    let _following = follow(&prometheus, &engine);
    until("a number", || prometheus.latest("labels_0") == Some(5.0)).await;
}
