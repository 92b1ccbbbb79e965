//! Compares how policies load with recordings of the tools of the Agent.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{load, summary};
use crate::policy::{Component, LoadedPolicy};
use aperture_core::Labels;

/// Rows of the register of differences for policies that are refused at load here.
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

/// Checks one recorded policy. The error says what differs.
fn check_recording(entry: &Value, accepted: bool) -> Result<(), String> {
    let result = load("recorded.yaml", text(entry, "text"));
    if !accepted || rows(entry).iter().any(|row| REFUSED_ROWS.contains(row)) {
        return match result {
            Err(error) if error.line().is_some() || error.message().contains("document") => Ok(()),
            Err(error) => Err(format!("refused without a position: {error}")),
            Ok(_) => Err("not refused".to_owned()),
        };
    }
    if cfg!(not(feature = "rego")) && text(entry, "text").contains("rego:") {
        // Without the feature `rego`, the policy is refused if a component reads a label of the
        // module.
        return match result {
            Err(error) if !error.message().contains("Rego") => Err(error.to_string()),
            _ => Ok(()),
        };
    }
    let loaded = result.map_err(|error| format!("refused: {error}"))?;
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

fn compare(loaded: &LoadedPolicy, entry: &Value) -> Result<(), String> {
    if let Some(name) = entry["policy_name"].as_str() {
        same("name", &*loaded.policy.name, name)?;
    }
    summary::compare(&loaded.policy, &entry["summary"])
}

/// Checks that the recorded flow reached exactly the components whose selectors match it.
fn compare_matches(loaded: &LoadedPolicy, entry: &Value) -> Result<(), String> {
    let Some(first) = entry["checks"].as_array().and_then(|checks| checks.first()) else {
        return Ok(());
    };
    compare_flow(loaded, &first["request"], &first["response"])
}

fn compare_flow(loaded: &LoadedPolicy, request: &Value, response: &Value) -> Result<(), String> {
    let labels: Labels<'_> = request["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
        .collect();
    let services = request["services"].as_array().cloned().unwrap_or_default();
    let mut reached: Vec<&str> = response["limiter_decisions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|decision| text(decision, "policy_name") == &*loaded.policy.name)
        .map(|decision| text(decision, "component_id"))
        .collect();
    reached.sort_unstable();
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
        // Components after the step that rejected, or after a cache hit, did not decide.
        ours.retain(|id| reached.contains(id));
    }
    same("matched components", ours, reached)
}

#[allow(clippy::needless_pass_by_value)]
fn same<T: PartialEq + std::fmt::Debug>(what: &str, ours: T, theirs: T) -> Result<(), String> {
    if ours == theirs {
        return Ok(());
    }
    Err(format!("{what}: {ours:?}, recorded {theirs:?}"))
}

/// Returns the recorded policies and values files, including invalid ones.
pub(super) fn texts() -> Vec<String> {
    let folder = folder("tests/vectors/policies");
    let files = ["made-policies.json", "made-values.json"].map(|name| read(&folder.join(name)));
    let entries = files.iter().filter_map(Value::as_array).flatten();
    entries
        .map(|entry| text(entry, "text").to_owned())
        .collect()
}

fn check_all(name: &str, accepted: &str, id: &str) {
    let path = folder("tests/vectors/policies").join(name);
    let entries = read(&path);
    let entries = entries.as_array().expect("a list of entries");
    assert!(!entries.is_empty());
    let wrong: Vec<String> = entries
        .iter()
        .filter_map(|entry| {
            let result = check_recording(entry, entry[accepted].as_bool().unwrap_or_default());
            result
                .err()
                .map(|wrong| format!("{}: {wrong}", text(entry, id)))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn recorded_policies_load_as_the_controller_loads_them() {
    check_all("made-policies.json", "applied", "name");
}

#[test]
fn recorded_values_files_expand_as_the_blueprints_do() {
    check_all("made-values.json", "accepted", "file");
}

/// Returns recordings beside the project, or in the folder of the environment variable. There may
/// be none.
fn external_recordings(below: &str, prefix: &str) -> Vec<PathBuf> {
    let given = std::env::var_os("TOWER_APERTURE_VECTORS").map(PathBuf::from);
    let folders = [
        Some(folder("tests/vectors")),
        Some(folder("../../../shared/vectors")),
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
fn documented_policies_load_as_recorded_if_available() {
    for path in external_recordings("policies", "corpus-") {
        let entry = read(&path);
        let result = check_recording(&entry, entry["accepted"].as_bool().unwrap_or_default());
        assert_eq!(result, Ok(()), "{}", path.display());
    }
}

#[test]
fn recorded_flows_reach_the_components_that_match_them() {
    for folder in ["limiters", "schedulers", "caches", "http"] {
        for path in external_recordings(folder, "") {
            let recording = read(&path);
            let policies = recording["policies"].as_array();
            for policy in policies.into_iter().flatten() {
                check_flows(&path, &recording, policy.as_str().expect("a text"));
            }
        }
    }
}

fn check_flows(path: &Path, recording: &Value, policy: &str) {
    let shown = path.display();
    let result = load("recorded.yaml", policy);
    if rows(recording).contains(&30) {
        let error = result.expect_err("a pattern that does not compile");
        assert!(error.message().contains("regular expression"), "{error}");
        return;
    }
    let loaded = result.unwrap_or_else(|error| panic!("{shown}: {error}"));
    for call in recording["calls"].as_array().into_iter().flatten() {
        if call["rpc"] == "check" && call["response"].is_object() {
            let result = compare_flow(&loaded, &call["request"], &call["response"]);
            assert_eq!(result, Ok(()), "{shown}: {}", call["request"]);
        }
    }
}
