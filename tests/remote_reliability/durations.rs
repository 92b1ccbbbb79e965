//! Every `Duration` is accepted, or refused by `build`. None panics, and every loss is counted.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs;
use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::{
    ApertureClient, ApertureClientBuilder, ApertureLayer, FlowDecision, FlowParams, FlowStatus,
};

use super::runtime;
use super::support::agent::{FakeAgent, Reply, answer};

const EXTREMES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_millis(1),
    Duration::from_secs(u32::MAX as u64),
    Duration::from_secs(u64::MAX),
    Duration::MAX,
];

/// Long enough for every call that succeeds.
const PLENTY: Duration = Duration::from_secs(30);

type Setter = fn(ApertureClientBuilder, Duration) -> ApertureClientBuilder;

/// The settings of a client, with their names in the source.
const SETTERS: [(&str, Setter); 7] = [
    ("connect_timeout", ApertureClientBuilder::connect_timeout),
    ("check_timeout", ApertureClientBuilder::check_timeout),
    ("check_grace", ApertureClientBuilder::check_grace),
    ("end_timeout", ApertureClientBuilder::end_timeout),
    ("keep_alive", |builder, interval| {
        builder.keep_alive(interval, PLENTY)
    }),
    ("keep_alive", |builder, timeout| {
        builder.keep_alive(PLENTY, timeout)
    }),
    ("breaker", |builder, interval| builder.breaker(1, interval)),
];

/// Other functions with a `Duration`: calls that are tested below, and functions that set nothing
/// in a client: values of answers, and settings of the engine.
const OTHERS: [&str; 16] = [
    "advance",
    "advance_to",
    "after",
    "budget",
    "caller_timeout",
    "deadline",
    "embedded_with_check_timeout",
    "flow_end",
    "result_cache",
    "shutdown",
    "start_flow_end",
    "ttl",
    "wait",
    "wait_ready",
    "watch",
    "window",
];

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts panics, because a panic in a background task fails no test.
fn count_panics() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, SeqCst);
        print(info);
    }));
}

/// A timeout that each flow sets in its parameters.
#[derive(Clone, Copy)]
enum Parameter {
    None,
    CheckTimeout(Duration),
    CallerTimeout(Duration),
}

/// Runs flows and checks that each flow, end and span is counted.
fn run_and_account(name: &str, builder: ApertureClientBuilder, parameter: Parameter) {
    // The builder may refuse a duration.
    let Ok(client) = builder.build() else { return };
    let runtime = runtime();
    runtime.block_on(async {
        let params = || match parameter {
            Parameter::CheckTimeout(timeout) => FlowParams::new().check_timeout(timeout),
            Parameter::CallerTimeout(timeout) => FlowParams::new().caller_timeout(timeout),
            Parameter::None => FlowParams::new(),
        };
        for _ in 0..2 {
            let flow = client.start_flow("by-hand", params()).await;
            assert!(flow.should_run(), "{name}");
            assert_eq!(
                flow.decision() == FlowDecision::Accepted,
                flow.error().is_none()
            );
            flow.finish(FlowStatus::Ok);
        }
        let layer = ApertureLayer::new(client.clone(), "layer");
        let layer = match parameter {
            Parameter::CheckTimeout(timeout) => layer.check_timeout(timeout),
            Parameter::CallerTimeout(_) | Parameter::None => layer,
        };
        let inner = |_: Request<Full<bytes::Bytes>>| async {
            Ok::<_, Infallible>(Response::new(Full::<bytes::Bytes>::default()))
        };
        let request = Request::new(Full::default());
        let response = layer.layer(service_fn(inner)).oneshot(request).await;
        assert!(response.expect("an answer").status().is_success(), "{name}");
        let ready = match parameter {
            Parameter::CheckTimeout(timeout) => timeout.min(PLENTY),
            Parameter::CallerTimeout(_) | Parameter::None => Duration::from_millis(1),
        };
        let _ = client.wait_ready(ready).await;
        // Every loss is counted, also when shutdown times out.
        let delivered = client.shutdown(PLENTY).await;
        let stats = client.stats();
        assert_eq!(stats.accepted + stats.unreachable, 3, "{name}: {stats:?}");
        let ends = stats.ends_delivered + stats.ends_failed + stats.ends_dropped;
        assert!(ends >= stats.accepted, "{name}: {stats:?}");
        let spans = stats.spans_exported + stats.spans_failed + stats.spans_dropped;
        #[cfg(feature = "telemetry")]
        assert_eq!(spans, stats.accepted, "{name}: {stats:?}");
        if delivered {
            let lost = stats.ends_failed + stats.ends_dropped + spans - stats.spans_exported;
            assert_eq!(lost, 0, "{name}: {stats:?}");
        }
    });
}

#[test]
fn every_duration_is_accepted_or_refused_and_every_loss_is_counted() {
    count_panics();
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    let builder = || {
        ApertureClient::builder()
            .address(agent.address())
            .insecure(true)
    };
    for duration in EXTREMES {
        for (name, set) in SETTERS {
            let name = format!("{name}({duration:?})");
            run_and_account(&name, set(builder(), duration), Parameter::None);
            // The same setting, with long timeouts elsewhere.
            let with_long_timeouts = builder().check_timeout(PLENTY).end_timeout(PLENTY);
            run_and_account(&name, set(with_long_timeouts, duration), Parameter::None);
        }
        let all = SETTERS
            .iter()
            .fold(builder(), |builder, (_, set)| set(builder, duration));
        run_and_account(&format!("all at {duration:?}"), all, Parameter::None);
        let name = format!("check timeout of a flow: {duration:?}");
        run_and_account(&name, builder(), Parameter::CheckTimeout(duration));
        let name = format!("caller timeout of a flow: {duration:?}");
        run_and_account(&name, builder(), Parameter::CallerTimeout(duration));
    }
    assert_eq!(PANICS.load(SeqCst), 0);
}

