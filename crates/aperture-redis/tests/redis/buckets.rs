//! Token buckets on a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aperture_engine::engine::shared::{StoreOutcome, TokensMode};
use aperture_engine::engine::{Clock, ManualClock};
use aperture_redis::Redis;

use crate::support::{
    PATIENCE, Server, bucket, key, submit, take, take_operation, take_with, wait_until,
};

/// A clock that may step back.
#[derive(Clone, Debug, Default)]
struct AnyClock(Arc<AtomicU64>);

impl AnyClock {
    fn set(&self, millis: u64) {
        self.0.store(millis, Ordering::SeqCst);
    }
}

impl Clock for AnyClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

fn store_with(server: &Server, clock: impl Clock + 'static) -> Redis {
    let store = server.builder().clock(Arc::new(clock)).build();
    store.expect("valid settings")
}

#[test]
fn two_stores_take_from_one_bucket_by_the_servers_clock() {
    let Some(server) = Server::start() else {
        return;
    };
    let (one, other) = (server.store(), server.store());
    let bucket = bucket(2.0, 0.001);
    assert!(take(&one, key(1), bucket, 1.0).granted);
    let second = take(&other, key(1), bucket, 1.0);
    assert!(second.granted && second.remaining < 0.1, "{second:?}");
    let third = take(&one, key(1), bucket, 1.0);
    assert!(!third.granted);
    assert!(third.wait > Duration::from_secs(900) && third.wait <= Duration::from_secs(1000));
    assert!(take(&one, key(2), bucket, 1.0).granted, "keys are separate");
    // The server's clock fills the bucket.
    let quick = crate::support::bucket(1.0, 50.0);
    assert!(take(&one, key(3), quick, 1.0).granted);
    wait_until("a token is filled in", || {
        take(&one, key(3), quick, 1.0).granted
    });
}

#[test]
fn a_clock_that_steps_back_fills_nothing() {
    let Some(server) = Server::start() else {
        return;
    };
    let clock = AnyClock::default();
    let store = store_with(&server, clock.clone());
    let bucket = bucket(10.0, 1.0);
    clock.set(100_000);
    assert_eq!(take(&store, key(1), bucket, 10.0).remaining, 0.0);
    for back in [99_999, 40_000, 0] {
        clock.set(back);
        assert_eq!(take(&store, key(1), bucket, 0.0).remaining, 0.0);
    }
    clock.set(100_000);
    assert_eq!(take(&store, key(1), bucket, 0.0).remaining, 0.0);
    clock.set(101_500);
    assert_eq!(take(&store, key(1), bucket, 0.0).remaining, 1.5);
}

#[test]
fn many_concurrent_takes_never_exceed_the_bucket() {
    let Some(server) = Server::start() else {
        return;
    };
    let stores: Vec<Redis> = (0..4).map(|_| server.store()).collect();
    let bucket = bucket(100.0, 0.0);
    let outcomes: Vec<_> = (0..400)
        .map(|n| {
            let operation = take_operation(key(1), bucket, 1.0, TokensMode::Immediate);
            submit(&stores[n % 4], operation)
        })
        .collect();
    let granted = outcomes.into_iter().filter(|outcome| {
        match outcome
            .recv_timeout(PATIENCE)
            .expect("each reply is completed")
        {
            Ok(StoreOutcome::Tokens(tokens)) => tokens.granted,
            other => panic!("no outcome of taking tokens: {other:?}"),
        }
    });
    assert_eq!(granted.count(), 100);
}

#[test]
fn a_take_may_wait_within_its_time_and_is_returned() {
    let Some(server) = Server::start() else {
        return;
    };
    let clock = ManualClock::new();
    let store = store_with(&server, clock.clone());
    let bucket = bucket(1.0, 1.0);
    let within = |tokens, time: Option<u64>| {
        let mode = TokensMode::Within(time.map(Duration::from_secs));
        take_with(&store, key(1), bucket, tokens, mode)
    };
    assert!(within(1.0, Some(0)).granted);
    let late = within(2.0, Some(1));
    assert!(!late.granted);
    assert_eq!(late.wait, Duration::from_secs(2));
    let waits = within(2.0, Some(2));
    assert!(waits.granted);
    assert_eq!(
        (waits.wait, waits.remaining, waits.current),
        (Duration::from_secs(2), -2.0, 3.0)
    );
    assert!(within(100.0, None).granted, "any wait is accepted");
    // The flow leaves its queue.
    assert_eq!(take(&store, key(1), bucket, -102.0).remaining, 0.0);
}

