//! Tests of the forms of a policy, its defaults, and the errors and warnings about it.

use std::time::Duration;

use super::{
    capacity, constant, is_open, limiter, load, loaded, only_limiter, refused, replaced, warnings,
};

const VALUES: &str = "blueprint: rate-limiting/base
policy:
  policy_name: v
  rate_limiter:
    bucket_capacity: 4
    fill_amount: 2
    parameters: {interval: 1s}
    selectors: [{control_point: cp}]
";

fn values(from: &str, to: &str) -> String {
    assert!(VALUES.contains(from), "{from}");
    VALUES.replace(from, to)
}

#[test]
fn errors_name_file_line_column_field_and_correction() {
    let text = replaced("{interval: 30s}", "{interval: 1m}");
    assert_eq!(
        refused(&text),
        "p.yaml:8:34: circuit.components[0].flow_control.rate_limiter.parameters.interval: \
         write `1m` as `60s`: durations of policies are in seconds, and no other unit is \
         accepted"
    );
    let error = load("p.yaml", &text).expect_err("a wrong duration");
    assert_eq!(
        (error.file(), error.line(), error.column()),
        ("p.yaml", Some(8), Some(34))
    );
    assert!(error.field().ends_with("parameters.interval"));
    assert_eq!(
        refused(&replaced("{interval: 30s}", "{}")),
        "p.yaml:8:11: circuit.components[0].flow_control.rate_limiter.parameters.interval: is required"
    );
    assert_eq!(
        refused("circuit: {components: [{flow_control: {rate_limitr: {}}}]}"),
        "p.yaml:1:40: circuit.components[0].flow_control.rate_limitr: unknown component kind \
         `rate_limitr`; did you mean `rate_limiter`?"
    );
}

#[test]
fn defaults_apply_to_absent_fields() {
    let limiter = only_limiter(&limiter(|text| text));
    assert_eq!(limiter.bucket.interval, Duration::from_secs(30));
    assert_eq!(limiter.bucket.max_idle_time, Duration::from_secs(7200));
    assert!(limiter.bucket.continuous_fill && !limiter.bucket.delay_initial_fill);
    assert!(constant(limiter.bucket.pass_through).is_nan());
    assert_eq!(
        (
            limiter.bucket.limit_by_label_key,
            limiter.request.tokens_label_key
        ),
        (None, None)
    );
    assert_eq!(
        (
            limiter.request.denied_response_status_code,
            limiter.bucket.lazy_sync
        ),
        (0, None)
    );
}

#[test]
fn explicit_values_are_kept_even_if_empty() {
    let text = replaced(
        "{interval: 30s}",
        "{interval: 30s, continuous_fill: off, max_idle_time: -5s, limit_by_label_key: '', lazy_sync: {enabled: yes}}",
    )
    .replace("{control_point: shop}", "{control_point: shop, agent_group: '', service: ''}");
    let limiter = only_limiter(&text);
    assert!(!limiter.bucket.continuous_fill);
    assert_eq!(limiter.bucket.max_idle_time, Duration::ZERO);
    assert_eq!(
        (limiter.bucket.limit_by_label_key, limiter.bucket.lazy_sync),
        (None, Some(4))
    );
    let selector = &loaded(&text).policy.components[0].selectors[0];
    assert_eq!(
        (selector.agent_group.as_deref(), &*selector.service),
        (Some(""), "")
    );
    assert_eq!(warnings(&text), [] as [String; 0]);
}

#[test]
fn null_scalars_are_absent_with_a_warning() {
    let text = replaced(
        "{interval: 30s}",
        "{interval: 30s, continuous_fill: null, label_key: ~}",
    )
    .replace(
        "{control_point: shop}",
        "{control_point: shop, agent_group: null, service: }",
    );
    assert!(only_limiter(&text).bucket.continuous_fill);
    let selector = &loaded(&text).policy.components[0].selectors[0];
    assert_eq!(
        (selector.agent_group.as_deref(), &*selector.service),
        (None, "any")
    );
    let warnings = warnings(&text);
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    assert!(
        warnings
            .iter()
            .all(|warning| warning.ends_with("null is treated as absent here"))
    );
}

#[test]
fn unknown_keys_are_warnings_in_policies_and_errors_in_values() {
    let text = replaced("{interval: 30s}", "{interval: 30s, intervall: 1s, foo: 1}");
    let found = warnings(&text);
    assert_eq!(found.len(), 2);
    assert!(
        found[0].ends_with("parameters.intervall: unknown key, ignored; did you mean `interval`?")
    );
    assert!(found[1].ends_with("parameters.foo: unknown key, ignored"));
    let message = refused(&values("{interval: 1s}", "{interval: 1s, intervall: 1s}"));
    assert!(
        message.ends_with("unknown key; did you mean `interval`?"),
        "{message}"
    );
}

#[test]
fn camel_case_spelling_of_a_known_key_is_refused() {
    for text in [
        replaced("in_ports", "inPorts"),
        replaced("{interval: 30s}", "{interval: 30s, limitByLabelKey: a}"),
    ] {
        assert!(refused(&text).contains("keys are in snake_case"));
    }
    assert!(refused(&replaced("flow_control", "flowControl")).contains("`flow_control`"));
}