#[test]
fn with_the_longest_durations_everything_is_delivered() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    for (name, set) in SETTERS {
        let builder = ApertureClient::builder()
            .address(agent.address())
            .insecure(true)
            .check_timeout(PLENTY)
            .end_timeout(PLENTY);
        let client = set(builder, Duration::MAX).build().expect(name);
        let runtime = runtime();
        runtime.block_on(async {
            let params = FlowParams::new().check_timeout(Duration::MAX);
            let flow = client.start_flow("checkout", params).await;
            assert_eq!(flow.decision(), FlowDecision::Accepted, "{name}");
            assert_eq!(flow.end().await.error(), None, "{name}");
            assert!(client.wait_ready(Duration::MAX).await, "{name}");
            assert!(client.shutdown(Duration::MAX).await, "{name}");
        });
    }
    assert_eq!(agent.tokens_in_flight(), 0);
}

#[test]
fn no_timeout_of_shutdown_or_wait_ready_panics() {
    let agent = FakeAgent::start();
    for timeout in EXTREMES {
        let client = super::builder(&[&agent]).build().expect("a client");
        let runtime = runtime();
        runtime.block_on(async {
            drop(super::accepted(&client).await);
            let ready = client.wait_ready(timeout).await;
            assert!(ready || timeout < PLENTY, "{timeout:?}");
            let done = client.shutdown(timeout).await;
            assert!(done || timeout < PLENTY, "{timeout:?}");
        });
    }
}

#[cfg(feature = "embedded")]
#[tokio::test]
async fn an_embedded_client_accepts_any_check_timeout() {
    use tower_aperture::Engine;

    for timeout in EXTREMES {
        let engine = Engine::builder().build().expect("an engine");
        let client = ApertureClient::embedded_with_check_timeout(engine, timeout);
        for flow_timeout in [None, Some(timeout)] {
            let mut params = FlowParams::new();
            params.check_timeout = flow_timeout;
            let flow = client.start_flow("checkout", params).await;
            assert_eq!(flow.decision(), FlowDecision::Accepted, "{timeout:?}");
            flow.end().await;
        }
        let stored = client.result_cache("a", "b").set("value", timeout).await;
        assert_eq!(stored.is_ok(), !timeout.is_zero(), "{timeout:?}");
    }
}

#[cfg(feature = "embedded")]
#[tokio::test]
async fn ends_by_reference_accept_any_deadline() {
    use tower_aperture::Engine;
    use tower_aperture::engine::SlotRef;

    let engine = Engine::builder().build().expect("an engine");
    let slots = [SlotRef::default()];
    for deadline in EXTREMES {
        let at_once = engine.flow_end(&slots, Some(deadline));
        assert_eq!(engine.start_flow_end(&slots, Some(deadline)).await, at_once);
        assert!(!at_once[0].returned);
    }
}

#[tokio::test]
async fn the_client_accepts_any_time_to_live_but_zero_for_an_agents_cache() {
    let agent = FakeAgent::start();
    let client = super::builder(&[&agent]).build().expect("a client");
    for ttl in EXTREMES {
        let stored = client.result_cache("a", "b").set("value", ttl).await;
        assert_eq!(stored.is_ok(), !ttl.is_zero(), "{ttl:?}: {stored:?}");
    }
}

/// Collects the names of public functions in a folder that are in the docs and have a parameter of type
/// `Duration`.
fn functions_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            functions_in(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).expect("text");
        let mut before = "";
        for part in text.split("    pub ") {
            let hidden = before.trim_end().ends_with("#[doc(hidden)]") || before.is_empty();
            before = part;
            if hidden {
                continue;
            }
            let signature = part.split(['{', ';']).next().unwrap_or("");
            let Some((_, rest)) = signature.split_once("fn ") else {
                continue;
            };
            let (parameters, _) = rest.split_once("->").unwrap_or((rest, ""));
            if signature.starts_with("fn ")
                || signature.starts_with("async ")
                || signature.starts_with("const ")
            {
                let name = rest.split(['(', '<']).next().unwrap_or("");
                if parameters.contains("Duration") {
                    found.insert(name.to_owned());
                }
            }
        }
    }
}

#[test]
fn every_setting_with_a_duration_is_tested_here() {
    let mut found = BTreeSet::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in [
        "src/client",
        "src/layer",
        "crates/aperture-core/src",
        "crates/aperture-engine/src/engine",
    ] {
        functions_in(&root.join(folder), &mut found);
    }
    let tested = SETTERS.iter().map(|(name, _)| *name).chain(OTHERS);
    let cache = ["set"];
    let tested: BTreeSet<_> = tested.chain(cache).map(str::to_owned).collect();
    let left_out: Vec<_> = found.difference(&tested).collect();
    assert!(left_out.is_empty(), "{left_out:?}");
    assert!(
        found.contains("check_grace") && found.contains("shutdown"),
        "{found:?}"
    );
}