#[test]
fn a_remembered_rejection_discards_returned_tokens_but_not_a_correction() {
    let Some(server) = Server::start() else {
        return;
    };
    let clock = ManualClock::new();
    let store = store_with(&server, clock.clone());
    let bucket = bucket(2.0, 1.0);
    assert!(take(&store, key(1), bucket, 2.0).granted);
    assert!(!take(&store, key(1), bucket, 1.0).granted);
    let discarded = take(&store, key(1), bucket, -1.0);
    assert!(!discarded.granted && discarded.remaining == 0.0);
    let correct = |tokens| take_with(&store, key(1), bucket, tokens, TokensMode::Correct);
    let corrected = correct(-1.0);
    assert!(
        corrected.granted && corrected.remaining == 1.0,
        "{corrected:?}"
    );
    assert!(
        take(&store, key(1), bucket, 1.0).granted,
        "the rejection is forgotten"
    );
    // The debt is at most one capacity.
    let debt = correct(100.0);
    assert!(debt.granted && debt.remaining == -2.0);
    assert_eq!(debt.wait, Duration::from_secs(2));
    assert_eq!(correct(-100.0).remaining, 2.0, "at most full");
}

#[test]
fn changed_settings_fill_by_the_earlier_ones_first_and_keep_the_balance() {
    let Some(server) = Server::start() else {
        return;
    };
    let clock = ManualClock::new();
    let store = store_with(&server, clock.clone());
    let slow = bucket(10.0, 1.0);
    assert!(take(&store, key(1), slow, 10.0).granted);
    assert!(!take(&store, key(1), slow, 9.0).granted);
    clock.advance(Duration::from_secs(3));
    let quick = bucket(4.0, 100.0);
    let outcome = take(&store, key(1), quick, 0.0);
    assert_eq!(
        (outcome.granted, outcome.remaining),
        (true, 3.0),
        "no rejection is remembered"
    );
    clock.advance(Duration::from_secs(3));
    assert_eq!(take(&store, key(1), quick, 0.0).remaining, 4.0);
    let smaller = bucket(1.0, 1.0);
    assert_eq!(take(&store, key(1), smaller, 0.0).remaining, 1.0);
    let larger = bucket(10.0, 1.0);
    assert_eq!(take(&store, key(1), larger, 0.0).remaining, 1.0);
}

#[test]
fn an_idle_bucket_is_full_again_and_its_rejection_outlives_it() {
    let Some(server) = Server::start() else {
        return;
    };
    let clock = ManualClock::new();
    let store = store_with(&server, clock.clone());
    let mut bucket = bucket(5.0, 0.001);
    bucket.max_idle = Some(Duration::from_secs(60));
    assert!(take(&store, key(1), bucket, 5.0).granted);
    assert!(!take(&store, key(1), bucket, 2.0).granted);
    clock.advance(Duration::from_secs(60));
    assert!(
        !take(&store, key(1), bucket, 2.0).granted,
        "it is remembered"
    );
    let larger = take(&store, key(1), bucket, 3.0);
    assert!(larger.granted && larger.remaining == 2.0, "{larger:?}");
}

#[test]
fn every_bucket_expires() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.store();
    let mut settings = bucket(1.0, 1.0);
    let lifetimes = [
        (Some(Duration::from_millis(1)), 0..=1000),
        (Some(Duration::from_secs(60)), 50_000..=60_000),
        (Some(Duration::MAX), 1..=10 * 365 * 86_400_000_i64),
        (None, 1..=365 * 86_400_000),
    ];
    for (number, (max_idle, expected)) in (1..).zip(lifetimes) {
        settings.max_idle = max_idle;
        assert!(take(&store, key(number), settings, 1.0).granted);
        let left: i64 = server.command(&["PTTL", &format!("aperture:t:{}", key(number))]);
        // -2: it has expired.
        assert!(
            left == -2 || expected.contains(&left),
            "{max_idle:?}: {left}"
        );
    }
    // A remembered rejection keeps a bucket that would be forgotten soon.
    settings.max_idle = Some(Duration::from_millis(200));
    settings.fill = 0.01;
    wait_until("two takes are so close that one is rejected", || {
        !take(&store, key(9), settings, 1.0).granted
    });
    let left: i64 = server.command(&["PTTL", &format!("aperture:t:{}", key(9))]);
    assert!(left > 10_000, "{left}");
}

#[test]
fn a_server_that_forgets_its_scripts_is_sent_them_again() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.store();
    let bucket = bucket(2.0, 0.0);
    assert!(take(&store, key(1), bucket, 1.0).granted);
    let () = server.command(&["SCRIPT", "FLUSH"]);
    assert!(take(&store, key(1), bucket, 1.0).granted);
    assert!(!take(&store, key(1), bucket, 1.0).granted);
    assert_eq!(store.stats().errors, 0);
}
