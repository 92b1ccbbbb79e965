//! Flux meters, as far as they are seen from outside.

use tower_aperture::Engine;

use crate::support::*;

fn meter(name: &str, more: &str) -> String {
    format!(
        "resources:\n  flow_control:\n    flux_meters:\n      {name}: {{selectors: [{{control_point: {HERE}}}]{more}}}\n"
    )
}

#[test]
fn the_names_of_flux_meters_are_shared_by_all_policies() {
    let both = |first: &str, second: &str| {
        Engine::builder()
            .policy_text("one", meter(first, ""))
            .policy_text("two", meter(second, ""))
            .build()
    };
    let engine = both("latency", "other").expect("two names");
    let report = check(&engine, &[]);
    let mut names: Vec<&str> = report.flux_meters.iter().map(|name| &**name).collect();
    names.sort_unstable();
    assert_eq!(names, ["latency", "other"]);

    let error = both("latency", "latency").expect_err("one name");
    assert_eq!(error.file(), "two");
    assert!(error.to_string().contains("`latency`"), "{error}");
}

#[test]
fn a_flux_meter_is_named_where_its_selectors_match() {
    let label = "control_point: here, label_matcher: {match_labels: {tier: gold}}";
    let text = meter("gold", "").replace("control_point: here", label);
    let engine = Engine::builder().policy_text("one", text).build();
    let engine = engine.expect("a sound policy");
    assert!(check(&engine, &[]).flux_meters.is_empty());
    assert_eq!(check(&engine, &[("tier", "gold")]).flux_meters.len(), 1);
}

#[test]
fn a_flux_meter_of_what_is_not_measured_is_warned_about() {
    let text = meter("odd", ", attribute_key: disk_wait_ms");
    let engine = Engine::builder().policy_text("one", text).build();
    let warnings = engine.expect("a sound policy").warnings();
    let told = warnings.iter().any(|warning| {
        let text = warning.to_string();
        text.contains("`odd`") && text.contains("`disk_wait_ms`")
    });
    assert!(told, "{warnings:?}");
}
