//! Rego modules of classifiers: the labels that they set, and the bounds of their evaluation.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tower_aperture::PolicyError;
use tower_aperture::engine::{
    Engine, HttpAnswer, HttpInput, HttpReport, HttpRequest, SocketAddress,
};

use crate::support::*;

/// Returns a policy whose classifier runs the module. `labels` maps each label to its `telemetry`.
fn policy(module: &str, labels: &str) -> String {
    let mut text = format!(
        "resources:\n  flow_control:\n    classifiers:\n    - selectors: [{{control_point: {HERE}}}]\n      \
         rego:\n        labels: {labels}\n        module: |\n"
    );
    for line in module.lines() {
        writeln!(text, "          {line}").expect("writing to a string cannot fail");
    }
    text
}

fn load(module: &str, labels: &str) -> Result<Engine, PolicyError> {
    let builder = Engine::builder();
    builder
        .policy_text("rego.yaml", policy(module, labels))
        .build()
}

fn engine_with(module: &str) -> Engine {
    load(module, "{label: {telemetry: true}}").expect("the module compiles")
}

fn check_request(engine: &Engine, input: &HttpInput<'_>) -> HttpReport {
    engine.check_http(input).expect("the input is valid")
}

/// Returns the label `label` that the module sets for a request.
fn label(engine: &Engine, request: HttpRequest<'_>) -> Option<String> {
    let report = check_request(engine, &HttpInput::new(HERE).request(request));
    report.check.telemetry_flow_labels.get("label").cloned()
}

#[test]
fn a_module_sets_the_label_that_keys_a_limiter() {
    let text = policy(
        "package tiers\n\
         tier = \"gold\" { startswith(input.attributes.request.http.headers[\"x-key\"], \"g-\") }\n\
         tier = \"free\" { not startswith(input.attributes.request.http.headers[\"x-key\"], \"g-\") }",
        "{tier: {telemetry: true}}",
    ) + "
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{control_point: here}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 1}}
          fill_amount: {constant_signal: {value: 1}}
        parameters: {interval: 3600s, limit_by_label_key: tier}
";
    let engine = Engine::builder().policy_text("tiers.yaml", text).build();
    let engine = engine.expect("the policy is valid");
    assert!(engine.warnings().is_empty(), "{:?}", engine.warnings());
    assert!(
        engine.describe().contains("sets tier"),
        "{}",
        engine.describe()
    );
    let accepted = |key| {
        let request = HttpRequest {
            headers: &[("x-key", key)],
            ..HttpRequest::default()
        };
        let report = check_request(&engine, &HttpInput::new(HERE).request(request));
        assert_eq!(report.check.classifiers.len(), 1);
        report.accepted()
    };
    assert!(accepted("g-1"));
    assert!(!accepted("g-2"), "flows of a tier share a bucket");
    assert!(accepted("f-1"));
    assert!(!accepted("f-2"));
}

#[test]
fn telemetry_flags_decide_which_labels_leave_the_engine() {
    let engine = load(
        "package p\nloud = \"a b\"\nquiet = \"q\"\nplain = 1\nnulled = 2",
        "{loud: {telemetry: true}, quiet: {telemetry: false}, plain: {}, nulled: null}",
    );
    let report = check_request(&engine.expect("the module compiles"), &HttpInput::new(HERE));
    let HttpAnswer::Ok { headers } = &report.answer else {
        panic!("no policy limits the request");
    };
    let baggage = headers.get("baggage").map(String::as_str);
    assert_eq!(baggage, Some("loud=a-b,nulled=2,plain=1"));
    assert!(report.check.flow_label_keys.contains(&"quiet".to_owned()));
    assert!(!report.check.telemetry_flow_labels.contains_key("quiet"));
}

