//! What the Agent's own tools accept and decode, compared with what we do.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{load, summary};
use crate::flow::Labels;
use crate::policy::{Component, Loaded};

/// Rows of the register of differences that we refuse at load.
const REFUSED_ROWS: [u64; 4] = [30, 31, 33, 34];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(path: &Path) -> Value {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text<'v>(entry: &'v Value, key: &str) -> &'v str {
    entry[key].as_str().unwrap_or_default()
}

fn rows(entry: &Value) -> Vec<u64> {
    let rows = entry["deviates"].as_array().map(Vec::as_slice);
    rows.unwrap_or_default()
        .iter()
        .filter_map(Value::as_u64)
        .collect()
}

/// Judges one recorded policy; what went wrong is the error.
fn judge(entry: &Value, accepted: bool) -> Result<(), String> {
    let verdict = load("recorded.yaml", text(entry, "text"));
    if !accepted || rows(entry).iter().any(|row| REFUSED_ROWS.contains(row)) {
        return match verdict {
            Err(error) if error.line().is_some() || error.message().contains("document") => Ok(()),
            Err(error) => Err(format!("refused without a place: {error}")),
            Ok(_) => Err("not refused".to_owned()),
        };
    }
    if cfg!(not(feature = "rego")) && text(entry, "text").contains("rego:") {
        // Refused by name where something decides by its labels.
        return match verdict {
            Err(error) if !error.message().contains("Rego") => Err(error.to_string()),
            _ => Ok(()),
        };
    }
    let loaded = verdict.map_err(|error| format!("refused: {error}"))?;
    if rows(entry).contains(&32) {
        return if loaded
            .warnings
            .iter()
            .any(|warning| warning.message().contains("null"))
        {
            Ok(())
        } else {
            Err("a null without a warning".to_owned())
        };
    }
    compare(&loaded, entry)?;
    compare_matches(&loaded, entry)
}

fn compare(loaded: &Loaded, entry: &Value) -> Result<(), String> {
    if let Some(name) = entry["policy_name"].as_str() {
        same("name", &*loaded.policy.name, name)?;
    }
    summary::compare(&loaded.policy, &entry["summary"])
}

/// The recorded flows met a component exactly when its selectors match them.
fn compare_matches(loaded: &Loaded, entry: &Value) -> Result<(), String> {
    let Some(first) = entry["checks"].as_array().and_then(|checks| checks.first()) else {
        return Ok(());
    };
    compare_flow(loaded, &first["request"], &first["response"])
}

fn compare_flow(loaded: &Loaded, request: &Value, response: &Value) -> Result<(), String> {
    let labels: Labels<'_> = request["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
        .collect();
    let services = request["services"].as_array().cloned().unwrap_or_default();
    let mut met: Vec<&str> = response["limiter_decisions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|decision| text(decision, "policy_name") == &*loaded.policy.name)
        .map(|decision| text(decision, "component_id"))
        .collect();
    met.sort_unstable();
    let selected = |component: &&Component| {
        component.selectors.iter().any(|selector| {
            &*selector.control_point == text(request, "control_point")
                && selector.agent_group.as_deref() == Some("default")
                && (&*selector.service == "any"
                    || services
                        .iter()
                        .any(|service| service.as_str() == Some(&selector.service)))
                && selector.matcher.matches(&labels)
        })
    };
    let components = &loaded.policy.components;
    let mut ours: Vec<&str> = components
        .iter()
        .filter(selected)
        .map(|component| &*component.id)
        .collect();
    ours.sort_unstable();
    let rejected = response["decision_type"] == "DECISION_TYPE_REJECTED";
    if rejected || request["cache_lookup_request"].is_object() {
        // What comes after the step that rejected, or after a hit, was not asked.
        ours.retain(|id| met.contains(id));
    }
    same("matched components", ours, met)
}

#[allow(clippy::needless_pass_by_value)]
fn same<T: PartialEq + std::fmt::Debug>(what: &str, ours: T, theirs: T) -> Result<(), String> {
    if ours == theirs {
        return Ok(());
    }
    Err(format!("{what}: {ours:?}, recorded {theirs:?}"))
}

/// The recorded policies and values files, wrong ones among them.
pub(super) fn texts() -> Vec<String> {
    let folder = folder("tests/vectors/policies");
    let files = ["made-policies.json", "made-values.json"].map(|name| read(&folder.join(name)));
    let entries = files.iter().filter_map(Value::as_array).flatten();
    entries
        .map(|entry| text(entry, "text").to_owned())
        .collect()
}

fn all(name: &str, accepted: &str, id: &str) {
    let path = folder("tests/vectors/policies").join(name);
    let entries = read(&path);
    let entries = entries.as_array().expect("a list of entries");
    assert!(!entries.is_empty());
    let wrong: Vec<String> = entries
        .iter()
        .filter_map(|entry| {
            let verdict = judge(entry, entry[accepted].as_bool().unwrap_or_default());
            verdict
                .err()
                .map(|wrong| format!("{}: {wrong}", text(entry, id)))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn recorded_policies_load_as_the_controller_loads_them() {
    all("made-policies.json", "applied", "name");
}

#[test]
fn recorded_values_files_expand_as_the_blueprints_do() {
    all("made-values.json", "accepted", "file");
}

/// Recordings that stand beside the project or where the environment says; none is no failure.
fn elsewhere(below: &str, prefix: &str) -> Vec<PathBuf> {
    let given = std::env::var_os("TOWER_APERTURE_VECTORS").map(PathBuf::from);
    let folders = [
        Some(folder("tests/vectors")),
        Some(folder("../shared/vectors")),
        given,
    ];
    let mut paths: Vec<PathBuf> = folders
        .into_iter()
        .flatten()
        .filter_map(|folder| fs::read_dir(folder.join(below)).ok())
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            name.starts_with(prefix) && name.ends_with(".json")
        })
        .collect();
    paths.sort();
    paths
}

#[test]
fn documented_policies_load_as_recorded_where_they_are_at_hand() {
    for path in elsewhere("policies", "corpus-") {
        let entry = read(&path);
        let verdict = judge(&entry, entry["accepted"].as_bool().unwrap_or_default());
        assert_eq!(verdict, Ok(()), "{}", path.display());
    }
}

#[test]
fn recorded_flows_meet_the_components_that_match_them() {
    for folder in ["limiters", "schedulers", "caches", "http"] {
        for path in elsewhere(folder, "") {
            let recording = read(&path);
            let policies = recording["policies"].as_array();
            for policy in policies.into_iter().flatten() {
                judge_flows(&path, &recording, policy.as_str().expect("a text"));
            }
        }
    }
}

fn judge_flows(path: &Path, recording: &Value, policy: &str) {
    let shown = path.display();
    let verdict = load("recorded.yaml", policy);
    if rows(recording).contains(&30) {
        let error = verdict.expect_err("a pattern that does not compile");
        assert!(error.message().contains("regular expression"), "{error}");
        return;
    }
    let loaded = verdict.unwrap_or_else(|error| panic!("{shown}: {error}"));
    for call in recording["calls"].as_array().into_iter().flatten() {
        if call["rpc"] == "check" && call["response"].is_object() {
            let verdict = compare_flow(&loaded, &call["request"], &call["response"]);
            assert_eq!(verdict, Ok(()), "{shown}: {}", call["request"]);
        }
    }
}
