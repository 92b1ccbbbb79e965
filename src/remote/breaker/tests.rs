//! Tests of when the breaker opens and closes.

use super::*;

fn breaker(failures: u32) -> Breaker {
    Breaker::new(BreakerConfig {
        failures,
        ..BreakerConfig::default()
    })
}

fn fail(breaker: &Breaker, kind: FailureKind) -> Option<Suspicion> {
    let permit = breaker.permit().expect("closed");
    breaker.record_failure(permit, kind)
}

fn open(breaker: &Breaker) {
    let suspicion = fail(breaker, FailureKind::NoAnswer).expect("enough failures");
    assert!(breaker.confirm_away(&suspicion));
    assert!(breaker.is_open() && breaker.permit().is_none());
}

#[test]
fn failures_in_a_row_and_a_failed_probe_open_the_breaker() {
    let breaker = breaker(3);
    for _ in 0..2 {
        assert_eq!(fail(&breaker, FailureKind::NoAnswer), None);
    }
    breaker.record_answer();
    for _ in 0..2 {
        assert_eq!(fail(&breaker, FailureKind::NoAnswer), None);
    }
    let suspicion = fail(&breaker, FailureKind::NoAnswer).expect("three in a row");
    assert!(!breaker.is_open(), "the probe decides");
    assert_eq!(
        fail(&breaker, FailureKind::NoAnswer),
        None,
        "one confirmation at a time"
    );
    assert!(breaker.confirm_away(&suspicion));
    assert!(breaker.is_open() && breaker.permit().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_answered_probe_keeps_it_closed_and_delays_the_next_confirmation() {
    let breaker = breaker(2);
    assert_eq!(fail(&breaker, FailureKind::NoAnswer), None);
    let suspicion = fail(&breaker, FailureKind::NoAnswer).expect("two in a row");
    assert_eq!(breaker.record_probe_answer(), None, "it was closed");
    breaker.confirm_alive(&suspicion);
    breaker.abandon_suspicion(&suspicion);
    for _ in 0..10 {
        assert_eq!(fail(&breaker, FailureKind::NoAnswer), None, "too soon");
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(fail(&breaker, FailureKind::NoAnswer).is_some());
}

#[test]
fn an_answered_check_overrides_a_failed_probe() {
    let breaker = breaker(1);
    let suspicion = fail(&breaker, FailureKind::NoAnswer).expect("suspicious");
    breaker.record_answer();
    assert!(!breaker.confirm_away(&suspicion));
    assert!(!breaker.is_open());
}

#[tokio::test(start_paused = true)]
async fn after_an_overridden_probe_the_next_confirmation_waits_a_second_at_most() {
    let breaker = Breaker::new(BreakerConfig {
        failures: 1,
        probe_interval: Duration::MAX,
    });
    let suspicion = fail(&breaker, FailureKind::NoAnswer).expect("suspicious");
    breaker.record_answer();
    assert!(!breaker.confirm_away(&suspicion));
    tokio::time::advance(MAX_CONFIRMATION_PAUSE).await;
    assert!(fail(&breaker, FailureKind::NoAnswer).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_stalled_confirmation_is_superseded_and_has_no_effect_later() {
    let breaker = breaker(1);
    let stuck = fail(&breaker, FailureKind::NoAnswer).expect("suspicious");
    assert_eq!(fail(&breaker, FailureKind::NoAnswer), None);
    tokio::time::advance(MAX_CONFIRMATION_TIME).await;
    let next = fail(&breaker, FailureKind::NoAnswer).expect("another");
    assert!(!breaker.confirm_away(&stuck), "outdated");
    assert!(breaker.confirm_away(&next));
}

#[test]
fn after_an_abandoned_confirmation_another_may_start_at_once() {
    let breaker = breaker(1);
    let suspicion = fail(&breaker, FailureKind::NoAnswer).expect("suspicious");
    breaker.abandon_suspicion(&suspicion);
    assert!(fail(&breaker, FailureKind::NoAnswer).is_some());
}

#[test]
fn a_broken_connection_counts_once_for_all_its_checks() {
    let breaker = breaker(2);
    let permits: Vec<_> = (0..64).map(|_| breaker.permit().expect("closed")).collect();
    for permit in permits {
        assert_eq!(
            breaker.record_failure(permit, FailureKind::BrokenConnection),
            None
        );
    }
    assert!(fail(&breaker, FailureKind::BrokenConnection).is_some());
}

#[test]
fn zero_failures_disable_the_breaker() {
    let breaker = breaker(0);
    for _ in 0..100 {
        assert_eq!(fail(&breaker, FailureKind::NoAnswer), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_due_once_per_interval() {
    let breaker = breaker(1);
    assert!(!breaker.take_due_probe(), "nothing to probe");
    open(&breaker);
    for _ in 0..3 {
        assert!(!breaker.take_due_probe(), "not yet");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(breaker.take_due_probe());
    }
    assert!(!breaker.take_due_probe(), "once");
}

#[tokio::test(start_paused = true)]
async fn only_an_answered_probe_closes_the_breaker() {
    let breaker = breaker(1);
    open(&breaker);
    assert!(!breaker.take_due_probe());
    breaker.record_answer();
    assert!(breaker.is_open(), "a late answer to a check");
    assert!(breaker.take_due_probe(), "the answer makes a probe due");
    let away = Duration::from_secs(7);
    tokio::time::advance(away).await;
    assert_eq!(breaker.record_probe_answer(), Some(away));
    assert!(breaker.permit().is_some());
    assert_eq!(breaker.record_probe_answer(), None, "once");
}

#[test]
fn failed_probes_lengthen_the_probe_timeout() {
    let breaker = breaker(1);
    open(&breaker);
    let [one, five] = [1, 5].map(Duration::from_secs);
    for expected in [1, 2, 4, 5, 5] {
        assert_eq!(
            breaker.probe_timeout(one, five),
            Duration::from_secs(expected)
        );
        breaker.record_missed_probe();
    }
    for _ in 0..100 {
        breaker.record_missed_probe();
    }
    assert_eq!(breaker.probe_timeout(one, Duration::MAX), one * (1 << 16));
    assert_eq!(breaker.probe_timeout(five, one), five, "never less");
    assert!(breaker.record_probe_answer().is_some());
    assert_eq!(breaker.probe_timeout(one, five), one);
}

#[tokio::test(start_paused = true)]
async fn probe_intervals_are_clamped() {
    for interval in [Duration::from_nanos(1), Duration::MAX] {
        let breaker = Breaker::new(BreakerConfig {
            failures: 1,
            probe_interval: interval,
        });
        open(&breaker);
        assert!(!breaker.take_due_probe());
        tokio::time::advance(MIN_INTERVAL).await;
        assert_eq!(breaker.take_due_probe(), interval != Duration::MAX);
        tokio::time::advance(MAX_INTERVAL).await;
        assert!(
            breaker.take_due_probe(),
            "an Agent is not given up for good"
        );
        assert!(breaker.record_probe_answer().is_some());
    }
}
