//! Tests of taking from and filling a bucket.

use super::*;

const SECOND: Nanos = 1_000_000_000;

fn params(capacity: f64, fill: f64, seconds: i64) -> BucketParams {
    BucketParams {
        capacity,
        fill,
        interval: seconds * SECOND,
        continuous: true,
        delayed: false,
        upstream: false,
    }
}

/// Seconds, tokens, whether they are granted, the wait in seconds, and what remains.
type Row = (f64, f64, bool, f64, f64);

fn replay(params: BucketParams, rows: &[Row]) {
    let mut bucket = params.full_bucket(0);
    for &(at, want, granted, wait, remaining) in rows {
        let now = (at * SECOND as f64) as Nanos;
        let taken = params.take(&mut bucket, now, want, TakeMode::Immediate);
        let actual_wait = (taken.available_at - now) as f64 / SECOND as f64;
        assert_eq!(taken.granted, granted, "{want} at {at}");
        assert!(
            (actual_wait - wait).abs() < 1e-6,
            "{want} at {at}: wait {actual_wait}"
        );
        assert!(
            (taken.remaining - remaining).abs() < 1e-6,
            "{want} at {at}: {taken:?}"
        );
    }
}

#[test]
fn a_continuous_bucket_fills_continuously() {
    replay(
        params(2.0, 1.0, 1),
        &[
            (0.0, 1.0, true, 0.0, 1.0),
            (0.0, 1.0, true, 0.0, 0.0),
            (0.0, 1.0, false, 1.0, 0.0),
            (0.4, 2.0, false, 1.6, 0.4),
            (2.1, 1.0, true, 0.0, 1.0),
        ],
    );
}

#[test]
fn a_discrete_bucket_fills_once_per_interval_counted_from_its_first_use() {
    let params = BucketParams {
        continuous: false,
        ..params(2.0, 2.0, 1)
    };
    replay(
        params,
        &[
            (0.0, 2.0, true, 0.0, 0.0),
            (0.3, 1.0, false, 0.7, 0.0),
            (1.0, 1.0, true, 0.0, 1.0),
            (1.0, 1.0, true, 0.0, 0.0),
            (1.5, 3.0, false, 1.5, 0.0),
        ],
    );
}

#[test]
fn a_delayed_bucket_pauses_for_the_time_it_takes_to_fill() {
    let continuous = BucketParams {
        delayed: true,
        ..params(10.0, 10.0, 60)
    };
    replay(
        continuous,
        &[
            (0.0, 10.0, true, 0.0, 0.0),
            (0.0, 1.0, false, 66.0, 0.0),
            (30.0, 2.0, false, 42.0, 0.0),
        ],
    );
}

#[test]
fn reported_waits_of_delayed_discrete_buckets_are_one_interval_too_long() {
    let discrete = BucketParams {
        delayed: true,
        continuous: false,
        ..params(2.0, 2.0, 1)
    };
    replay(
        discrete,
        &[
            (0.0, 2.0, true, 0.0, 0.0),
            (0.0, 1.0, false, 2.0, 0.0),
            (1.01, 1.0, true, 0.0, 1.0),
        ],
    );
}

#[test]
fn a_bucket_that_never_fills_reports_no_wait() {
    replay(
        params(1.0, 0.0, 1),
        &[(0.0, 1.0, true, 0.0, 0.0), (0.0, 1.0, false, 0.0, 0.0)],
    );
}

#[test]
fn an_infinite_debt_is_never_paid() {
    let params = params(f64::NEG_INFINITY, 1.0, 1);
    for mode in [TakeMode::Immediate, TakeMode::WaitUntil(Nanos::MAX)] {
        let taken = params.take(&mut params.full_bucket(0), 0, 1.0, mode);
        assert_eq!((taken.granted, taken.available_at), (false, NEVER));
    }
}

#[test]
fn a_rejected_take_of_any_size_leaves_the_bucket_unchanged() {
    for want in [1e17, 1.7e308, f64::INFINITY] {
        for mode in [TakeMode::Immediate, TakeMode::WaitUntil(SECOND)] {
            let params = params(10.0, 1.0, 1);
            let mut bucket = params.full_bucket(0);
            assert!(
                params
                    .take(&mut bucket, 0, 2.5, TakeMode::Immediate)
                    .granted
            );
            let taken = params.take(&mut bucket, 0, want, mode);
            assert_eq!((taken.granted, taken.remaining), (false, 7.5), "{want}");
        }
    }
}

#[test]
fn a_take_does_not_wait_for_a_debt_that_never_shrinks() {
    let params = params(1.0, -1.0, 1);
    let mut bucket = params.full_bucket(0);
    let taken = params.take(&mut bucket, 0, 2.0, TakeMode::WaitUntil(Nanos::MAX));
    assert!(!taken.granted);
    let upstream = BucketParams {
        upstream: true,
        ..params
    };
    assert!(
        upstream
            .take(&mut bucket, 0, 2.0, TakeMode::WaitUntil(SECOND))
            .granted
    );
}