#[test]
fn the_input_document_equals_that_of_an_agent() {
    let dump = engine_with("package p\nlabel = json.marshal(input)");
    let bare = check_request(&dump, &HttpInput::new(HERE))
        .check
        .telemetry_flow_labels;
    // Blanks, quotes, commas and slashes in labels become `-`.
    let cleaned = |text: &str| text.replace(['"', ',', '/', ' ', ';', '\\'], "-");
    let end = |key: &str, address: &str, port: u16, services: &str| {
        format!(r#"{{"{key}":{services},"socketAddress":{{"address":"{address}","port":{port}}}}}"#)
    };
    let expected = format!(
        r#"{{"attributes":{{"destination":{},"request":{{"http":{{"body":"","headers":{{}},"host":"","method":"","path":"","protocol":"","scheme":"","size":0}}}},"source":{}}},"parsed_body":{{}},"parsed_path":[""],"parsed_query":{{}},"truncated_body":false}}"#,
        end("destination_fqdns", "", 0, r#"[""]"#),
        end("source_fqdns", "", 0, r#"[""]"#),
    );
    // Members are sorted: `socketAddress` comes before `source_fqdns`.
    let expected = expected.replace(
        r#"{"source_fqdns":[""],"socketAddress":{"address":"","port":0}}"#,
        r#"{"socketAddress":{"address":"","port":0},"source_fqdns":[""]}"#,
    );
    assert_eq!(bare["label"], cleaned(&expected));

    let body = r#"{"a":[1,null]}"#;
    let input = HttpInput::new(HERE)
        .source(SocketAddress::new("10.0.0.9", 1234))
        .destination(SocketAddress::new("::1", 80))
        .source_services(&["web", "app"])
        .destination_services(&["shop"])
        .request(HttpRequest {
            method: "POST",
            path: "//a%20b/c/?x=1&y=%41+b&x=&z&;bad=1&w=%zz#frag",
            host: "shop.example",
            scheme: "https",
            protocol: "HTTP/2",
            size: 14,
            body,
            headers: &[
                ("content-type", "application/json; charset=utf-8"),
                ("X-A", "v"),
            ],
        });
    let full = check_request(&dump, &input).check.telemetry_flow_labels;
    let expected = r#"{"attributes":{"destination":{"destination_fqdns":["shop"],"socketAddress":{"address":"::1","port":80}},"request":{"http":{"body":"{\"a\":[1,null]}","headers":{"X-A":"v","content-type":"application/json; charset=utf-8"},"host":"shop.example","method":"POST","path":"//a%20b/c/?x=1&y=%41+b&x=&z&;bad=1&w=%zz#frag","protocol":"HTTP/2","scheme":"https","size":14}},"source":{"socketAddress":{"address":"10.0.0.9","port":1234},"source_fqdns":["web","app"]}},"parsed_body":{"a":[1,null]},"parsed_path":["a%20b","c",""],"parsed_query":{"x":["1",""],"y":["A b"],"z":[""]},"truncated_body":false}"#;
    assert_eq!(full["label"], cleaned(expected));
}

#[test]
fn a_body_is_parsed_if_its_content_type_is_json() {
    let dump =
        engine_with("package p\nlabel = json.marshal([input.parsed_body, input.truncated_body])");
    let json = ("content-type", "application/json");
    for (headers, body, expected) in [
        (vec![json], "[1]", "[[1]-false]"),
        (
            vec![("Content-Type", "application/json")],
            "[1]",
            "[{}-false]",
        ),
        (vec![("content-type", "text/plain")], "[1]", "[{}-false]"),
        (vec![], "[1]", "[{}-false]"),
        (vec![json], "", "[null-false]"),
        (vec![json], "[1", "[{}-false]"),
        (vec![json, ("content-length", "100")], "[1]", "[null-true]"),
        (vec![json, ("content-length", "3")], "[1]", "[[1]-false]"),
        (vec![json, ("content-length", "x")], "[1]", "[[1]-false]"),
    ] {
        let request = HttpRequest {
            body,
            headers: &headers,
            ..HttpRequest::default()
        };
        assert_eq!(
            label(&dump, request).as_deref(),
            Some(expected),
            "{headers:?} {body}"
        );
    }
}

#[test]
fn a_module_that_does_not_compile_is_refused_with_file_field_and_reason() {
    for (module, reason) in [
        ("package p\nlabel = {", "does not compile: line 3"),
        ("label = 1", "does not compile"),
        ("package p\nlabel = x { y := 1 }", "`x` has no value"),
        (
            "package p\nlabel = crypto.nonsense(1)",
            "`crypto.nonsense` is not a function",
        ),
        ("package p\nlabel = label", "depends on itself"),
    ] {
        let error = load(module, "{label: {}}").expect_err(module);
        let text = error.to_string();
        assert_eq!(error.file(), "rego.yaml");
        assert!(
            error.field().ends_with("classifiers[0].rego.module"),
            "{text}"
        );
        assert!(error.line().is_some() && text.contains(reason), "{text}");
    }
}

#[test]
fn a_module_that_fails_sets_no_labels_and_is_counted() {
    let engine = load(
        "package p\nfine = 1\nlabel = 1 { input }\nlabel = 2 { input }",
        "{fine: {}, label: {}}",
    );
    let engine = engine.expect("conflicts appear when the module runs");
    let report = check_request(&engine, &HttpInput::new(HERE));
    assert!(report.accepted());
    assert!(!report.check.telemetry_flow_labels.contains_key("fine"));
    assert_eq!(
        report.check.classifiers.len(),
        1,
        "the failed classifier is reported"
    );
    assert_eq!(engine.stats().classifier_failures, 1);

    // An undefined label is no failure.
    let engine = engine_with("package p\nlabel = input.nothing.here");
    assert_eq!(label(&engine, HttpRequest::default()), None);
    assert_eq!(engine.stats().classifier_failures, 0);
}

#[test]
fn a_module_that_runs_too_long_is_stopped() {
    let lists = "l = [0,1,2,3,4,5,6,7,8,9]\n";
    let mut loops = String::from("label = count([1 |");
    for _ in 0..12 {
        loops.push_str(" _ = l[_];");
    }
    for module in [
        format!("package p\n{lists}{loops} true])"),
        format!("package p\n{lists}{loops} true]) {{ true }}"),
        "package p\nlabel = sum([1 | r := numbers.range(1, 9999); r[_] > 0; r[_] > 0; r[_] > 0])".to_owned(),
        "package p\nf(x) = y { y := count([1 | numbers.range(1, 9999)[_]; numbers.range(1, 9999)[_]]) }\nlabel = f(1) + f(2) + f(3)".to_owned(),
    ] {
        let engine = engine_with(&module);
        let started = Instant::now();
        assert_eq!(label(&engine, HttpRequest::default()), None, "{module}");
        assert!(started.elapsed() < Duration::from_secs(20), "{module}");
        assert_eq!(engine.stats().classifier_failures, 1);
    }
}

#[test]
fn a_long_chain_of_rules_is_refused_or_evaluated_and_never_overflows_the_stack() {
    for length in [10, 1000, 20_000] {
        let chains = [
            (0..length)
                .map(|rule| format!("r{rule} = r{}\n", rule + 1))
                .collect::<String>(),
            (0..length)
                .map(|rule| format!("r{rule}.v = r{}\n", rule + 1))
                .collect(),
            (0..length)
                .map(|rule| format!("r{rule} = {{\"v\": r{}}}\n", rule + 1))
                .collect(),
            (0..length)
                .map(|rule| format!("f{rule}(x) = f{}(x)\n", rule + 1))
                .collect(),
            format!(
                "r{length} = {}1{}\n",
                "[".repeat(length),
                "]".repeat(length)
            ),
        ];
        for chain in chains {
            let module =
                format!("package p\nlabel = r0 {{ r0 }}\n{chain}r{length} = 1\nf{length}(x) = x\n");
            if let Ok(engine) = load(&module, "{label: {telemetry: true}}") {
                let _ = label(&engine, HttpRequest::default());
            }
        }
    }
}

#[test]
fn a_huge_request_is_not_evaluated() {
    let engine = engine_with("package p\nlabel = \"set\"");
    let large = "x".repeat(300 << 10);
    let headers: Vec<(&str, &str)> = (0..10_000).map(|_| ("a", "")).collect();
    let query = format!("/?{}", "&".repeat(9_000));
    for request in [
        HttpRequest {
            body: &large,
            ..HttpRequest::default()
        },
        HttpRequest {
            path: &large,
            ..HttpRequest::default()
        },
        HttpRequest {
            headers: &[("a", &large)],
            ..HttpRequest::default()
        },
        HttpRequest {
            headers: &headers,
            ..HttpRequest::default()
        },
        HttpRequest {
            path: &query,
            ..HttpRequest::default()
        },
    ] {
        assert_eq!(label(&engine, request), None);
    }
    assert_eq!(engine.stats().classifier_failures, 5);
    let fits = "x".repeat(200 << 10);
    let request = HttpRequest {
        body: &fits,
        ..HttpRequest::default()
    };
    assert_eq!(label(&engine, request).as_deref(), Some("set"));
}

#[test]
fn a_value_that_is_too_long_sets_no_label() {
    let engine = engine_with("package p\nlabel = input.attributes.request.http.body");
    let long = "x".repeat(65 << 10);
    let request = HttpRequest {
        body: &long,
        ..HttpRequest::default()
    };
    assert_eq!(label(&engine, request), None);
    assert_eq!(engine.stats().classifier_failures, 1);
}

#[test]
fn a_documented_module_takes_the_user_of_a_graphql_mutation_as_label() {
    let module = "package graphql_users
import future.keywords.if
tree := graphql.parse_query(input.parsed_body.query)
token := t if {
  header := input.attributes.request.http.headers.authorization
  startswith(header, \"Bearer \")
  t := substring(header, count(\"Bearer \"), -1)
}
claims := c if {
  io.jwt.verify_hs256(token, \"your-256-bit-secret\")
  [_, c, _] := io.jwt.decode(token)
}
creates if {
  some node
  walk(tree, [_, node])
  node.Name == \"createOrder\"
  count(node.SelectionSet) > 0
}
label := c if {
  creates
  c := claims.name
}";
    let engine = engine_with(module);
    let token = "Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";
    let label_of = |query: &str, token: &str| {
        let body = format!("{{\"query\": \"{query}\"}}");
        let request = HttpRequest {
            body: &body,
            headers: &[
                ("content-type", "application/json"),
                ("authorization", token),
            ],
            ..HttpRequest::default()
        };
        label(&engine, request)
    };
    let mutation = "mutation { createOrder(sku: 1) { id } }";
    assert_eq!(label_of(mutation, token).as_deref(), Some("John-Doe"));
    assert_eq!(label_of("{ orders { id } }", token), None);
    assert_eq!(label_of("no GraphQL {", token), None);
    assert_eq!(
        label_of(mutation, &token.replace("SflK", "SflL")),
        None,
        "the token is forged"
    );
    assert_eq!(engine.stats().classifier_failures, 0);
}

proptest! {
    #[test]
    fn any_request_is_evaluated_without_a_panic(
        texts in prop::collection::vec(any::<String>(), 3),
        json in "[\\[\\]{}\",:0-9eE.+a-z\\\\ ]{0,40}",
    ) {
        let engine = engine_with(
            "package p\nlabel = json.marshal([input.parsed_query, input.parsed_path, input.parsed_body, \
             graphql.parse_query(input.attributes.request.http.host)])",
        );
        let request = HttpRequest {
            path: &texts[0],
            host: &texts[1],
            body: &json,
            headers: &[("content-type", "application/json"), ("x", &texts[2])],
            ..HttpRequest::default()
        };
        let _ = label(&engine, request);
    }
}
