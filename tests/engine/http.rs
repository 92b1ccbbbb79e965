//! HTTP requests, where recordings do not say it, and where the engine means it otherwise.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;
use tower_aperture::engine::{Engine, HttpAnswer, HttpInput, HttpReport, HttpRequest};

use crate::support::*;

/// A policy with these rules, in flow style.
fn classifier(rules: &str) -> Engine {
    let text = format!(
        "resources:\n  flow_control:\n    classifiers:\n    - selectors: [{{control_point: {HERE}}}]\n      \
         rules: {rules}\n"
    );
    let engine = Engine::builder().policy_text("rules", text).build();
    engine.expect("the rules are right")
}

fn ask(engine: &Engine, request: HttpRequest<'_>) -> HttpReport {
    let report = engine.check_http(&HttpInput::new(HERE).request(request));
    report.expect("the question is well formed")
}

fn baggage(report: &HttpReport) -> Option<&str> {
    match &report.answer {
        HttpAnswer::Ok { headers } => headers.get("baggage").map(String::as_str),
        other => panic!("nothing limits it: {other:?}"),
    }
}

fn with_baggage(value: &str) -> BTreeMap<String, String> {
    let engine = Engine::builder().build().expect("no policy");
    let headers = [("baggage", value)];
    let request = HttpRequest {
        headers: &headers,
        ..HttpRequest::default()
    };
    ask(&engine, request).check.telemetry_flow_labels
}

#[test]
fn row_35_what_baggage_cannot_carry_is_percent_encoded() {
    let engine = classifier("{kind: {extractor: {from: request.http.headers.x-kind}}}");
    for (value, expected) in [
        ("50%", "kind=50%25"),
        ("a%20b", "kind=a%2520b"),
        ("m\u{fc}", "kind=m%C3%BC"),
        ("a\u{b}b\u{7f}", "kind=a%0Bb%7F"),
        ("a b/c", "kind=a-b-c"),
        ("i=j{}", "kind=i=j{}"),
        ("", "kind="),
    ] {
        let headers = [("x-kind", value)];
        let report = ask(
            &engine,
            HttpRequest {
                headers: &headers,
                ..HttpRequest::default()
            },
        );
        assert_eq!(baggage(&report), Some(expected));
    }
    let headers = [("x-kind", "%"), ("baggage", "old,stuff;")];
    let request = HttpRequest {
        headers: &headers,
        ..HttpRequest::default()
    };
    assert_eq!(baggage(&ask(&engine, request)), Some("old,stuff;,kind=%25"));
}

#[test]
fn row_36_a_tilde_in_a_pointer_is_spelled_as_the_rfc_says() {
    let engine =
        classifier("{tilde: {extractor: {json: {from: request.http.body, pointer: /a~0b}}}}");
    let request = HttpRequest {
        body: r#"{"a~b": "found"}"#,
        ..HttpRequest::default()
    };
    let report = ask(&engine, request);
    assert_eq!(report.check.telemetry_flow_labels["tilde"], "found");
}

#[test]
fn row_38_baggage_is_decoded_twice() {
    let labels = with_baggage("a=x+y,b=x%2By,c=x%252By,d=x%2520y,e=%25,e2=1");
    assert_eq!(labels["a"], "x y");
    assert_eq!(labels["b"], "x y");
    assert_eq!(labels["c"], "x+y");
    assert_eq!(labels["d"], "x y");
    assert!(!labels.contains_key("e") && labels.contains_key("e2"));
}

