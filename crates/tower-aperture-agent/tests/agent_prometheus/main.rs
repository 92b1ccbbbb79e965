//! Signals from Prometheus: which answers set a signal, and how other answers are counted.

mod turns;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Form, Router};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tower_aperture::Engine;
use tower_aperture::engine::{CheckInput, SignalSource};
use tower_aperture_agent::{Agent, Prometheus, PrometheusStats};

/// A timeout that only a test that hangs reaches.
const LONG: Duration = Duration::from_secs(60);

/// A Prometheus server whose answer depends on the text of the query.
#[derive(Clone, Default)]
struct FakePrometheus(Arc<Inner>);

#[derive(Default)]
struct Inner {
    requests: Mutex<HashMap<String, u64>>,
    authorization: Mutex<Option<String>>,
    number: AtomicU64,
    broken: AtomicBool,
}

impl FakePrometheus {
    fn app(&self) -> Router {
        Router::new()
            .route("/prefix/api/v1/query", post(answer))
            .with_state(self.clone())
    }

    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let app = self.app();
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("{address}/prefix")
    }

    /// Serves with a self-signed certificate for 127.0.0.1. Returns the address and the PEM.
    async fn start_tls(&self) -> (String, String) {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a key");
        let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .expect("a certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let app = self.app();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(app.clone());
                let handshake = acceptor.accept(stream);
                tokio::spawn(async move {
                    if let Ok(stream) = handshake.await {
                        let server = auto::Builder::new(TokioExecutor::new());
                        let _ = server.serve_connection(TokioIo::new(stream), service).await;
                    }
                });
            }
        });
        (format!("{address}/prefix"), own.cert.pem())
    }

    fn requests(&self, query: &str) -> u64 {
        let requests = self.0.requests.lock().expect("no panic");
        requests.get(query).copied().unwrap_or(0)
    }
}

async fn answer(
    State(fake): State<FakePrometheus>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let query = form["query"].clone();
    let authorization = headers.get(header::AUTHORIZATION);
    *fake.0.authorization.lock().expect("no panic") =
        authorization.map(|value| value.to_str().expect("text").to_owned());
    *fake
        .0
        .requests
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

/// A policy with a rate limiter whose bucket capacity is the value of a query.
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
        .unwrap_or_else(|_| panic!("timed out waiting for {what}"));
}

#[tokio::test]
async fn only_an_answer_of_one_number_sets_a_signal() {
    let fake = FakePrometheus::default();
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
    assert_eq!(prometheus.latest("one"), None, "no query was sent");
    let _following = follow(&prometheus, &engine);
    until("all answers", || {
        prometheus.stats().queries == queries.len()
    })
    .await;
    let values = queries.map(|query| prometheus.latest(query));
    assert_eq!(values[..3], [Some(2.5), Some(7.0), Some(f64::INFINITY)]);
    assert_eq!(values[3..], [None; 5]);
    let PrometheusStats {
        invalid,
        answered,
        empty,
        failed,
        ..
    } = prometheus.stats();
    assert_eq!(invalid, 5);
    assert!(answered >= 3 && failed >= 4, "{answered} {failed}");
    assert!(empty >= 1, "{empty}");
    let agent = Agent::builder(engine).prometheus(&prometheus).build();
    let shown = agent.metrics();
    for (name, value) in [
        ("prometheus_queries", Some(8)),
        ("prometheus_invalid_queries", Some(5)),
        ("prometheus_answers_total", None),
        ("prometheus_empty_answers_total", None),
        ("prometheus_failures_total", None),
    ] {
        let name = format!("tower_aperture_agent_{name}{{");
        let line = shown.lines().find(|line| line.starts_with(&name));
        let shown: u64 = line
            .and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{name}: {shown}"));
        assert!(
            value.is_none_or(|value| value == shown) && shown > 0,
            "{name} {shown}"
        );
    }
}

#[tokio::test]
async fn a_dead_prometheus_makes_signals_invalid_until_it_answers_again() {
    let fake = FakePrometheus::default();
    fake.0.number.store(3, Ordering::SeqCst);
    let address = fake.start().await;
    let prometheus = Prometheus::new(&format!("http://{address}")).expect("a URL");
    let engine = engine(&prometheus, &["one"]);
    let _following = follow(&prometheus, &engine);
    until("a number", || prometheus.latest("one") == Some(3.0)).await;
    fake.0.broken.store(true, Ordering::SeqCst);
    until("an invalid signal", || prometheus.latest("one").is_none()).await;
    assert_eq!(prometheus.stats().invalid, 1);
    fake.0.number.store(4, Ordering::SeqCst);
    fake.0.broken.store(false, Ordering::SeqCst);
    until("the new number", || prometheus.latest("one") == Some(4.0)).await;
    assert_eq!(prometheus.stats().invalid, 0);
}

