//! Decisions of rate limiters, and the waits, tokens and status codes that they report.

use tower_aperture::RejectReason;
use tower_aperture::engine::LimiterReason;

use crate::support::*;

#[test]
fn each_key_has_its_own_bucket() {
    let (engine, _) = Limiter::new(2.0, 0.0).by("user").engine();
    for user in ["a", "b"] {
        let user = [("user", user)];
        assert!(check(&engine, &user).accepted());
        assert!(check(&engine, &user).accepted());
        let report = check(&engine, &user);
        assert_eq!(report.reject_reason, Some(RejectReason::RateLimited));
        assert_eq!(report.denied_response_status_code, 429);
        assert_eq!(report.wait_time, None, "the bucket never fills");
    }
}

#[test]
fn a_flow_without_the_label_is_accepted_and_an_empty_value_is_a_key() {
    let (engine, _) = Limiter::new(1.0, 0.0).by("user").engine();
    for _ in 0..3 {
        let report = check(&engine, &[("tokens", "5")]);
        assert!(report.accepted());
        assert_eq!(
            decision_of(&report, "root.0").reason,
            LimiterReason::KeyNotFound
        );
        assert_eq!(label(&report, "root.0"), "");
        let tokens = tokens(&report, "root.0");
        assert_eq!(
            (tokens.remaining, tokens.current, tokens.consumed),
            (0.0, 0.0, 5.0)
        );
    }
    let report = check(&engine, &[("user", "")]);
    assert_eq!(label(&report, "root.0"), "user:");
    assert!(!check(&engine, &[("user", "")]).accepted());
}

#[test]
fn a_remembered_rejection_rejects_smaller_flows_until_its_wait_ends() {
    let (engine, clock) = Limiter::new(2.0, 1.0).engine();
    assert!(take(&engine, "1").accepted());
    assert_eq!(take(&engine, "2").wait_time, Some(secs(1.0)));
    clock.advance(secs(0.25));
    let report = take(&engine, "1");
    assert_eq!(report.wait_time, Some(secs(0.75)));
    let reported = tokens(&report, "root.0");
    assert_eq!(
        (reported.remaining, reported.current, reported.consumed),
        (1.0, 1.0, 0.0)
    );
    clock.advance(secs(0.75));
    assert!(take(&engine, "2").accepted());
}

#[test]
fn a_remembered_rejection_also_rejects_flows_that_return_tokens() {
    let (engine, clock) = Limiter::new(1.0, 1.0).engine();
    assert!(take(&engine, "1").accepted());
    assert!(!take(&engine, "1").accepted());
    assert!(!take(&engine, "-1").accepted());
    clock.advance(secs(1.0));
    assert!(take(&engine, "1").accepted());
    assert!(take(&engine, "-1").accepted());
    assert!(take(&engine, "1").accepted());
}

#[test]
fn a_flow_that_needs_no_tokens_is_always_accepted() {
    let (engine, _) = Limiter::new(1.0, 0.0).engine();
    assert!(take(&engine, "1").accepted());
    assert!(take(&engine, "0").accepted());
    assert!(take(&engine, "-0").accepted());
    assert!(!take(&engine, "1e-9").accepted());
}

#[test]
fn a_rejected_flow_returns_the_tokens_that_other_limiters_granted() {
    let (engine, _) = engine(&[
        Limiter::new(3.0, 0.0),
        Limiter::new(1.0, 0.0).by("user"),
        Limiter::new(9.0, 0.0)
            .by("tenant")
            .with("lazy_sync: {enabled: true, num_sync: 1}"),
    ]);
    let flow = [("user", "a"), ("tenant", "t")];
    assert!(check(&engine, &flow).accepted());
    for _ in 0..5 {
        let report = check(&engine, &flow);
        assert_eq!(report.reject_reason, Some(RejectReason::RateLimited));
        assert_eq!(report.limiter_decisions.len(), 3, "all limiters decide");
        assert_eq!(tokens(&report, "root.0").remaining, 1.0);
        assert!(decision_of(&report, "root.1").dropped);
    }
    assert!(check(&engine, &[]).accepted());
    assert!(check(&engine, &[]).accepted());
    assert!(!check(&engine, &[]).accepted());
}

#[test]
fn a_rejection_reports_the_longest_wait_and_the_configured_status() {
    let coded = |code: &str, limiter: Limiter| {
        policy("test", &[limiter]).replace(
            "request_parameters: {tokens_label_key: tokens}",
            &format!("request_parameters: {{denied_response_status_code: {code}}}"),
        )
    };
    for (code, status) in [("PaymentRequired", 402), ("451", 451), ("0", 429)] {
        let text = coded(code, Limiter::new(1.0, 0.5));
        let engine = tower_aperture::Engine::builder().policy_text("policy", text);
        let engine = engine.build().expect("the policy is valid");
        assert!(check(&engine, &[]).accepted());
        let report = check(&engine, &[]);
        assert_eq!(report.denied_response_status_code, status);
        let denial = decide(&engine, &params(&[])).expect_err("no token is left");
        assert_eq!(i32::from(denial.status().as_u16()), status);
    }

    let (engine, _) = engine(&[Limiter::new(1.0, 1.0), Limiter::new(1.0, 0.25)]);
    assert!(check(&engine, &[]).accepted());
    let report = check(&engine, &[]);
    assert_eq!(report.wait_time, Some(secs(4.0)));
    assert_eq!(decision_of(&report, "root.0").wait_time, secs(1.0));
}