#[test]
fn an_infinite_fill_rate_fills_the_bucket_without_nan() {
    let params = params(2.0, f64::INFINITY, 1);
    let mut bucket = params.full_bucket(0);
    for now in [0, 0, 1, 1, 2] {
        let taken = params.take(&mut bucket, now, 1.0, TakeMode::Immediate);
        assert!(taken.remaining <= 2.0 && !params.used_tokens(taken.remaining).is_nan());
    }
    let taken = params.take(&mut bucket, 3, 1.0, TakeMode::Immediate);
    assert_eq!((taken.granted, taken.remaining), (true, 1.0));
}

#[test]
fn a_time_to_fill_beyond_the_clock_range_saturates() {
    let params = params(1.0, 1.0, 1);
    let taken = params.take(
        &mut params.full_bucket(0),
        5 * SECOND,
        1e30,
        TakeMode::Immediate,
    );
    assert_eq!((taken.granted, taken.available_at), (false, Nanos::MAX));
}

#[test]
fn a_take_that_may_wait_goes_into_debt_up_to_its_deadline() {
    let params = params(1.0, 1.0, 1);
    let mut bucket = params.full_bucket(0);
    let late = TakeMode::WaitUntil(SECOND - 1);
    assert!(!params.take(&mut bucket, 0, 2.0, late).granted);
    let taken = params.take(&mut bucket, 0, 2.0, TakeMode::WaitUntil(SECOND));
    assert_eq!(
        (taken.granted, taken.available_at, taken.remaining),
        (true, SECOND, -1.0)
    );
}

#[test]
fn returned_tokens_never_exceed_the_capacity() {
    replay(
        params(2.0, 0.0, 1),
        &[(0.0, 1.0, true, 0.0, 1.0), (0.0, -5.0, true, 0.0, 2.0)],
    );
}

#[test]
fn a_correction_takes_into_debt_of_at_most_one_capacity_and_returns_up_to_the_capacity() {
    let params = params(10.0, 1.0, 1);
    let mut bucket = params.full_bucket(0);
    let mut correct = |tokens| {
        let corrected = params.correct(&mut bucket, 0, tokens);
        (corrected.remaining, corrected.available_at / SECOND)
    };
    assert_eq!(correct(4.0), (6.0, 0));
    assert_eq!(correct(9.0), (-3.0, 3));
    assert_eq!(correct(f64::MAX), (-10.0, 10));
    assert_eq!(correct(f64::INFINITY), (-10.0, 10));
    assert_eq!(correct(-8.0), (-2.0, 2));
    assert_eq!(correct(-f64::MAX), (10.0, 0));
}

#[test]
fn a_correction_keeps_a_deeper_debt_that_a_flow_reserved() {
    let params = params(10.0, 1.0, 1);
    let mut bucket = params.full_bucket(0);
    let reserved = params.take(&mut bucket, 0, 35.0, TakeMode::WaitUntil(NEVER - 1));
    assert!(reserved.granted);
    assert_eq!(params.correct(&mut bucket, 0, 1.0).remaining, -25.0);
    assert_eq!(params.correct(&mut bucket, 0, -5.0).remaining, -20.0);
}

#[test]
fn a_correction_of_a_full_delayed_bucket_begins_its_pause() {
    let params = BucketParams {
        delayed: true,
        ..params(10.0, 10.0, 10)
    };
    let mut bucket = params.full_bucket(0);
    assert_eq!(params.correct(&mut bucket, 0, -1.0).remaining, 10.0);
    assert_eq!(params.correct(&mut bucket, SECOND, 10.0).remaining, 0.0);
    let at = |bucket: &mut TokenBucket, seconds| {
        let taken = params.take(bucket, seconds * SECOND, 0.0, TakeMode::Immediate);
        taken.remaining
    };
    assert_eq!(at(&mut bucket, 11), 0.0);
    assert_eq!(at(&mut bucket, 13), 2.0);
}

#[test]
fn the_debt_of_a_bucket_that_never_fills_is_never_paid() {
    for fill in [0.0, -1.0] {
        let params = params(10.0, fill, 1);
        let mut bucket = params.full_bucket(0);
        assert_eq!(params.correct(&mut bucket, 0, 11.0).available_at, NEVER);
    }
}

#[test]
fn a_bucket_without_a_limit_is_not_corrected() {
    for capacity in [f64::INFINITY, f64::NAN] {
        let params = params(capacity, 1.0, 1);
        let mut bucket = params.full_bucket(0);
        params.correct(&mut bucket, 0, 5.0);
        params.correct(&mut bucket, 0, -5.0);
        assert!(
            params
                .take(&mut bucket, 0, 1e9, TakeMode::Immediate)
                .granted
        );
    }
}
