//! Selectors: which flows a component decides. A number in a test's name is its row in the register
//! of quirks.

use tower_aperture::FlowParams;
use tower_aperture::engine::{CheckInput, Engine};

use crate::support::*;

/// Returns how many components decide a flow.
fn count_deciding(
    engine: &Engine,
    control_point: &str,
    services: &[&str],
    labels: &[(&str, &str)],
) -> usize {
    let params: FlowParams<'_> = params(labels);
    let input = CheckInput::new(control_point, &params).services(services);
    engine.check(&input).limiter_decisions.len()
}

#[test]
fn control_points_and_services_match_exactly() {
    let (engine, _) = engine(&[
        Limiter::new(99.0, 0.0),
        Limiter::new(99.0, 0.0).selectors("[{control_point: here, service: shop}]"),
        Limiter::new(99.0, 0.0).selectors("[{control_point: here, service: any}]"),
        Limiter::new(99.0, 0.0).selectors("[{control_point: here, service: ''}]"),
    ]);
    assert_eq!(count_deciding(&engine, "here", &[], &[]), 2);
    assert_eq!(count_deciding(&engine, "here", &["shop"], &[]), 3);
    assert_eq!(count_deciding(&engine, "here", &["Shop", "shop "], &[]), 2);
    assert_eq!(count_deciding(&engine, "here", &["shop", ""], &[]), 4);
    assert_eq!(count_deciding(&engine, "Here", &["shop"], &[]), 0);
    assert_eq!(count_deciding(&engine, "", &[], &[]), 0);
}

#[test]
fn a_component_decides_once_however_many_selectors_match() {
    let (engine, _) = Limiter::new(9.0, 0.0)
        .selectors(
            "[{control_point: here}, {control_point: here, service: shop}, \
             {control_point: here, label_matcher: {match_labels: {tier: gold}}}, \
             {control_point: there}]",
        )
        .engine();
    let gold = [("tier", "gold")];
    assert_eq!(
        count_deciding(&engine, "here", &["shop", "shop", "any"], &gold),
        1
    );
    assert_eq!(count_deciding(&engine, "there", &[], &[]), 1);
    let report = check(&engine, &[]);
    assert_eq!(tokens(&report, "root.0").remaining, 6.0);
}

#[test]
fn a_label_matcher_narrows_its_selector() {
    let (engine, _) = Limiter::new(9.0, 0.0)
        .selectors(
            "[{control_point: here, service: shop, label_matcher: {match_labels: {tier: gold}}}, \
             {control_point: here, label_matcher: {match_labels: {tier: silver}}}]",
        )
        .engine();
    assert_eq!(
        count_deciding(&engine, "here", &["shop"], &[("tier", "gold")]),
        1
    );
    assert_eq!(count_deciding(&engine, "here", &[], &[("tier", "gold")]), 0);
    assert_eq!(
        count_deciding(&engine, "here", &[], &[("tier", "silver")]),
        1
    );
    assert_eq!(count_deciding(&engine, "here", &["shop"], &[]), 0);
}

/// Returns limiters whose selectors have different agent groups, or none.
fn grouped() -> [Limiter; 4] {
    let at = |group: &str| {
        Limiter::new(9.0, 1.0).selectors(&format!("[{{control_point: here{group}}}]"))
    };
    [
        at(""),
        at(", agent_group: default"),
        at(", agent_group: aperture-cloud"),
        at(", agent_group: other"),
    ]
}

#[test]
fn row_20_an_engine_without_a_group_uses_selectors_without_a_group_or_of_default() {
    let engine = builder(&grouped()).build().expect("the policy is valid");
    let report = check(&engine, &[]);
    decision_of(&report, "root.0");
    decision_of(&report, "root.1");
    assert_eq!(report.limiter_decisions.len(), 2);
    let left_out: Vec<String> = engine.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert!(
        left_out[0].contains("`aperture-cloud`, `other`"),
        "{left_out:?}"
    );
}

#[test]
fn row_20_for_an_engine_with_a_group_selectors_without_one_mean_aperture_cloud() {
    let deciding_in_group = |group: &str| {
        let engine = builder(&grouped()).agent_group(group).build();
        let report = check(&engine.expect("the policy is valid"), &[]);
        let mut ids: Vec<String> = report
            .limiter_decisions
            .iter()
            .map(|decision| decision.component_id.to_string())
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(deciding_in_group("default"), ["root.1"]);
    assert_eq!(deciding_in_group("aperture-cloud"), ["root.0", "root.2"]);
    assert_eq!(deciding_in_group("other"), ["root.3"]);
    assert!(deciding_in_group("").is_empty());
}