#[tokio::test]
async fn an_answer_without_a_series_is_counted_as_empty_and_not_as_a_failure() {
    let fake = FakePrometheus::default();
    let address = fake.start().await;
    let prometheus = Prometheus::new(&format!("http://{address}")).expect("a URL");
    let engine = engine(&prometheus, &["none"]);
    let _following = follow(&prometheus, &engine);
    until("two answers", || prometheus.stats().empty >= 2).await;
    let PrometheusStats {
        answered, failed, ..
    } = prometheus.stats();
    assert_eq!((answered, failed), (0, 0));
    assert_eq!(prometheus.latest("none"), None, "the signal is invalid");
    fake.0.broken.store(true, Ordering::SeqCst);
    until("a failure", || prometheus.stats().failed >= 1).await;
}

#[tokio::test]
async fn a_closed_connection_is_counted_as_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    // The listener accepts one connection and closes it.
    let prometheus = Prometheus::new(&format!("http://{address}")).expect("a URL");
    let engine = engine(&prometheus, &["one"]);
    let _following = follow(&prometheus, &engine);
    let (stream, _) = listener.accept().await.expect("a connection");
    drop((stream, listener));
    until("a failure", || prometheus.stats().failed > 0).await;
    assert_eq!(prometheus.latest("one"), None);
}

#[tokio::test]
async fn the_engine_decides_by_the_answer_to_a_query() {
    let fake = FakePrometheus::default();
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
async fn queries_follow_the_policies_of_the_engine() {
    let fake = FakePrometheus::default();
    let address = fake.start().await;
    let prometheus = Prometheus::new(&format!("http://{address}")).expect("a URL");
    let engine = engine(&prometheus, &["one", "one", "two"]);
    assert_eq!(
        engine.queries().len(),
        2,
        "policies with the same query share it"
    );
    let _following = follow(&prometheus, &engine);
    until("a number", || prometheus.latest("one").is_some()).await;
    engine
        .reload_with([("other", policy("scalar"))])
        .expect("a policy");
    until("the new query", || prometheus.latest("scalar") == Some(2.5)).await;
    assert_eq!(
        prometheus.latest("one"),
        None,
        "the query has no policy any more"
    );
    assert_eq!(prometheus.stats().queries, 1);
    let before = fake.requests("one");
    let rounds = fake.requests("scalar") + 2;
    until("two more rounds", || fake.requests("scalar") >= rounds).await;
    assert_eq!(fake.requests("one"), before);
}

#[tokio::test]
async fn a_password_is_sent_and_does_not_appear_in_debug_output_or_errors() {
    let fake = FakePrometheus::default();
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

#[tokio::test]
async fn over_https_only_answers_with_a_trusted_authority_count() {
    let fake = FakePrometheus::default();
    fake.0.number.store(5, Ordering::SeqCst);
    let (address, pem) = fake.start_tls().await;
    let url = format!("https://{address}");
    let trusting = Prometheus::trusting(&url, pem.as_bytes()).expect("a certificate");
    let (_, other) = fake.start_tls().await;
    let distrusting = Prometheus::trusting(&url, other.as_bytes()).expect("a certificate");
    let engines = [&trusting, &distrusting].map(|prometheus| engine(prometheus, &["one"]));
    let _following = (
        follow(&trusting, &engines[0]),
        follow(&distrusting, &engines[1]),
    );
    until("a number", || trusting.latest("one") == Some(5.0)).await;
    until("a failure", || distrusting.stats().failed > 0).await;
    assert_eq!(distrusting.stats().answered, 0);
}

#[tokio::test]
async fn replaced_authorities_apply_from_the_next_query() {
    let fake = FakePrometheus::default();
    fake.0.number.store(5, Ordering::SeqCst);
    let (address, pem) = fake.start_tls().await;
    let (_, other) = fake.start_tls().await;
    let url = format!("https://ann:sesame@{address}");
    let prometheus = Prometheus::trusting(&url, other.as_bytes()).expect("a certificate");
    let engine = engine(&prometheus, &["one"]);
    let _following = follow(&prometheus, &engine);
    until("a failure", || prometheus.stats().failed > 0).await;
    for bad in [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let error = prometheus.replace_authorities(bad.as_bytes());
        let error = error.expect_err("no certificate").to_string();
        assert!(error.contains("certificate"), "{error}");
    }
    assert_eq!(prometheus.stats().answered, 0);
    let clone = prometheus.clone();
    clone
        .replace_authorities(pem.as_bytes())
        .expect("a certificate");
    until("a number", || prometheus.latest("one") == Some(5.0)).await;
    // The user and password stay.
    let sent = fake.0.authorization.lock().expect("no panic").clone();
    assert_eq!(sent.as_deref(), Some("Basic YW5uOnNlc2FtZQ=="));
    assert!(!format!("{prometheus:?}").contains("sesame"));
    prometheus
        .replace_authorities(other.as_bytes())
        .expect("a certificate");
    let failed = prometheus.stats().failed;
    until("a failure", || prometheus.stats().failed > failed).await;
}