#[test]
fn duplicate_keys_are_refused_also_in_free_mappings() {
    let matcher = "{control_point: shop, label_matcher: {match_labels: {a: x, a: y}}}";
    assert!(refused(&replaced("{control_point: shop}", matcher)).contains("written twice"));
}

#[test]
fn quoted_numbers_are_accepted_in_policies_only() {
    assert_eq!(capacity(&replaced("value: 2", "value: '2'")), 2.0);
    assert_eq!(capacity(&replaced("value: 2", "value: 0x10")), 16.0);
    assert_eq!(capacity(&replaced("value: 2", "value: 1_000")), 1000.0);
    for value in ["''", "'0x10'", "two", ".nan", ".inf", "true", "[]", "{}"] {
        refused(&replaced("value: 2", &format!("value: {value}")));
    }
    refused(&values("bucket_capacity: 4", "bucket_capacity: '4'"));
}

#[test]
fn texts_numbers_and_booleans_are_not_interchangeable() {
    for value in ["5", "yes", "[a]"] {
        let key = format!("{{interval: 30s, limit_by_label_key: {value}}}");
        refused(&replaced("{interval: 30s}", &key));
    }
    for value in ["'false'", "0", "y"] {
        let fill = format!("{{interval: 30s, continuous_fill: {value}}}");
        assert!(refused(&replaced("{interval: 30s}", &fill)).contains("`true` or `false`"));
    }
}

#[test]
fn status_codes_are_names_or_unquoted_numbers() {
    let with = |code: &str| {
        limiter(|text| {
            format!("{text}          request_parameters: {{denied_response_status_code: {code}}}\n")
        })
    };
    for (code, number) in [("NotFound", 404), ("418", 418), ("0", 0), ("Empty", 0)] {
        assert_eq!(
            only_limiter(&with(code))
                .request
                .denied_response_status_code,
            number
        );
    }
    assert!(refused(&with("'404'")).contains("without quotes: 404"));
    assert!(refused(&with("NotFoud")).ends_with("did you mean `NotFound`?"));
    assert!(refused(&with("Teapot")).contains("not the name of a status code"));
    refused(&with("404.5"));
    refused(&with("99999999999"));
    let values = |code: &str| {
        format!("{VALUES}    request_parameters: {{denied_response_status_code: {code}}}\n")
    };
    assert_eq!(
        only_limiter(&values("BadGateway"))
            .request
            .denied_response_status_code,
        502
    );
    assert!(refused(&values("502")).contains("name the status code"));
}

#[test]
fn intervals_of_zero_or_less_are_refused() {
    for interval in ["0s", "-1s"] {
        let text = replaced("{interval: 30s}", &format!("{{interval: {interval}}}"));
        assert!(refused(&text).contains("more than zero"));
        let text = limiter(|text| {
            text.replace(
                "circuit:",
                &format!("circuit:\n  evaluation_interval: {interval}"),
            )
        });
        assert!(refused(&text).contains("more than zero"));
    }
}

#[test]
fn ports_need_exactly_one_source() {
    for port in [
        "{}",
        "null",
        "{signal_name: null}",
        "{constant_signal: ~}",
        "{signal_name: A, constant_signal: {value: 1}}",
        "{constant_signal: {value: 1, special_value: NaN}}",
        "{constant_signal: {special_value: Inf}}",
        "{constant_signal: {special_value: .nan}}",
        "{constant_signal: 5}",
        "5",
    ] {
        refused(&replaced(
            "bucket_capacity: {constant_signal: {value: 2}}",
            &format!("bucket_capacity: {port}"),
        ));
    }
    let text = replaced("value: 2", "");
    assert_eq!(capacity(&text), 0.0);
}

#[test]
fn documents_of_no_known_form_are_refused() {
    for text in [
        "",
        "5",
        "[]",
        "{}",
        "a: 1",
        "metadata: {name: a}",
        "metadata: {name: a}\nspec: {}",
        "metadata: {}\nspec: {circuit: {}}",
        "metadata: {name: 5}\nspec: {circuit: {}}",
        "metadata: {name: ''}\nspec: {circuit: {}}",
        "kind: Policy\nspec: {circuit: {}}",
        "circuit: null",
        "policy: {policy_name: a}",
        "circuit: {}\n---\ncircuit: {}",
    ] {
        refused(text);
    }
    for (text, name) in [
        ("circuit: {}", "p"),
        ("resources: {infra_meters: {a: [whatever]}}", "p"),
        ("metadata: {name: With Blanks}\nspec: {circuit: }\n", ""),
        (
            "metadata: {name: With Blanks}\nspec: {circuit: {}}\n",
            "With Blanks",
        ),
    ] {
        match load("dir/p.yaml", text) {
            Ok(loaded) => assert_eq!(&*loaded.policy.name, name),
            Err(_) => assert!(name.is_empty(), "{text}"),
        }
    }
}

