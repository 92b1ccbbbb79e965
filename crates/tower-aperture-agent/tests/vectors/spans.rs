//! Exports the spans of ended flows to a served agent, and compares the resulting metric series.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tower_aperture::Engine;

use crate::Verdict;
use crate::over_grpc::{Served, camel_case, encode};

const MILLI: i64 = 1_000_000;

/// The policies that the recording describes. The policy for token returns has one limiter for each
/// of the two cases, because the recording has one series per case and none of a scheduler.
const POLICIES: [(&str, &str); 2] = [
    (
        "tel1",
        "
resources:
  flow_control:
    flux_meters:
      fm-default: {selectors: [{control_point: tel1}]}
      fm-attr:
        selectors: [{control_point: tel1}]
        attribute_key: my.size
        linear_buckets: {start: 10, width: 10, count: 3}
      fm-flow:
        selectors: [{control_point: tel1}]
        attribute_key: flow_duration_ms
        static_buckets: {buckets: [50, 150]}
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{control_point: tel1}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 1000}}
          fill_amount: {constant_signal: {value: 1000}}
        parameters: {interval: 1s}
  - flow_control:
      quota_scheduler:
        selectors: [{control_point: tel1}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 1000}}
          fill_amount: {constant_signal: {value: 1000}}
        rate_limiter: {interval: 1s}
        scheduler:
          workloads:
          - {name: gold, label_matcher: {match_labels: {tier: gold}}, parameters: {priority: 5}}
  - flow_control:
      sampler:
        parameters: {selectors: [{control_point: tel1}]}
        in_ports: {accept_percentage: {constant_signal: {value: 100}}}
  - flow_control:
      concurrency_limiter:
        selectors: [{control_point: tel1}]
        in_ports: {max_concurrency: {constant_signal: {value: 400}}}
        parameters: {max_inflight_duration: 60s}
  - flow_control:
      load_scheduler:
        parameters: {selectors: [{control_point: tel1}], scheduler: {}}
        in_ports: {load_multiplier: {constant_signal: {value: 1}}}
",
    ),
    (
        "tel2",
        "
circuit:
  components:
  - flow_control:
      concurrency_limiter:
        selectors: [{control_point: returned}]
        in_ports: {max_concurrency: {constant_signal: {value: 1}}}
        parameters: {max_inflight_duration: 60s}
  - flow_control:
      concurrency_limiter:
        selectors: [{control_point: kept}]
        in_ports: {max_concurrency: {constant_signal: {value: 1}}}
        parameters: {max_inflight_duration: 60s}
",
    ),
];

pub(crate) fn replay(value: &Value) -> Verdict {
    match compare(value) {
        Ok(series) => Verdict::Partly(format!("{series} series over gRPC")),
        Err(difference) => Verdict::Differs(difference),
    }
}

fn compare(value: &Value) -> Result<usize, String> {
    let mut builder = Engine::builder();
    for (name, text) in POLICIES {
        builder = builder.policy_text(name, text);
    }
    let served = Served::start(builder.build().map_err(|error| error.to_string())?);
    let gold = check(
        &served,
        &json!({"control_point": "tel1", "labels": {"tier": "gold"}, "expect_end": true}),
    )?;
    let plain = check(
        &served,
        &json!({"control_point": "tel1", "expect_end": true}),
    )?;
    let cases = value["cases"].as_array().ok_or("cases are not a list")?;
    for case in cases {
        let change = case["change"].as_str().unwrap_or_default();
        let code = case["http.status_code"].as_str().unwrap_or_default();
        let code = code.split(' ').next().unwrap_or_default();
        export(&served, &span(code, change, &gold, &plain)?)?;
    }
    let dropped = value["dropped_without_metrics"]
        .as_array()
        .map_or(0, Vec::len);
    let discarded = "tower_aperture_agent_spans_discarded_total";
    let text = served.agent.metrics();
    let found = series(&text)
        .into_iter()
        .find(|(id, _)| id.name == discarded);
    if found.is_none_or(|(_, count)| count != dropped as f64) {
        return Err(format!("{discarded}: expected {dropped}"));
    }
    for (point, expect_end) in [("returned", false), ("kept", true)] {
        replay_token_return(&served, value, point, expect_end)?;
    }
    compare_series(value, &served.agent.metrics())
}

fn check(served: &Served, request: &Value) -> Result<Value, String> {
    let answer = served.call("check", request, None)?;
    answer.map_err(|code| format!("the check failed with status {code}"))
}

