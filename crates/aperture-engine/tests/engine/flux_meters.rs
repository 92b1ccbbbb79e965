//! Flux meters: their names in policies and reports, and warnings about them.

use tower_aperture::Engine;

use crate::support::*;

fn meter(name: &str, more: &str) -> String {
    format!(
        "resources:\n  flow_control:\n    flux_meters:\n      {name}: {{selectors: [{{control_point: {HERE}}}]{more}}}\n"
    )
}

#[test]
fn flux_meter_names_are_unique_across_policies() {
    let both = |first: &str, second: &str| {
        Engine::builder()
            .policy_text("one", meter(first, ""))
            .policy_text("two", meter(second, ""))
            .build()
    };
    let engine = both("latency", "other").expect("the names differ");
    let report = check(&engine, &[]);
    let mut names: Vec<&str> = report.flux_meters.iter().map(|name| &**name).collect();
    names.sort_unstable();
    assert_eq!(names, ["latency", "other"]);

    let error = both("latency", "latency").expect_err("the names are the same");
    assert_eq!(error.file(), "two");
    assert!(error.to_string().contains("`latency`"), "{error}");
}

#[test]
fn a_report_names_the_flux_meters_whose_selectors_match() {
    let label = "control_point: here, label_matcher: {match_labels: {tier: gold}}";
    let text = meter("gold", "").replace("control_point: here", label);
    let engine = Engine::builder().policy_text("one", text).build();
    let engine = engine.expect("the policy is valid");
    assert!(check(&engine, &[]).flux_meters.is_empty());
    assert_eq!(check(&engine, &[("tier", "gold")]).flux_meters.len(), 1);
}

#[test]
fn a_flux_meter_of_an_unknown_attribute_is_warned_about() {
    let text = meter("odd", ", attribute_key: disk_wait_ms");
    let engine = Engine::builder().policy_text("one", text).build();
    let warnings = engine.expect("the policy is valid").warnings();
    let is_warned = warnings.iter().any(|warning| {
        let text = warning.to_string();
        text.contains("`odd`") && text.contains("`disk_wait_ms`")
    });
    assert!(is_warned, "{warnings:?}");
}