#[test]
fn values_files_are_checked_strictly() {
    assert_eq!(&*loaded(VALUES).policy.name, "v");
    for (from, to) in [
        ("policy_name: v", "policy_name: 7"),
        ("policy_name: v", "policy_name: ''"),
        (
            "policy_name: v",
            "policy_name: v\n  evaluation_interval: 1s",
        ),
        ("{interval: 1s}", "{interval: 1s, label_key: a}"),
        ("{interval: 1s}", "{interval: 1s, continuous_fill: null}"),
        ("{interval: 1s}", "{interval: 1s, limitByLabelKey: a}"),
        ("{interval: 1s}", "{interval: 1}"),
        ("control_point: cp", "control_point: __REQUIRED_FIELD__"),
        (
            "bucket_capacity: 4",
            "bucket_capacity: 4 # __REQUIRED_FIELD__",
        ),
        ("bucket_capacity: 4", ""),
        ("rate-limiting/base", "rate-limiting/bse"),
        ("rate-limiting/base", "7"),
        ("[{control_point: cp}]", "[]"),
        (
            "[{control_point: cp}]",
            "[{control_point: cp}]\n    alerter: {}",
        ),
        (
            "[{control_point: cp}]",
            "[{control_point: cp}]\n    alerter: {alert_name: a, severity: bad}",
        ),
        ("policy:", "more: 1\npolicy:"),
    ] {
        refused(&values(from, to));
    }
    assert!(
        refused(&values("rate-limiting/base", "rate-limiting/bse"))
            .ends_with("did you mean `rate-limiting/base`?")
    );
}

#[test]
fn own_components_follow_those_of_the_blueprint() {
    let more = "  components:
    - variable: {constant_output: {value: 9}, out_ports: {output: {signal_name: A}}}
    - flow_control:
        rate_limiter:
          in_ports: {bucket_capacity: {signal_name: A}, fill_amount: {constant_signal: {value: 1}}}
          parameters: {interval: 1s}
          selectors: [{control_point: cp2}]
";
    let policy = loaded(&format!("{VALUES}{more}")).policy;
    let ids: Vec<&str> = policy
        .components
        .iter()
        .map(|component| &*component.id)
        .collect();
    assert_eq!(ids, ["root.0", "root.4"]);
    let taken = more.replace("signal_name: A}}}", "signal_name: ACCEPT_PERCENTAGE}}}");
    assert!(refused(&format!("{VALUES}{taken}")).contains("produced twice"));
}

#[test]
fn limiters_that_let_everything_pass_are_warnings() {
    for (from, to) in [
        ("value: 2", "special_value: NaN"),
        ("value: 1", "special_value: NaN"),
    ] {
        assert!(warnings(&replaced(from, to))[0].contains("lets everything pass"));
    }
    let zeros = replaced("value: 2", "value: 0").replace("value: 1", "value: 0");
    assert!(warnings(&zeros)[0].contains("lets everything pass"));
    assert!(is_open(&only_limiter(&zeros)));
    assert!(!is_open(&only_limiter(&replaced("value: 1", "value: 0"))));
}

#[test]
fn hash_depends_on_content_and_not_on_layout() {
    let hash = |text: &str| loaded(text).policy.hash.to_string();
    let plain = hash(VALUES);
    assert_eq!(plain.len(), 32);
    assert!(plain.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(
        plain,
        hash(&format!("# a comment\r\n{}", VALUES.replace('\n', "\r\n")))
    );
    assert_eq!(
        plain,
        hash(&values("{interval: 1s}", "{\"interval\": '1s'}"))
    );
    assert_eq!(
        plain,
        hash(&values(
            "    bucket_capacity: 4\n    fill_amount: 2\n",
            "    fill_amount: 2\n    bucket_capacity: 0x4\n"
        ))
    );
    assert_ne!(
        plain,
        hash(&values("bucket_capacity: 4", "bucket_capacity: 5"))
    );
    assert_ne!(plain, hash(&values("policy_name: v", "policy_name: w")));
}

#[test]
fn anchors_and_merges_are_expanded() {
    let text = "x-common: &common {interval: 9s, continuous_fill: false}
circuit:
  components:
    - flow_control:
        rate_limiter:
          in_ports: {bucket_capacity: &one {constant_signal: {value: 1}}, fill_amount: *one}
          parameters: {<<: *common, interval: 5s}
          selectors: [{control_point: shop}]
";
    let limiter = only_limiter(text);
    assert_eq!(
        (limiter.bucket.interval, limiter.bucket.continuous_fill),
        (Duration::from_secs(5), false)
    );
    assert_eq!(constant(limiter.bucket.fill_amount), 1.0);
}

#[test]
fn example_policy_loads_without_warnings() {
    let text = include_str!("../../../../../examples/policies/per-user-rate-limit.yaml");
    let limiter = only_limiter(text);
    assert_eq!(&*loaded(text).policy.name, "per-user-rate-limit");
    assert_eq!(
        limiter.bucket.limit_by_label_key.as_deref(),
        Some("user_id")
    );
    assert_eq!(warnings(text), [] as [String; 0]);
}

#[test]
fn loaded_policies_are_send_and_sync() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    shared(&loaded(VALUES));
}