#[test]
fn a_flow_with_ten_milliseconds_or_less_to_its_deadline_is_rejected_and_takes_no_tokens() {
    let (engine, _) = Limiter::new(9.0, 1.0).by("user").engine();
    let user = [("user", "a")];
    let report = check_within(&engine, &user, 10);
    assert_eq!(report.reject_reason, Some(RejectReason::RateLimited));
    assert_eq!(report.wait_time, None);
    assert_eq!(tokens(&report, "root.0").remaining, 0.0);
    assert!(
        check_within(&engine, &[], 0).accepted(),
        "a flow without the label uses no bucket"
    );
    let report = check_within(&engine, &user, 11);
    assert_eq!(
        tokens(&report, "root.0").remaining,
        8.0,
        "the rejected flow took no token"
    );

    let short = params(&user).check_timeout(secs(0.01));
    assert!(decide(&engine, &short).is_err());
    let none = params(&user).check_timeout(secs(0.0));
    assert!(decide(&engine, &none).is_ok());
}

#[test]
fn a_limiter_without_capacity_and_fill_accepts_every_flow() {
    let (engine, _) = Limiter::new(0.0, 0.0).engine();
    for _ in 0..9 {
        let report = take(&engine, "7");
        assert!(report.accepted());
        assert_eq!(
            decision_of(&report, "root.0").reason,
            LimiterReason::KeyNotFound
        );
        assert_eq!(tokens(&report, "root.0").consumed, 7.0);
    }
    assert_eq!(engine.stats().keys, 0);
}

#[test]
fn discrete_filling_starts_at_the_first_use_of_a_key() {
    let (engine, clock) = Limiter::new(1.0, 1.0)
        .with("continuous_fill: false")
        .engine();
    clock.advance(secs(0.7));
    assert!(take(&engine, "1").accepted());
    clock.advance(secs(0.5));
    assert_eq!(take(&engine, "1").wait_time, Some(secs(0.5)));
    clock.advance(secs(0.5));
    assert!(take(&engine, "1").accepted());
}

#[test]
fn reported_waits_of_delayed_discrete_filling_are_one_interval_too_long() {
    let (engine, clock) = Limiter::new(2.0, 2.0)
        .with("continuous_fill: false, delay_initial_fill: true")
        .engine();
    assert!(take(&engine, "2").accepted());
    assert_eq!(take(&engine, "1").wait_time, Some(secs(2.0)));
    clock.advance(secs(1.001));
    assert!(
        !take(&engine, "1").accepted(),
        "the rejection is remembered"
    );
    assert!(take(&engine, "2").accepted(), "the tokens are available");
}

#[test]
fn lazy_sync_counts_the_first_grant_of_a_period_twice() {
    let (engine, clock) = Limiter::new(8.0, 0.0)
        .with("lazy_sync: {enabled: true, num_sync: 2}")
        .engine();
    let remaining = |report| tokens(&report, "root.0").remaining;
    assert_eq!(remaining(take(&engine, "3")), 5.0);
    assert_eq!(remaining(take(&engine, "2")), 0.0);
    let report = take(&engine, "1");
    assert!(!report.accepted());
    assert_eq!(report.wait_time, None);
    clock.advance(secs(0.501));
    assert_eq!(remaining(take(&engine, "1")), 2.0);
}

#[test]
fn the_report_echoes_the_input() {
    let (engine, _) = Limiter::new(1.0, 1.0).engine();
    let params = params(&[("b", "2"), ("a", "1"), ("B", "3"), ("", "4")]);
    let input = tower_aperture::engine::CheckInput::new("else where", &params)
        .services(&["shop", "shop"])
        .expect_end(true);
    let report = engine.check(&input);
    assert!(report.accepted() && report.limiter_decisions.is_empty() && report.expect_end);
    assert_eq!(report.control_point, "else where");
    assert_eq!(report.services, ["shop", "shop"]);
    assert_eq!(report.flow_label_keys, ["", "B", "a", "b"]);
    assert_eq!(
        report.telemetry_flow_labels["aperture.control_point_type"],
        "feature"
    );
    assert_eq!(report.telemetry_flow_labels["a"], "1");
}

#[test]
fn the_engine_counts_its_decisions() {
    let (engine, _) = Limiter::new(1.0, 0.0).engine();
    assert!(decide(&engine, &params(&[])).is_ok());
    assert!(decide(&engine, &params(&[])).is_err());
    assert!(!check(&engine, &[]).accepted());
    let stats = engine.clone().stats();
    assert_eq!((stats.accepted, stats.rejected, stats.keys), (1, 2, 1));
}