#[test]
fn row_39_bytes_that_are_not_utf8_become_the_replacement_character() {
    assert_eq!(with_baggage("a=x%FFy")["a"], "x\u{fffd}y");
    assert_eq!(with_baggage("a=x%25FFy")["a"], "x\u{fffd}y");
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_in_queues_like_any_flow() {
    let text = "
circuit:
  components:
  - flow_control:
      concurrency_scheduler:
        selectors: [{control_point: here}]
        in_ports: {max_concurrency: {constant_signal: {value: 1}}}
        concurrency_limiter: {max_inflight_duration: 60s}
        scheduler: {default_workload_parameters: {queue_timeout: 5s}}
";
    let engine = Engine::builder().policy_text("policy", text).build();
    let engine = engine.expect("a sound policy");
    let input = HttpInput::new(HERE);
    let start = || engine.start_http(&input).expect("well formed");
    let (first, ticket) = start().await;
    assert!(first.accepted());

    // At once there is no slot.
    let denied = engine.check_http(&input).expect("well formed");
    assert!(
        matches!(denied.answer, HttpAnswer::Denied { status: 503, ref headers } if headers.is_empty())
    );

    let second = start();
    drop(ticket);
    let (report, _ticket) = second.await;
    assert!(report.accepted());
    assert_eq!(report.check.services, [""]);
}

#[test]
fn labels_without_telemetry_go_nowhere() {
    let engine = classifier(
        "{quiet: {extractor: {from: request.http.method}, telemetry: false}, \
         loud: {extractor: {from: request.http.method}}}",
    );
    let request = HttpRequest {
        method: "GET",
        ..HttpRequest::default()
    };
    let report = ask(&engine, request);
    assert_eq!(baggage(&report), Some("loud=GET"));
    assert!(report.check.flow_label_keys.contains(&"quiet".to_owned()));
    assert!(!report.check.telemetry_flow_labels.contains_key("quiet"));
}

#[test]
fn services_come_from_the_asker() {
    let (engine, _) = Limiter::new(1.0, 0.0)
        .selectors("[{control_point: here, service: shop}]")
        .engine();
    let input = HttpInput::new(HERE)
        .source_services(&["web", "mobile"])
        .destination_services(&["cart", "shop"]);
    let report = engine.check_http(&input).expect("well formed");
    assert_eq!(report.check.limiter_decisions.len(), 1);
    let labels = &report.check.telemetry_flow_labels;
    assert_eq!(labels["aperture.source_fqdns"], "web,mobile");
    assert_eq!(labels["aperture.destination_fqdns"], "cart,shop");
    assert_eq!(report.check.services, ["cart", "shop"]);
}

#[test]
fn a_wait_is_told_in_whole_seconds_rounded_up() {
    for (interval, expected) in [(200, "1"), (1000, "1"), (1001, "2"), (3000, "3")] {
        let limiter = Limiter::new(1.0, 1.0).interval(Duration::from_millis(interval));
        let (engine, _) = limiter.engine();
        assert!(ask(&engine, HttpRequest::default()).accepted());
        let report = ask(&engine, HttpRequest::default());
        assert_eq!(report.status_code(), 14);
        assert_eq!(report.check.wait_time, None, "it moved");
        assert_eq!(report.wait_time, Some(Duration::from_millis(interval)));
        let HttpAnswer::Denied { status, headers } = &report.answer else {
            panic!("there was one token");
        };
        assert_eq!((*status, &*headers["retry-after"]), (429, expected));
    }
}

#[test]
fn many_headers_take_no_more_than_their_time() {
    let engine = Engine::builder().build().expect("no policy");
    let mut names = String::new();
    for number in 0..50_000 {
        write!(names, "x-{number} ").expect("texts take all");
    }
    let headers: Vec<(&str, &str)> = names.split_whitespace().map(|name| (name, "v")).collect();
    let request = HttpRequest {
        headers: &headers,
        ..HttpRequest::default()
    };
    // Were labels compared with each other, this would take minutes.
    assert_eq!(ask(&engine, request).check.flow_label_keys.len(), 50_008);
}

proptest! {
    #[test]
    fn any_request_is_answered(
        texts in prop::collection::vec(any::<String>(), 5),
        headers in prop::collection::vec(("(baggage|authorization|X-.{0,3}|.{0,4})", any::<String>()), 0..5),
        size in any::<i64>(),
    ) {
        let engine = classifier(
            "{a: {extractor: {from: request.http.path}}, b: {extractor: {jwt: {from: request.http.bearer}}}, \
             c: {extractor: {json: {from: request.http.body}}}, \
             d: {extractor: {path_templates: {template_values: {'/{x}/*': v}}}}}",
        );
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        let request = HttpRequest {
            method: &texts[0],
            path: &texts[1],
            host: &texts[2],
            protocol: &texts[3],
            body: &texts[4],
            size,
            headers: &headers,
            ..HttpRequest::default()
        };
        let report = ask(&engine, request);
        // What it would send on is a header, unless the request's own was none.
        let own = request.headers.iter().find(|(name, _)| *name == "baggage");
        if own.is_none() && let Some(header) = baggage(&report) {
            prop_assert!(http::HeaderValue::from_str(header).is_ok(), "{header:?}");
        }
    }
}
