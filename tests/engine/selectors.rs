//! Which flows a component meets.

use tower_aperture::FlowParams;
use tower_aperture::engine::{CheckInput, Engine};

use crate::support::*;

fn asked(
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
fn control_points_and_services_are_compared_to_the_letter() {
    let (engine, _) = engine(&[
        Limiter::new(99.0, 0.0),
        Limiter::new(99.0, 0.0).selectors("[{control_point: here, service: shop}]"),
        Limiter::new(99.0, 0.0).selectors("[{control_point: here, service: any}]"),
        Limiter::new(99.0, 0.0).selectors("[{control_point: here, service: ''}]"),
    ]);
    assert_eq!(asked(&engine, "here", &[], &[]), 2);
    assert_eq!(asked(&engine, "here", &["shop"], &[]), 3);
    assert_eq!(asked(&engine, "here", &["Shop", "shop "], &[]), 2);
    assert_eq!(asked(&engine, "here", &["shop", ""], &[]), 4);
    assert_eq!(asked(&engine, "Here", &["shop"], &[]), 0);
    assert_eq!(asked(&engine, "", &[], &[]), 0);
}

#[test]
fn a_component_is_asked_once_however_many_selectors_match() {
    let (engine, _) = Limiter::new(9.0, 0.0)
        .selectors(
            "[{control_point: here}, {control_point: here, service: shop}, \
             {control_point: here, label_matcher: {match_labels: {tier: gold}}}, \
             {control_point: there}]",
        )
        .engine();
    let gold = [("tier", "gold")];
    assert_eq!(asked(&engine, "here", &["shop", "shop", "any"], &gold), 1);
    assert_eq!(asked(&engine, "there", &[], &[]), 1);
    let report = check(&engine, &[]);
    assert_eq!(tokens(&report, "root.0").remaining, 6.0);
}

#[test]
fn labels_decide_who_is_meant() {
    let (engine, _) = Limiter::new(9.0, 0.0)
        .selectors(
            "[{control_point: here, service: shop, label_matcher: {match_labels: {tier: gold}}}, \
             {control_point: here, label_matcher: {match_labels: {tier: silver}}}]",
        )
        .engine();
    assert_eq!(asked(&engine, "here", &["shop"], &[("tier", "gold")]), 1);
    assert_eq!(asked(&engine, "here", &[], &[("tier", "gold")]), 0);
    assert_eq!(asked(&engine, "here", &[], &[("tier", "silver")]), 1);
    assert_eq!(asked(&engine, "here", &["shop"], &[]), 0);
}

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
fn row_20_without_a_group_absent_and_default_are_meant() {
    let engine = builder(&grouped()).build().expect("the policy is right");
    let report = check(&engine, &[]);
    of(&report, "root.0");
    of(&report, "root.1");
    assert_eq!(report.limiter_decisions.len(), 2);
    let left_out: Vec<String> = engine.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert!(
        left_out[0].contains("`aperture-cloud`, `other`"),
        "{left_out:?}"
    );
}

#[test]
fn row_20_with_a_group_an_absent_one_means_aperture_cloud() {
    let asked_by = |group: &str| {
        let engine = builder(&grouped()).agent_group(group).build();
        let report = check(&engine.expect("the policy is right"), &[]);
        let mut ids: Vec<String> = report
            .limiter_decisions
            .iter()
            .map(|decision| decision.component_id.to_string())
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(asked_by("default"), ["root.1"]);
    assert_eq!(asked_by("aperture-cloud"), ["root.0", "root.2"]);
    assert_eq!(asked_by("other"), ["root.3"]);
    assert!(asked_by("").is_empty());
}
