//! Tests of windows, buckets and quantiles.

use std::time::Duration;

use proptest::prelude::*;

use super::histogram::{DEFAULT_BOUNDS, WORKLOAD_DURATION, bounds};
use super::window::quantile_of;
use super::*;
use crate::engine::clock::nanos;
use crate::engine::{Clock as _, Engine, ManualClock};
use crate::policy::Buckets;
use aperture_core::{Check, Decider as _, FlowParams, Ticket as _, Verdict};

const MILLI: Nanos = 1_000_000;

fn meter(buckets: Option<Buckets>) -> Arc<FluxMeter> {
    let spec = policy::FluxMeter {
        name: "latency".into(),
        selectors: Vec::new(),
        attribute_key: WORKLOAD_DURATION.into(),
        buckets,
    };
    Arc::new(FluxMeter::new(&"policy".into(), &spec).expect("a sound meter"))
}

#[test]
fn a_window_ignores_older_values() {
    let meter = meter(None);
    let second = 1000 * MILLI;
    let mut window = MeterWindow::of_mean(&meter, Duration::from_secs(30), 0);
    assert!(window.mean(0).is_nan());
    for at in 0..120 {
        // 30 seconds of 10 ms per flow, then 30 seconds of 50 ms, and so on.
        let duration = if (at / 30) % 2 == 0 { 10 } else { 50 };
        meter.record(duration * MILLI, true);
        meter.record(7000 * MILLI, false);
        let mean = window.mean((at + 1) * second);
        if at % 30 == 29 {
            assert_eq!(mean, duration as f64, "after {at} s");
        } else {
            assert!((10.0..=50.0).contains(&mean), "{mean} after {at} s");
        }
    }
    assert!(window.earlier.len() <= 62);
    assert!(
        window.mean(1000 * second).is_nan(),
        "no flow ended recently"
    );
}

#[test]
fn flows_are_measured_from_their_decision_to_their_end() {
    let text =
        "resources: {flow_control: {flux_meters: {m: {selectors: [{control_point: here}]}}}}";
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("meters", text)
        .clock(clock.clone())
        .build()
        .expect("a sound policy");
    let live = engine.shared.live.load();
    let meter = live.flux_meters.get("m").expect("there is one");
    let mut window = MeterWindow::of_mean(meter, Duration::from_secs(30), 0);
    for (millis, status) in [
        (20, FlowStatus::Ok),
        (40, FlowStatus::Ok),
        (900, FlowStatus::Error),
    ] {
        let Check::Ready(Verdict::Accepted(ticket)) = engine.decide("here", &FlowParams::new())
        else {
            panic!("nothing limits it");
        };
        clock.advance(Duration::from_millis(millis));
        ticket.end(FlowOutcome::new(status));
    }
    assert_eq!(window.mean(nanos(clock.now())), 30.0);
    drop(engine.decide("elsewhere", &FlowParams::new()));
    assert_eq!(meter.other.read(false).count, 1);
}

#[test]
fn bucket_bounds_follow_the_policy() {
    let of = |buckets| meter(Some(buckets)).bounds.to_vec();
    assert_eq!(meter(None).bounds[..], DEFAULT_BOUNDS);
    assert_eq!(of(Buckets::Static(vec![])), DEFAULT_BOUNDS);
    assert_eq!(of(Buckets::Static(vec![9.0, 1.0, 9.0])), [1.0, 9.0]);
    let linear = Buckets::Linear {
        start: 1.0,
        width: 2.0,
        count: 3,
    };
    assert_eq!(of(linear), [1.0, 3.0, 5.0]);
    let exponential = Buckets::Exponential {
        start: 1.0,
        factor: 3.0,
        count: 3,
    };
    assert_eq!(of(exponential), [1.0, 3.0, 9.0]);
    let range = Buckets::ExponentialRange {
        min: 1.0,
        max: 16.0,
        count: 3,
    };
    assert_eq!(of(range), [1.0, 4.0, 16.0]);
    let many = Buckets::Linear {
        start: 0.0,
        width: 1.0,
        count: u32::MAX,
    };
    assert!(bounds(Some(&many)).is_err());
}

#[test]
fn quantiles_are_interpolated_within_their_bucket() {
    let bounds = [10.0, 20.0, 40.0];
    assert_eq!(quantile_of(&bounds, &[2, 2, 0, 0], 0.5), 10.0);
    assert_eq!(quantile_of(&bounds, &[2, 2, 0, 0], 0.75), 15.0);
    assert_eq!(quantile_of(&bounds, &[0, 0, 4, 0], 0.25), 25.0);
    assert_eq!(quantile_of(&bounds, &[0, 0, 0, 3], 0.5), 40.0);
    assert_eq!(quantile_of(&bounds, &[0, 5, 0, 0], 0.0), 10.0);
    assert_eq!(quantile_of(&bounds, &[1, 0, 0, 0], 1.0), 10.0);
    assert!(quantile_of(&bounds, &[0; 4], 0.5).is_nan());
}

#[test]
fn a_good_http_status_takes_precedence_over_the_status_of_the_flow() {
    let status = |code| http::StatusCode::from_u16(code).expect("a status");
    assert!(ended_well(
        FlowOutcome::new(FlowStatus::Error).with_http_status(status(302))
    ));
    assert!(ended_well(
        FlowOutcome::new(FlowStatus::Ok).with_http_status(status(404))
    ));
    assert!(!ended_well(
        FlowOutcome::new(FlowStatus::Unset).with_http_status(status(429))
    ));
    assert!(!ended_well(FlowOutcome::new(FlowStatus::Error)));
}

proptest! {
    #[test]
    fn a_quantile_is_close_to_the_exact_value(
        mut duration in prop::collection::vec(1_i64..200, 1..100),
        quantile in 0.0_f64..=1.0,
    ) {
        let meter = meter(Some(Buckets::Linear { start: 1.0, width: 1.0, count: 200 }));
        let mut window = MeterWindow::of_quantile(&meter, Duration::from_secs(30), 0);
        for duration in &duration {
            meter.record(duration * MILLI, true);
        }
        duration.sort_unstable();
        let rank = (quantile * duration.len() as f64).ceil().max(1.0) as usize;
        let exact = duration[rank - 1] as f64;
        let found = window.quantile(quantile, MILLI);
        prop_assert!((found - exact).abs() <= 1.0 + 1e-9, "{} {}", found, exact);
        let mean = duration.iter().sum::<i64>() as f64 / duration.len() as f64;
        prop_assert!((window.mean(MILLI) - mean).abs() < 1e-9);
    }
}
