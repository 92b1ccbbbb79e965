//! Keys expire when they are idle, and their number is bounded. A number in a test's name is its
//! row in the register of quirks.

use tower_aperture::Engine;
use tower_aperture::engine::ManualClock;

use crate::queues::{QUEUE_TIMEOUT_5S, decided, limiter, policy_of, poll, slots, start};
use crate::support::*;

#[test]
fn a_flood_of_keys_stays_within_the_bound() {
    let clock = ManualClock::new();
    let engine = builder(&[Limiter::new(1.0, 0.0).by("user")])
        .max_keys(100)
        .clock(clock.clone())
        .build()
        .expect("the policy is valid");
    for user in 0..5000 {
        clock.advance(secs(0.001));
        assert!(check(&engine, &[("user", &user.to_string())]).accepted());
        assert!(engine.stats().keys <= 100);
    }
    let stats = engine.stats();
    assert_eq!((stats.keys, stats.evicted), (100, 4900));
}

#[test]
fn a_key_in_use_survives_a_flood_of_keys() {
    let clock = ManualClock::new();
    let engine = builder(&[Limiter::new(10.0, 0.0).by("user")])
        .max_keys(64)
        .clock(clock.clone())
        .build()
        .expect("the policy is valid");
    let mut granted = 0;
    for user in 0..2000 {
        clock.advance(secs(0.001));
        check(&engine, &[("user", &user.to_string())]);
        granted += usize::from(check(&engine, &[("user", "busy")]).accepted());
    }
    assert_eq!(granted, 10);
}

#[test]
fn a_key_with_a_slot_or_a_waiter_survives_a_flood_of_keys() {
    let by_user = ", limit_by_label_key: user";
    for component in [limiter(1.0, by_user), slots(1.0, by_user, QUEUE_TIMEOUT_5S)] {
        let clock = ManualClock::new();
        let engine = Engine::builder()
            .policy_text("test.yaml", policy_of(std::slice::from_ref(&component)))
            .max_keys(64)
            .clock(clock.clone())
            .build()
            .expect("the policy is valid");
        let start_for_ann = || start(&engine, &[("user", "ann")]);
        let (_, ticket) = decided(start_for_ann());
        let mut waiting = component.contains("scheduler").then(start_for_ann);
        for user in 0..1000 {
            clock.advance(secs(0.001));
            drop(decided(start(&engine, &[("user", &user.to_string())])));
        }
        assert!(engine.stats().evicted >= 900);
        assert!(!check(&engine, &[("user", "ann")]).accepted());
        drop(ticket);
        if let Some(waiting) = &mut waiting {
            assert!(
                poll(waiting)
                    .expect("the waiter is the head of the queue")
                    .0
                    .accepted()
            );
        }
    }
}

#[test]
fn idle_keys_are_removed_while_other_keys_are_used() {
    let (engine, clock) = Limiter::new(10.0, 10.0)
        .by("user")
        .with("max_idle_time: 5s")
        .engine();
    for user in 0..20_000 {
        check(&engine, &[("user", &user.to_string())]);
    }
    assert_eq!(engine.stats().keys, 20_000);
    clock.advance(secs(5.0));
    // Each use sweeps two buckets of the table, which has only a few buckets per key.
    for _ in 0..100_000 {
        check(&engine, &[("user", "busy")]);
    }
    let stats = engine.stats();
    assert_eq!((stats.keys, stats.evicted), (1, 0));
}

const BY_USER: &str = ", limit_by_label_key: user";

