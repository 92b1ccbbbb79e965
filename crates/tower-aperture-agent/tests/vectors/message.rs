//! Compares the messages of a served agent with the recorded ones, within the tolerances of the
//! recording.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::compare::{Comparison, Judge, LONG_KEY, close, possible_codes, same, seconds, set};
use crate::over_grpc::normalized;
use crate::recording::{Call, ComparedFields, float};

const INFOS: [&str; 6] = [
    "rate_limiter_info",
    "load_scheduler_info",
    "sampler_info",
    "quota_scheduler_info",
    "concurrency_limiter_info",
    "concurrency_scheduler_info",
];

pub(crate) fn compare(judge: &Judge<'_>, call: &Call, answer: &Value, got: &Value) -> Comparison {
    let expected = normalized(&call.rpc, answer)?;
    let long_keys = call.deviates.contains(&21);
    let recording = judge.recording;
    match &*call.rpc {
        "check" => compare_check(judge, &expected, got, &recording.compared, long_keys),
        "check_http" => {
            let response = "check_response";
            let (own, recorded) = (&got[response], &expected[response]);
            compare_check(judge, recorded, own, &recording.compared_http, long_keys)?;
            compare_http(judge, call, &expected, got)
        }
        "end" => compare_end(&expected, got),
        _ => same("answer", &expected, got),
    }
}

fn compare_check(
    judge: &Judge<'_>,
    expected: &Value,
    got: &Value,
    compared: &ComparedFields,
    long_keys: bool,
) -> Comparison {
    let mut sides = [expected, got].map(|side| side.as_object().cloned().unwrap_or_default());
    let stamp = |name: &str| got[name].as_str().unwrap_or_default();
    if stamp("start").is_empty() || stamp("end").is_empty() {
        return Err(format!(
            "start {:?}, end {:?}",
            stamp("start"),
            stamp("end")
        ));
    }
    let decisions = take(&mut sides, "limiter_decisions");
    let [wanted, own] = decisions.map(|all| all.as_array().cloned().unwrap_or_default());
    let id = |decision: &Value| {
        let text = |field: &str| decision[field].as_str().unwrap_or_default().to_owned();
        (text("policy_name"), text("component_id"))
    };
    let ids = |all: &[Value]| all.iter().map(id).collect::<BTreeSet<_>>();
    same("limiter_decisions", &ids(&wanted), &ids(&own))?;
    for decision in &wanted {
        let found = own
            .iter()
            .find(|one| id(one) == id(decision))
            .unwrap_or(&Value::Null);
        compare_decision(judge, decision, found, long_keys)
            .map_err(|difference| format!("{:?}: {difference}", id(decision)))?;
    }
    let [wanted, own] = take(&mut sides, "flux_meter_infos");
    let name = |info: &Value| info["flux_meter_name"].as_str().map(str::to_owned);
    same("flux_meter_infos", &set(&wanted, name), &set(&own, name))?;
    let [wanted, own] = take(&mut sides, "classifier_infos");
    let key = |info: &Value| {
        let text = |field: &str| info[field].as_str().unwrap_or_default().to_owned();
        (text("policy_name"), text("classifier_index"), text("error"))
    };
    same("classifier_infos", &set(&wanted, key), &set(&own, key))?;
    let codes = possible_codes(expected);
    let [_, own] = take(&mut sides, "denied_response_status_code");
    let code = crate::compare::code(&own).unwrap_or(-1);
    let [wanted, waits] = take(&mut sides, "wait_time");
    if long_keys {
        take(&mut sides, "decision_type");
        take(&mut sides, "reject_reason");
    } else {
        if !codes.contains(&code) {
            return Err(format!(
                "denied_response_status_code: expected one of {codes:?}, got {code}"
            ));
        }
        compare_wait(judge, &wanted, &waits)?;
    }
    for stamp in ["start", "end"] {
        take(&mut sides, stamp);
    }
    for (field, is_compared) in [
        ("flow_label_keys", compared.label_keys),
        ("telemetry_flow_labels", compared.telemetry_labels),
        ("expect_end", compared.expect_end),
    ] {
        if !is_compared {
            take(&mut sides, field);
        }
    }
    let [expected, got] = sides;
    same("other fields", &expected, &got)
}

fn take(sides: &mut [Map<String, Value>; 2], field: &str) -> [Value; 2] {
    sides
        .each_mut()
        .map(|side| side.remove(field).unwrap_or_default())
}

fn compare_wait(judge: &Judge<'_>, expected: &Value, got: &Value) -> Comparison {
    same("wait_time is present", &expected.is_null(), &got.is_null())?;
    let [expected, got] = [expected, got].map(|wait| seconds(wait).unwrap_or(f64::NAN));
    close("wait_time", expected, got, judge.recording.slack)
}

