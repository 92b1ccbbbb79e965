//! HTTP checks: behaviour that the recordings do not cover, and deliberate differences from an
//! Agent. A number in a test's name is its row in the register of quirks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;
use tower_aperture::engine::{Engine, HttpAnswer, HttpInput, HttpReport, HttpRequest};

use crate::support::*;

/// Creates an engine with a classifier of these rules, in YAML's flow style.
fn classifier(rules: &str) -> Engine {
    let text = format!(
        "resources:\n  flow_control:\n    classifiers:\n    - selectors: [{{control_point: {HERE}}}]\n      \
         rules: {rules}\n"
    );
    let engine = Engine::builder().policy_text("rules", text).build();
    engine.expect("the rules are valid")
}

fn check_request(engine: &Engine, request: HttpRequest<'_>) -> HttpReport {
    let report = engine.check_http(&HttpInput::new(HERE).request(request));
    report.expect("the input is valid")
}

/// Returns the `baggage` header that the answer to an accepted request sets.
fn baggage(report: &HttpReport) -> Option<&str> {
    match &report.answer {
        HttpAnswer::Ok { headers } => headers.get("baggage").map(String::as_str),
        other => panic!("no policy limits the request: {other:?}"),
    }
}

/// Returns the labels that an engine takes from a `baggage` header.
fn labels_of_baggage(value: &str) -> BTreeMap<String, String> {
    let engine = Engine::builder()
        .build()
        .expect("an engine without policies is valid");
    let headers = [("baggage", value)];
    let request = HttpRequest {
        headers: &headers,
        ..HttpRequest::default()
    };
    check_request(&engine, request).check.telemetry_flow_labels
}

#[test]
fn row_35_characters_that_baggage_cannot_carry_are_percent_encoded() {
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
        let report = check_request(
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
    assert_eq!(
        baggage(&check_request(&engine, request)),
        Some("old,stuff;,kind=%25")
    );
}

#[test]
fn row_36_json_pointers_escape_a_tilde_as_the_rfc_says() {
    let engine =
        classifier("{tilde: {extractor: {json: {from: request.http.body, pointer: /a~0b}}}}");
    let request = HttpRequest {
        body: r#"{"a~b": "found"}"#,
        ..HttpRequest::default()
    };
    let report = check_request(&engine, request);
    assert_eq!(report.check.telemetry_flow_labels["tilde"], "found");
}

#[test]
fn row_38_baggage_values_are_decoded_twice() {
    let labels = labels_of_baggage("a=x+y,b=x%2By,c=x%252By,d=x%2520y,e=%25,e2=1");
    assert_eq!(labels["a"], "x y");
    assert_eq!(labels["b"], "x y");
    assert_eq!(labels["c"], "x+y");
    assert_eq!(labels["d"], "x y");
    assert!(!labels.contains_key("e") && labels.contains_key("e2"));
}

#[test]
fn row_39_baggage_bytes_that_are_not_utf8_become_the_replacement_character() {
    assert_eq!(labels_of_baggage("a=x%FFy")["a"], "x\u{fffd}y");
    assert_eq!(labels_of_baggage("a=x%25FFy")["a"], "x\u{fffd}y");
}

#[tokio::test(start_paused = true)]
async fn an_http_request_waits_in_queues_like_any_flow() {
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
    let engine = engine.expect("the policy is valid");
    let input = HttpInput::new(HERE);
    let start = || engine.start_http(&input).expect("the input is valid");
    let (first, ticket) = start().await;
    assert!(first.accepted());

    // A check that does not wait gets no slot.
    let denied = engine.check_http(&input).expect("the input is valid");
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
fn labels_without_telemetry_stay_out_of_baggage_and_reports() {
    let engine = classifier(
        "{quiet: {extractor: {from: request.http.method}, telemetry: false}, \
         loud: {extractor: {from: request.http.method}}}",
    );
    let request = HttpRequest {
        method: "GET",
        ..HttpRequest::default()
    };
    let report = check_request(&engine, request);
    assert_eq!(baggage(&report), Some("loud=GET"));
    assert!(report.check.flow_label_keys.contains(&"quiet".to_owned()));
    assert!(!report.check.telemetry_flow_labels.contains_key("quiet"));
}

#[test]
fn services_come_from_the_caller() {
    let (engine, _) = Limiter::new(1.0, 0.0)
        .selectors("[{control_point: here, service: shop}]")
        .engine();
    let input = HttpInput::new(HERE)
        .source_services(&["web", "mobile"])
        .destination_services(&["cart", "shop"]);
    let report = engine.check_http(&input).expect("the input is valid");
    assert_eq!(report.check.limiter_decisions.len(), 1);
    let labels = &report.check.telemetry_flow_labels;
    assert_eq!(labels["aperture.source_fqdns"], "web,mobile");
    assert_eq!(labels["aperture.destination_fqdns"], "cart,shop");
    assert_eq!(report.check.services, ["cart", "shop"]);
}

#[test]
fn retry_after_rounds_the_wait_up_to_whole_seconds() {
    for (interval, expected) in [(200, "1"), (1000, "1"), (1001, "2"), (3000, "3")] {
        let limiter = Limiter::new(1.0, 1.0).interval(Duration::from_millis(interval));
        let (engine, _) = limiter.engine();
        assert!(check_request(&engine, HttpRequest::default()).accepted());
        let report = check_request(&engine, HttpRequest::default());
        assert_eq!(report.status_code(), 14);
        assert_eq!(report.check.wait_time, None, "the HTTP report has it");
        assert_eq!(report.wait_time, Some(Duration::from_millis(interval)));
        let HttpAnswer::Denied { status, headers } = &report.answer else {
            panic!("the only token was taken");
        };
        assert_eq!((*status, &*headers["retry-after"]), (429, expected));
    }
}

#[test]
fn time_grows_linearly_with_the_number_of_headers() {
    let engine = Engine::builder()
        .build()
        .expect("an engine without policies is valid");
    let mut names = String::new();
    for number in 0..50_000 {
        write!(names, "x-{number} ").expect("writing to a string cannot fail");
    }
    let headers: Vec<(&str, &str)> = names.split_whitespace().map(|name| (name, "v")).collect();
    let request = HttpRequest {
        headers: &headers,
        ..HttpRequest::default()
    };
    // Comparing each label with all others would take minutes.
    assert_eq!(
        check_request(&engine, request).check.flow_label_keys.len(),
        50_008
    );
}

proptest! {
    #[test]
    fn any_request_is_decided_and_gets_valid_baggage(
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
        let report = check_request(&engine, request);
        // Baggage of the request's own is passed on as it is, so it may be no valid header value.
        let own = request.headers.iter().find(|(name, _)| *name == "baggage");
        if own.is_none() && let Some(header) = baggage(&report) {
            prop_assert!(http::HeaderValue::from_str(header).is_ok(), "{header:?}");
        }
    }
}