/// Asserts that the key `closed`, which is at its limit, stays there during a flood of made-up
/// keys.
fn assert_stays_closed(
    component: &str,
    keys: usize,
    made_up: usize,
    is_accepted: &dyn Fn(&Engine, &str) -> bool,
) {
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("test.yaml", policy_of(&[component.to_owned()]))
        .max_keys(keys)
        .clock(clock.clone())
        .build()
        .expect("the policy is valid");
    let granted = (0..50).filter(|_| is_accepted(&engine, "closed")).count();
    assert!((1..50).contains(&granted), "{component}");
    let mut accepted = 0;
    for user in 0..made_up {
        clock.advance(secs(1e-6));
        accepted += usize::from(is_accepted(&engine, &format!("made up {user}")));
        assert!(engine.stats().keys <= keys);
    }
    assert_eq!(accepted, made_up, "{component}");
    let again = (0..50).filter(|_| is_accepted(&engine, "closed")).count();
    assert_eq!(again, 0, "{component}: {keys} keys, {made_up} made up");
}

fn bucket_of(scheduler: bool, fill: f64, more: &str) -> String {
    let in_ports = format!(
        "in_ports: {{bucket_capacity: {{constant_signal: {{value: 5}}}}, fill_amount: \
         {{constant_signal: {{value: {fill}}}}}}}"
    );
    let parameters = format!("{{interval: 3600s{BY_USER}{more}}}");
    let selectors = format!("selectors: [{{control_point: {HERE}}}]");
    match scheduler {
        false => format!("rate_limiter: {{{selectors}, {in_ports}, parameters: {parameters}}}"),
        true => format!("quota_scheduler: {{{selectors}, {in_ports}, rate_limiter: {parameters}}}"),
    }
}

#[test]
fn row_48_a_flood_of_made_up_keys_does_not_refill_an_empty_bucket() {
    let check_user = |engine: &Engine, user: &str| check(engine, &[("user", user)]).accepted();
    for scheduler in [false, true] {
        for fill in [0.0, 1.0, 5.0] {
            for more in [
                "",
                ", continuous_fill: false",
                ", lazy_sync: {enabled: true, num_sync: 1}",
            ] {
                let component = bucket_of(scheduler, fill, more);
                for (keys, made_up) in [(2, 50), (100, 1000), (3000, 9000)] {
                    assert_stays_closed(&component, keys, made_up, &check_user);
                }
            }
        }
    }
}

#[test]
fn row_48_a_flood_of_made_up_keys_does_not_free_taken_slots() {
    // Flows of made-up keys end. Those of the closed key stay in flight.
    let start_user = |engine: &Engine, user: &str| {
        let (report, ticket) = decided(start(engine, &[("user", user)]));
        if user == "closed" {
            ticket.leave_open();
        }
        report.accepted()
    };
    for component in [limiter(3.0, BY_USER), slots(3.0, BY_USER, "")] {
        for (keys, made_up) in [(2, 50), (100, 1000), (3000, 9000)] {
            assert_stays_closed(&component, keys, made_up, &start_user);
        }
    }
}

/// To displace a key that is at its limit, an attacker must use up the limits of made-up keys,
/// which takes as many flows as honest use.
#[test]
fn row_48_keys_below_their_limit_are_evicted_before_keys_at_their_limit() {
    let (closed, open) = (40, 24);
    let clock = ManualClock::new();
    let engine = builder(&[Limiter::new(5.0, 1.0).by("user").interval(secs(300.0))])
        .max_keys(closed + open)
        .clock(clock.clone())
        .build()
        .expect("the policy is valid");
    let check_user = |user: String| check(&engine, &[("user", &user)]).accepted();
    for user in 0..open {
        assert!(check_user(format!("open {user}")));
    }
    for user in 0..closed {
        let granted = (0..9)
            .filter(|_| check_user(format!("closed {user}")))
            .count();
        assert_eq!(granted, 5);
    }
    for user in 0..500 {
        clock.advance(secs(0.01));
        assert!(check_user(format!("new {user}")));
    }
    for user in 0..closed {
        assert!(
            !check_user(format!("closed {user}")),
            "{user} is open again"
        );
    }
    // Evicting a key whose bucket is full again loses nothing, however recently it was used.
    clock.advance(secs(1800.0));
    let evicted = engine.stats().evicted;
    assert!(check_user("one more".to_owned()));
    assert_eq!(engine.stats().evicted, evicted + 1);
}
