//! When the breaker opens, and what closes it.

use super::*;

fn breaker(failures: u32) -> Breaker {
    Breaker::new(BreakerConfig {
        failures,
        ..BreakerConfig::default()
    })
}

fn fail(breaker: &Breaker, evidence: Evidence) -> Option<Suspicion> {
    let pass = breaker.pass().expect("closed");
    breaker.failed(pass, evidence)
}

fn open(breaker: &Breaker) {
    let suspicion = fail(breaker, Evidence::Silence).expect("enough failures");
    assert!(breaker.condemn(&suspicion));
    assert!(breaker.is_open() && breaker.pass().is_none());
}

#[test]
fn failures_in_a_row_and_a_failed_probe_open_it() {
    let breaker = breaker(3);
    for _ in 0..2 {
        assert_eq!(fail(&breaker, Evidence::Silence), None);
    }
    breaker.answered();
    for _ in 0..2 {
        assert_eq!(fail(&breaker, Evidence::Silence), None);
    }
    let suspicion = fail(&breaker, Evidence::Silence).expect("three in a row");
    assert!(!breaker.is_open(), "the probe decides");
    assert_eq!(fail(&breaker, Evidence::Silence), None, "one examination");
    assert!(breaker.condemn(&suspicion));
    assert!(breaker.is_open() && breaker.pass().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_answered_probe_keeps_it_closed_and_the_next_examination_waits() {
    let breaker = breaker(2);
    assert_eq!(fail(&breaker, Evidence::Silence), None);
    let suspicion = fail(&breaker, Evidence::Silence).expect("two in a row");
    assert_eq!(breaker.alive(), None, "it was closed");
    breaker.acquit(&suspicion);
    breaker.abandon(&suspicion);
    for _ in 0..10 {
        assert_eq!(fail(&breaker, Evidence::Silence), None, "too soon");
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(fail(&breaker, Evidence::Silence).is_some());
}

#[test]
fn an_answered_check_outweighs_a_probe_that_fails() {
    let breaker = breaker(1);
    let suspicion = fail(&breaker, Evidence::Silence).expect("suspicious");
    breaker.answered();
    assert!(!breaker.condemn(&suspicion));
    assert!(!breaker.is_open());
}

#[tokio::test(start_paused = true)]
async fn after_such_an_answer_the_next_examination_waits_a_second_at_most() {
    let breaker = Breaker::new(BreakerConfig {
        failures: 1,
        probe_interval: Duration::MAX,
    });
    let suspicion = fail(&breaker, Evidence::Silence).expect("suspicious");
    breaker.answered();
    assert!(!breaker.condemn(&suspicion));
    tokio::time::advance(LONGEST_PAUSE).await;
    assert!(fail(&breaker, Evidence::Silence).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_examination_that_stands_still_makes_way_and_has_no_say_later() {
    let breaker = breaker(1);
    let stuck = fail(&breaker, Evidence::Silence).expect("suspicious");
    assert_eq!(fail(&breaker, Evidence::Silence), None);
    tokio::time::advance(LONGEST_EXAMINATION).await;
    let next = fail(&breaker, Evidence::Silence).expect("another");
    assert!(!breaker.condemn(&stuck), "outdated");
    assert!(breaker.condemn(&next));
}

#[test]
fn an_examination_that_is_abandoned_makes_way_at_once() {
    let breaker = breaker(1);
    let suspicion = fail(&breaker, Evidence::Silence).expect("suspicious");
    breaker.abandon(&suspicion);
    assert!(fail(&breaker, Evidence::Silence).is_some());
}

#[test]
fn a_connection_that_breaks_counts_once_for_all_checks_on_it() {
    let breaker = breaker(2);
    let passes: Vec<_> = (0..64).map(|_| breaker.pass().expect("closed")).collect();
    for pass in passes {
        assert_eq!(breaker.failed(pass, Evidence::Shared), None);
    }
    assert!(fail(&breaker, Evidence::Shared).is_some());
}

#[test]
fn zero_never_suspects() {
    let breaker = breaker(0);
    for _ in 0..100 {
        assert_eq!(fail(&breaker, Evidence::Silence), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_due_once_an_interval() {
    let breaker = breaker(1);
    assert!(!breaker.wants_probe(), "nothing to probe");
    open(&breaker);
    for _ in 0..3 {
        assert!(!breaker.wants_probe(), "not yet");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(breaker.wants_probe());
    }
    assert!(!breaker.wants_probe(), "once");
}

#[tokio::test(start_paused = true)]
async fn only_an_answered_probe_closes_it() {
    let breaker = breaker(1);
    open(&breaker);
    assert!(!breaker.wants_probe());
    breaker.answered();
    assert!(breaker.is_open(), "a late answer to a check");
    assert!(breaker.wants_probe(), "which is a reason to ask now");
    let away = Duration::from_secs(7);
    tokio::time::advance(away).await;
    assert_eq!(breaker.alive(), Some(away));
    assert!(breaker.pass().is_some());
    assert_eq!(breaker.alive(), None, "once");
}

#[test]
fn probes_that_fail_get_more_time() {
    let breaker = breaker(1);
    open(&breaker);
    let [one, five] = [1, 5].map(Duration::from_secs);
    for expected in [1, 2, 4, 5, 5] {
        assert_eq!(breaker.patience(one, five), Duration::from_secs(expected));
        breaker.missed();
    }
    for _ in 0..100 {
        breaker.missed();
    }
    assert_eq!(breaker.patience(one, Duration::MAX), one * (1 << 16));
    assert_eq!(breaker.patience(five, one), five, "never less");
    assert!(breaker.alive().is_some());
    assert_eq!(breaker.patience(one, five), one);
}

#[tokio::test(start_paused = true)]
async fn no_interval_is_too_short_or_too_long() {
    for interval in [Duration::from_nanos(1), Duration::MAX] {
        let breaker = Breaker::new(BreakerConfig {
            failures: 1,
            probe_interval: interval,
        });
        open(&breaker);
        assert!(!breaker.wants_probe());
        tokio::time::advance(SHORTEST_INTERVAL).await;
        assert_eq!(breaker.wants_probe(), interval != Duration::MAX);
        tokio::time::advance(LONGEST_INTERVAL).await;
        assert!(breaker.wants_probe(), "an Agent is not given up for good");
        assert!(breaker.alive().is_some());
    }
}