fn export(served: &Served, span: &Value) -> Result<(), String> {
    let spans = json!({"resource_spans": [{"scope_spans": [{"spans": [span]}]}]});
    match served.call("export", &spans, None)? {
        Ok(answer) if answer == json!({"partial_success": {}}) => Ok(()),
        other => Err(format!("unexpected export response: {other:?}")),
    }
}

fn replay_token_return(
    served: &Served,
    value: &Value,
    point: &str,
    expect_end: bool,
) -> Result<(), String> {
    let steps = &value["token_return"][format!("expect_end={expect_end}")];
    let mut first = None;
    for (at, step) in steps.as_array().into_iter().flatten().enumerate() {
        let Some(decision) = step.as_str().filter(|step| *step != "span") else {
            let first = first.as_ref().ok_or("a span needs an earlier check")?;
            // A span exported twice must return the tokens only once.
            let attributes = json!([
                text("aperture.source", "sdk"),
                text("aperture.check_response", &base64(first)?),
            ]);
            export(served, &json!({ "attributes": attributes }))?;
            continue;
        };
        let answer = check(
            served,
            &json!({"control_point": point, "expect_end": expect_end}),
        )?;
        let own = answer["decision_type"]
            .as_str()
            .unwrap_or("DECISION_TYPE_ACCEPTED");
        if own != format!("DECISION_TYPE_{decision}") {
            return Err(format!(
                "expect_end={expect_end}, step {at}: expected {decision}, got {own}"
            ));
        }
        first.get_or_insert(answer);
    }
    Ok(())
}

fn base64(answer: &Value) -> Result<String, String> {
    let bytes = encode("aperture.flowcontrol.check.v1.CheckResponse", answer)?;
    Ok(STANDARD.encode(bytes))
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"string_value": value}})
}

fn int(key: &str, value: i64) -> Value {
    json!({"key": key, "value": {"int_value": value.to_string()}})
}

fn span(code: &str, change: &str, gold: &Value, plain: &Value) -> Result<Value, String> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|error| error.to_string())?;
    // The recorded timestamps also have a part below the millisecond.
    let end = seconds.as_secs() as i64 * 1000 * MILLI + 400_000;
    let (flow_start, work_start) = (end - 100 * MILLI, end - 80 * MILLI);
    let mut all: Map<String, Value> = Map::new();
    let mut set = |attribute: Value| {
        let key = attribute["key"].as_str().unwrap_or_default().to_owned();
        all.insert(key, attribute);
    };
    set(text("aperture.source", "sdk"));
    set(text("aperture.flow.status", "OK"));
    set(text("http.status_code", code));
    set(text("aperture.check_response", &base64(gold)?));
    set(int("aperture.flow_start_timestamp", flow_start));
    set(int("aperture.workload_start_timestamp", work_start));
    set(int("aperture.flow_end_timestamp", end));
    let mut removed = Vec::new();
    match change {
        "none" | "none (flow status OK)" => {}
        "the three stamps as _ms attributes" => {
            for (key, stamp) in [
                ("flow_start", flow_start),
                ("workload_start", work_start),
                ("flow_end", end),
            ] {
                removed.push(format!("aperture.{key}_timestamp"));
                set(int(&format!("aperture.{key}_timestamp_ms"), stamp / MILLI));
            }
        }
        "check_response as JSON, camelCase" => {
            let answer = camel_case("check", gold)?.to_string();
            set(text("aperture.check_response", &answer));
        }
        "check_response as JSON, snake_case" => {
            set(text("aperture.check_response", &gold.to_string()));
        }
        "no aperture.source" => removed.push("aperture.source".into()),
        "aperture.source = mine" => set(text("aperture.source", "mine")),
        "no aperture.check_response" => removed.push("aperture.check_response".into()),
        "aperture.check_response = text that is neither JSON nor base64" => {
            set(text("aperture.check_response", "?? neither ??"));
        }
        "http.status_code as an int" => {
            let code = code.parse().map_err(|_| "a status code is not a number")?;
            set(int("http.status_code", code));
        }
        "flow status Error" => set(text("aperture.flow.status", "Error")),
        "flow status Unset" => set(text("aperture.flow.status", "Unset")),
        "no flow status attribute" => removed.push("aperture.flow.status".into()),
        "no workload start" => removed.push("aperture.workload_start_timestamp".into()),
        "no flow end" => removed.push("aperture.flow_end_timestamp".into()),
        "workload start as a string" => {
            set(text(
                "aperture.workload_start_timestamp",
                &work_start.to_string(),
            ));
        }
        "_ms workload start -3000 ms and _ms end besides the ns stamps" => {
            set(int(
                "aperture.workload_start_timestamp_ms",
                end / MILLI - 3000,
            ));
            set(int("aperture.flow_end_timestamp_ms", end / MILLI));
        }
        "my.size = int 15" => set(int("my.size", 15)),
        "my.size = double 25.5" => {
            set(json!({"key": "my.size", "value": {"double_value": 25.5}}));
        }
        "my.size = string 35" => set(text("my.size", "35")),
        "my.size = string big" => set(text("my.size", "big")),
        "start stamps 50 ms after the end" => {
            set(int("aperture.flow_start_timestamp", end + 50 * MILLI));
            set(int("aperture.workload_start_timestamp", end + 50 * MILLI));
        }
        "answer of a flow in the default workload" => {
            set(text("aperture.check_response", &base64(plain)?));
        }
        "check_response = {}" => set(text("aperture.check_response", "{}")),
        "check_response = empty string" => set(text("aperture.check_response", "")),
        "decision_type REJECTED, first limiter decision (the sampler) dropped" => {
            let mut rejected = gold.clone();
            rejected["decision_type"] = "DECISION_TYPE_REJECTED".into();
            let decisions = rejected["limiter_decisions"].as_array_mut();
            for decision in decisions.into_iter().flatten() {
                if decision.get("sampler_info").is_some() {
                    decision["dropped"] = true.into();
                }
            }
            set(text("aperture.check_response", &base64(&rejected)?));
        }
        other => return Err(format!("unknown case: {other}")),
    }
    for key in removed {
        all.remove(&key);
    }
    Ok(json!({"attributes": all.into_values().collect::<Vec<_>>()}))
}

