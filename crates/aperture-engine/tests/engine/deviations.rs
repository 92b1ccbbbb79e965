//! Decisions in which the engine deliberately differs from an Agent. Each test has the number of
//! its row in the register of quirks, which the recordings cite as well.

use tower_aperture::RejectReason;
use tower_aperture::engine::LimiterReason;

use crate::support::*;

#[test]
fn row_1_a_flow_in_ramp_mode_without_a_ramp_is_rejected() {
    let (engine, _) = Limiter::new(9.0, 0.0).engine();
    let params = params(&[]).ramp_mode(true);
    for control_point in [HERE, "elsewhere"] {
        let input = tower_aperture::engine::CheckInput::new(control_point, &params);
        let report = engine.check(&input);
        assert_eq!(report.reject_reason, Some(RejectReason::NoMatchingRamp));
        assert_eq!(report.denied_response_status_code, 0);
        assert!(report.limiter_decisions.is_empty());
    }
    let denial = decide(&engine, &params).expect_err("there is no ramp");
    assert_eq!(denial.reason, RejectReason::NoMatchingRamp);
    assert_eq!(denial.status(), http::StatusCode::FORBIDDEN);
}

#[test]
fn row_5_a_tokens_label_that_is_no_finite_number_is_ignored() {
    for lazy in ["", "lazy_sync: {enabled: true, num_sync: 1}"] {
        for odd in ["NaN", "Inf", "-inf", "+Infinity", "1e999", "many", ""] {
            let limiter = Limiter::new(3.0, 0.0);
            let (engine, _) = if lazy.is_empty() {
                limiter
            } else {
                limiter.with(lazy)
            }
            .engine();
            let report = take(&engine, odd);
            assert!(report.accepted());
            let reported = tokens(&report, "root.0");
            assert_eq!((reported.remaining, reported.consumed), (2.0, 1.0), "{odd}");
            let granted = (0..9).filter(|_| take(&engine, "1").accepted()).count();
            assert!(granted <= 2, "{odd} corrupted the bucket");
        }
    }
}

#[test]
fn row_21_long_keys_are_limited_like_short_ones() {
    let long = "k".repeat(100_000);
    let mut params = tower_aperture::FlowParams::new();
    params.labels = tower_aperture::Labels::with_limits(tower_aperture::LabelLimits {
        bytes: 200_000,
        ..Default::default()
    });
    params.labels.insert("user", &*long);
    for lazy in [
        "max_idle_time: 60s",
        "lazy_sync: {enabled: true, num_sync: 1}",
    ] {
        let (engine, _) = Limiter::new(1.0, 0.0).by("user").with(lazy).engine();
        let input = tower_aperture::engine::CheckInput::new(HERE, &params);
        let report = engine.check(&input);
        assert!(report.accepted());
        assert_eq!(label(&report, "root.0").len(), 100_005);
        assert_eq!(
            decision_of(&report, "root.0").reason,
            LimiterReason::Unspecified
        );
        assert!(!engine.check(&input).accepted());
    }
}

#[test]
fn row_22_a_flow_without_time_for_a_sync_does_not_close_its_key() {
    let (engine, clock) = Limiter::new(4.0, 0.0)
        .interval(secs(2.0))
        .with("lazy_sync: {enabled: true, num_sync: 4}")
        .engine();
    assert!(take(&engine, "1").accepted());
    assert!(take(&engine, "1").accepted());
    assert!(
        check_within(&engine, &[], 9).accepted(),
        "between syncs the deadline does not count"
    );
    clock.advance(secs(0.6));
    let late = check_within(&engine, &[], 10);
    assert_eq!(late.reject_reason, Some(RejectReason::RateLimited));
    assert_eq!(late.wait_time, None);
    let reported = tokens(&late, "root.0");
    assert_eq!((reported.remaining, reported.current), (0.0, 0.0));
    // Three tokens were taken, and the key still accepts flows.
    let report = take(&engine, "1");
    assert!(report.accepted());
    assert_eq!(tokens(&report, "root.0").remaining, 0.0);
}

#[test]
fn row_24_a_wait_of_centuries_is_reported_in_full() {
    let (engine, clock) = Limiter::new(1e11, 1.0).engine();
    clock.advance(secs(100.0));
    assert!(take(&engine, "1e11").accepted());
    let report = take(&engine, "1e10");
    assert!(report.wait_time.expect("a rejection reports a wait") > secs(9e9));
    clock.advance(secs(1e6));
    assert!(!take(&engine, "1e10").accepted());
}

