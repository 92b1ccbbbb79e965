//! Properties of rate limiters that hold for any numbers.

use std::time::Duration;

use proptest::prelude::*;
use tower_aperture::engine::CheckInput;

use crate::support::*;

/// Limiters whose capacity or fill may be zero. If both were, a limiter would accept everything.
fn limiter() -> impl Strategy<Value = Limiter> {
    prop_oneof![
        (amount(50), amount(20)),
        (Just(0.0), amount(20)),
        (amount(50), Just(0.0)),
    ]
    .prop_flat_map(|(capacity, fill)| with_interval(capacity, fill))
}

fn amount(most: u32) -> impl Strategy<Value = f64> {
    prop_oneof![0.1..f64::from(most), (1..most).prop_map(f64::from)]
}

fn with_interval(capacity: f64, fill: f64) -> impl Strategy<Value = Limiter> {
    (1_000_000..5_000_000_000_u64).prop_map(move |interval| {
        Limiter::new(capacity, fill).interval(Duration::from_nanos(interval))
    })
}

/// Requests, each with the pause before it in nanoseconds and its tokens.
fn requests() -> impl Strategy<Value = Vec<(u64, f64)>> {
    let pause = prop_oneof![Just(0), 0..1_000_000_000_u64, 0..20_000_000_000_u64];
    let want = prop_oneof![Just(1.0), 0.01..10.0, (1..60_u32).prop_map(f64::from)];
    prop::collection::vec((pause, want), 1..120)
}

proptest! {
    /// Counts from the first use of a key. Rounding may favour the flow.
    #[test]
    fn a_bucket_grants_at_most_its_capacity_and_what_filled_it(
        limiter in limiter(),
        continuous: bool,
        delayed: bool,
        requests in requests(),
    ) {
        let (capacity, fill, interval) = (limiter.capacity, limiter.fill, limiter.interval);
        let (engine, clock) = limiter
            .with(&format!("continuous_fill: {continuous}, delay_initial_fill: {delayed}"))
            .engine();
        let (mut passed, mut granted) = (0_u64, 0.0);
        for (at, (pause, want)) in requests.into_iter().enumerate() {
            if at > 0 {
                clock.advance(Duration::from_nanos(pause));
                passed += pause;
            }
            let report = take(&engine, &want.to_string());
            let reported = tokens(&report, "root.0");
            prop_assert!(reported.remaining <= capacity);
            if report.accepted() {
                granted += want;
            }
            let intervals = passed as f64 / interval as f64;
            let filled = fill * if continuous { intervals } else { intervals.floor() };
            prop_assert!(granted <= (capacity + filled) * (1.0 + 1e-9) + 1e-9);
        }
    }

    /// A reported wait is long enough if no other flow interferes.
    #[test]
    fn after_the_reported_wait_the_tokens_are_available(
        limiter in (amount(50), amount(20)).prop_flat_map(|(capacity, fill)| with_interval(capacity, fill)),
        continuous: bool,
        share in 0.05..1.0_f64,
    ) {
        let want = limiter.capacity * share;
        let (engine, clock) = limiter
            .with(&format!("continuous_fill: {continuous}"))
            .engine();
        let want = want.to_string();
        let mut report = take(&engine, &want);
        while report.accepted() {
            report = take(&engine, &want);
        }
        let wait = report.wait_time.expect("the bucket fills");
        // Waits are rounded down to whole nanoseconds.
        clock.advance(wait + Duration::from_nanos(1));
        prop_assert!(take(&engine, &want).accepted());
    }

    #[test]
    fn decide_and_check_agree(
        limiters in prop::collection::vec(limiter(), 1..4),
        lazy: bool,
        requests in prop::collection::vec((0..2_000_000_000_u64, 0..4_usize, -3.0..6.0_f64, 0..30_u64), 1..80),
    ) {
        let keys = ["user", "tenant", "user"];
        let limiters: Vec<Limiter> = limiters
            .into_iter()
            .zip(keys)
            .enumerate()
            .map(|(at, (limiter, key))| {
                let limiter = limiter.by(key);
                if lazy && at == 0 {
                    limiter.with("lazy_sync: {enabled: true, num_sync: 3}")
                } else {
                    limiter
                }
            })
            .collect();
        let (deciding, clock) = engine(&limiters);
        let (reporting, other_clock) = engine(&limiters);
        let flows: [&[(&str, &str)]; 4] = [
            &[("user", "a")],
            &[("user", "b"), ("tenant", "t")],
            &[("tenant", "t")],
            &[],
        ];
        for (pause, flow, want, budget_millis) in requests {
            clock.advance(Duration::from_nanos(pause));
            other_clock.advance(Duration::from_nanos(pause));
            let mut params = params(flows[flow]).label("tokens", want.to_string());
            if budget_millis > 0 {
                params = params.check_timeout(Duration::from_millis(budget_millis));
            }
            let report = reporting.check(&CheckInput::new(HERE, &params));
            match decide(&deciding, &params) {
                Ok(()) => prop_assert!(report.accepted()),
                Err(denial) => {
                    prop_assert_eq!(Some(denial.reason), report.reject_reason);
                    prop_assert_eq!(denial.wait, report.wait_time);
                    let code = denial.denied_code.map_or(0, i32::from);
                    prop_assert_eq!(code, report.denied_response_status_code);
                }
            }
        }
        prop_assert_eq!(deciding.stats(), reporting.stats());
    }

    #[test]
    fn any_labels_are_decided_without_a_panic(
        labels in prop::collection::vec((".{0,8}", ".{0,300}"), 0..8),
        tokens in "\\PC{0,12}|[-+0-9.eExX_infa]{0,10}",
        budget_millis in prop::option::of(0..50_u64),
    ) {
        let (engine, _) = engine(&[
            Limiter::new(5.0, 1.0),
            Limiter::new(5.0, -1.0).by("a").with("lazy_sync: {enabled: true, num_sync: 4}"),
            Limiter::new(-5.0, 1.0).with("continuous_fill: false, delay_initial_fill: true"),
        ]);
        let params = params(&[("a", "1")]).labels(labels).label("tokens", tokens);
        let budget = budget_millis.map(Duration::from_millis);
        let input = CheckInput::new(HERE, &params).deadline(budget);
        for _ in 0..4 {
            let report = engine.check(&input);
            prop_assert_eq!(report.limiter_decisions.len(), 3);
        }
    }
}