fn compare_decision(
    judge: &Judge<'_>,
    expected: &Value,
    got: &Value,
    long_keys: bool,
) -> Comparison {
    let mut sides = [expected, got].map(|side| side.as_object().cloned().unwrap_or_default());
    let [_, hash] = take(&mut sides, "policy_hash");
    same("policy_hash is present", &true, &hash.is_string())?;
    let [wanted, waits] = take(&mut sides, "wait_time");
    let text = |side: &Map<String, Value>, field: &str| {
        side.get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let ids = sides
        .each_ref()
        .map(|side| [text(side, "policy_name"), text(side, "component_id")]);
    for info in INFOS {
        let infos = take(&mut sides, info);
        same(info, &infos[0].is_object(), &infos[1].is_object())?;
        if !infos[0].is_object() {
            continue;
        }
        let mut infos = infos.map(|info| info.as_object().cloned().unwrap_or_default());
        let [slot, own_slot] = take(&mut infos, "request_id");
        let [tokens, own_tokens] = take(&mut infos, "tokens_info");
        let long = text(&infos[0], "label").len() >= LONG_KEY;
        if long_keys && long {
            return Ok(());
        }
        same(
            "request_id is present",
            &slot.is_string(),
            &own_slot.is_string(),
        )?;
        same(
            "tokens_info is present",
            &tokens.is_object(),
            &own_tokens.is_object(),
        )?;
        let [policy, component] = &ids[0];
        let rate = judge.rates.get(policy, component);
        for (field, rate) in [("remaining", rate), ("current", rate), ("consumed", 0.0)] {
            let value = |tokens: &Value| float(&tokens[field]).unwrap_or(f64::NAN);
            let tolerance = rate * 2.0 * judge.recording.slack;
            close(field, value(&tokens), value(&own_tokens), tolerance)?;
        }
        let [expected, got] = infos;
        same(info, &expected, &got)?;
    }
    compare_wait(judge, &wanted, &waits)?;
    let [expected, got] = sides;
    same("decision", &expected, &got)
}

fn compare_http(judge: &Judge<'_>, call: &Call, expected: &Value, got: &Value) -> Comparison {
    same("status", &expected["status"], &got["status"])?;
    let metadata = got["dynamic_metadata"]["aperture.check_response"].as_str();
    same(
        "dynamic_metadata",
        &true,
        &metadata.is_some_and(|text| !text.is_empty()),
    )?;
    for side in ["ok_response", "denied_response"] {
        same(side, &expected[side].is_object(), &got[side].is_object())?;
    }
    let status = |side: &Value| {
        side["denied_response"]["status"]
            .as_i64()
            .unwrap_or_default()
    };
    let mut codes = possible_codes(&expected["check_response"]);
    codes.push(status(expected));
    if expected["denied_response"].is_object() && !codes.contains(&status(got)) {
        return Err(format!(
            "denied_response.status: one of {codes:?}, got {}",
            status(got)
        ));
    }
    let retry = |side: &Value| {
        let text = side["denied_response"]["headers"]["retry-after"].as_str();
        text.map(|text| text.parse::<f64>().unwrap_or(f64::NAN))
    };
    same(
        "retry-after is present",
        &retry(expected).is_some(),
        &retry(got).is_some(),
    )?;
    if let (Some(expected), Some(got)) = (retry(expected), retry(got)) {
        // A wait within the tolerance may round up to the next second.
        close("retry-after", expected, got, judge.recording.slack.ceil())?;
    }
    if call.deviates.contains(&35) {
        return Ok(());
    }
    let request_baggage = call.request["request"]["headers"]["baggage"].as_str();
    let members = |side: &Value| {
        let header = side["ok_response"]["headers"]["baggage"].as_str()?;
        let added = match request_baggage {
            None => header,
            Some(baggage) => header.strip_prefix(baggage)?.strip_prefix(',')?,
        };
        Some(added.split(',').map(str::to_owned).collect::<BTreeSet<_>>())
    };
    same("baggage", &members(expected), &members(got))
}

fn compare_end(expected: &Value, got: &Value) -> Comparison {
    let statuses = |side: &Value| -> Vec<(bool, String)> {
        let all = side["token_return_statuses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let status = |one: &Value| {
            let error = one["error"].as_str().unwrap_or_default();
            (
                one["returned"].as_bool().unwrap_or_default(),
                error.to_owned(),
            )
        };
        all.iter().map(status).collect()
    };
    same("token_return_statuses", &statuses(expected), &statuses(got))
}