#[test]
fn row_25_an_unused_key_starts_anew_after_its_idle_time() {
    let (engine, clock) = Limiter::new(2.0, 0.0)
        .by("user")
        .with("max_idle_time: 10s")
        .engine();
    let user = [("user", "a")];
    assert!(check(&engine, &user).accepted());
    clock.advance(secs(9.999));
    assert!(
        check(&engine, &user).accepted(),
        "a use restarts the idle time"
    );
    clock.advance(secs(9.999));
    assert!(
        !check(&engine, &user).accepted(),
        "a rejected use restarts it too"
    );
    clock.advance(secs(10.0));
    let report = check(&engine, &user);
    assert_eq!(tokens(&report, "root.0").remaining, 1.0);
}

#[test]
fn row_25_a_remembered_rejection_outlives_its_expired_bucket() {
    let (engine, clock) = Limiter::new(1.0, 1.0)
        .interval(secs(60.0))
        .with("max_idle_time: 10s")
        .engine();
    assert!(take(&engine, "1").accepted());
    assert_eq!(take(&engine, "1").wait_time, Some(secs(60.0)));
    clock.advance(secs(30.0));
    assert_eq!(take(&engine, "1").wait_time, Some(secs(30.0)));
}

#[test]
fn row_29_lazy_sync_charges_an_idle_key_at_its_next_use() {
    let (engine, clock) = Limiter::new(4.0, 0.0)
        .with("lazy_sync: {enabled: true, num_sync: 4}")
        .engine();
    assert!(take(&engine, "1").accepted());
    assert!(take(&engine, "2").accepted());
    clock.advance(secs(60.0));
    let report = take(&engine, "1");
    assert!(report.accepted());
    let reported = tokens(&report, "root.0");
    assert_eq!((reported.remaining, reported.current), (0.0, 4.0));
    assert!(!take(&engine, "1").accepted());
}

/// The ways in which a bucket fills, as parameters.
const FORMS: [&str; 4] = [
    "max_idle_time: 7200s",
    "continuous_fill: false",
    "continuous_fill: false, delay_initial_fill: true",
    "lazy_sync: {enabled: true, num_sync: 4}",
];

#[test]
fn row_42_a_flow_that_can_never_be_granted_reports_no_wait_and_is_not_remembered() {
    for form in FORMS {
        for want in ["100.001", "200", "1e12", "1e300"] {
            let (engine, _) = Limiter::new(100.0, 100.0)
                .interval(secs(60.0))
                .with(form)
                .engine();
            let report = take(&engine, want);
            assert_eq!(report.reject_reason, Some(RejectReason::RateLimited));
            assert_eq!(report.wait_time, None, "{form}: {want}");
            let with_quotas = params(&[("tokens", want)]).quotas(true);
            let denial = decide(&engine, &with_quotas).expect_err("the bucket is too small");
            assert_eq!(denial.wait, None);
            for _ in 0..20 {
                assert!(take(&engine, "1").accepted(), "{form}: {want}");
            }
            // The remembered rejection of a smaller flow adds no wait either.
            let smaller = take(&engine, "90");
            assert!(!smaller.accepted());
            assert_eq!(take(&engine, want).wait_time, None, "{form}: {want}");
        }
    }
}

#[test]
fn row_42_no_wait_is_reported_if_any_limiter_can_never_grant() {
    let small = Limiter::new(5.0, 1.0).by("user");
    for limiters in [
        [small.clone(), Limiter::new(50.0, 1.0)],
        [Limiter::new(50.0, 1.0), small],
    ] {
        let (engine, _) = engine(&limiters);
        let flow = [("user", "a"), ("tokens", "40")];
        assert!(take(&engine, "40").accepted(), "the flow has no user");
        // One limiter has the tokens in 30 seconds, the other one never.
        let report = check(&engine, &flow);
        assert!(!report.accepted());
        assert_eq!(report.wait_time, None);
        assert_eq!(take(&engine, "40").wait_time, Some(secs(30.0)));
    }
}

#[test]
fn row_42_a_bucket_without_capacity_reports_no_wait() {
    for capacity in [0.0, -2.0] {
        for form in FORMS {
            let (engine, clock) = Limiter::new(capacity, 1.0).with(form).engine();
            for _ in 0..5 {
                let report = take(&engine, "1");
                assert!(!report.accepted());
                assert_eq!(report.wait_time, None, "{capacity}, {form}");
                clock.advance(secs(10.0));
            }
        }
    }
}

#[test]
fn row_46_returned_tokens_never_exceed_the_capacity_of_the_bucket() {
    for form in FORMS {
        let (engine, clock) = Limiter::new(4.0, 4.0).with(form).engine();
        assert!(take(&engine, "1").accepted());
        for huge in ["-1e6", "-1e300", "-1.7e308", "-1.7e308"] {
            assert!(take(&engine, huge).accepted());
        }
        let granted = (0..100).filter(|_| take(&engine, "1").accepted()).count();
        assert!(granted <= 4, "{form}: {granted}");
        clock.advance(secs(2.0));
        let granted = (0..100).filter(|_| take(&engine, "1").accepted()).count();
        assert!((1..=4).contains(&granted), "{form}: {granted}");
    }
}