/// The name and labels of a series, without the labels that describe the Agent's environment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    name: String,
    labels: BTreeMap<String, String>,
}

fn id(name: &str, labels: impl Iterator<Item = (String, String)>) -> Id {
    const ENVIRONMENT: [&str; 6] = [
        "agent_group",
        "http_scheme",
        "job",
        "service_name",
        "policy_hash",
        "value",
    ];
    let own = labels.filter(|(key, value)| !ENVIRONMENT.contains(&&**key) && !value.is_empty());
    // The same bucket bound may be written in different ways, so bounds are compared as numbers.
    let normalize = |(key, value): (String, String)| match (&*key, value.parse::<f64>()) {
        ("le", Ok(bound)) => (key, bound.to_string()),
        _ => (key, value),
    };
    Id {
        name: name.to_owned(),
        labels: own.map(normalize).collect(),
    }
}

/// Parses series in the OpenMetrics format, whose labels must not contain quotes.
fn series(text: &str) -> BTreeMap<Id, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let read = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels
            .trim_end_matches('}')
            .split("\",")
            .filter_map(|label| {
                let (key, value) = label.split_once("=\"")?;
                Some((key.to_owned(), value.trim_end_matches('"').to_owned()))
            });
        Some((id(name, labels), value.parse().ok()?))
    };
    lines.filter_map(read).collect()
}

fn compare_series(value: &Value, text: &str) -> Result<usize, String> {
    let recorded = value["series"].as_array().ok_or("series are not a list")?;
    let recorded: BTreeMap<Id, f64> = recorded
        .iter()
        .filter_map(|one| {
            let labels = one.as_object()?.iter();
            let labels = labels.filter(|(key, _)| *key != "name");
            let labels =
                labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
            Some((id(one["name"].as_str()?, labels), one["value"].as_f64()?))
        })
        .collect();
    // The default buckets of the recording use another unit.
    let has_other_unit =
        |id: &Id| id.name == "flux_meter_bucket" && id.labels["flux_meter_name"] == "fm-default";
    let own = series(text);
    let mut names = BTreeSet::new();
    for (id, expected) in recorded.iter().filter(|(id, _)| !has_other_unit(id)) {
        names.insert(&*id.name);
        match own.get(id) {
            Some(got) if got == expected => {}
            got => return Err(format!("{id:?}: expected {expected}, got {got:?}")),
        }
    }
    // The recording has buckets for only some status codes.
    names.remove("flux_meter_bucket");
    let unknown = |id: &&Id| names.contains(&*id.name) && !recorded.contains_key(id);
    let extra = own.keys().find(unknown);
    match extra {
        Some(extra) => Err(format!("{extra:?} is not recorded")),
        None => Ok(recorded.keys().filter(|id| !has_other_unit(id)).count()),
    }
}
