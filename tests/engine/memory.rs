//! Keys are forgotten, and never too many.

use tower_aperture::Engine;
use tower_aperture::engine::ManualClock;

use crate::queues::{PATIENT, limiter, now, policy_of, poll, slots, start};
use crate::support::*;

#[test]
fn a_flood_of_keys_stays_within_the_bound() {
    let clock = ManualClock::new();
    let engine = builder(&[Limiter::new(1.0, 0.0).by("user")])
        .max_keys(100)
        .clock(clock.clone())
        .build()
        .expect("the policy is right");
    for user in 0..5000 {
        clock.advance(secs(0.001));
        assert!(check(&engine, &[("user", &user.to_string())]).accepted());
        assert!(engine.stats().keys <= 100);
    }
    let stats = engine.stats();
    assert_eq!((stats.keys, stats.evicted), (100, 4900));
}

#[test]
fn a_key_in_use_outlives_a_flood() {
    let clock = ManualClock::new();
    let engine = builder(&[Limiter::new(10.0, 0.0).by("user")])
        .max_keys(64)
        .clock(clock.clone())
        .build()
        .expect("the policy is right");
    let mut granted = 0;
    for user in 0..2000 {
        clock.advance(secs(0.001));
        check(&engine, &[("user", &user.to_string())]);
        granted += usize::from(check(&engine, &[("user", "busy")]).accepted());
    }
    assert_eq!(granted, 10);
}

#[test]
fn who_holds_a_slot_or_waits_for_one_outlives_a_flood() {
    let by_user = ", limit_by_label_key: user";
    for component in [limiter(1.0, by_user), slots(1.0, by_user, PATIENT)] {
        let clock = ManualClock::new();
        let engine = Engine::builder()
            .policy_text("test.yaml", policy_of(std::slice::from_ref(&component)))
            .max_keys(64)
            .clock(clock.clone())
            .build()
            .expect("the policy is right");
        let ask = || start(&engine, &[("user", "ann")]);
        let (_, ticket) = now(ask());
        let mut waiting = component.contains("scheduler").then(ask);
        for user in 0..1000 {
            clock.advance(secs(0.001));
            drop(now(start(&engine, &[("user", &user.to_string())])));
        }
        assert!(engine.stats().evicted >= 900);
        assert!(!check(&engine, &[("user", "ann")]).accepted());
        drop(ticket);
        if let Some(waiting) = &mut waiting {
            assert!(poll(waiting).expect("it is the head").0.accepted());
        }
    }
}

#[test]
fn idle_keys_go_as_traffic_goes_on() {
    let (engine, clock) = Limiter::new(10.0, 10.0)
        .by("user")
        .with("max_idle_time: 5s")
        .engine();
    for user in 0..20_000 {
        check(&engine, &[("user", &user.to_string())]);
    }
    assert_eq!(engine.stats().keys, 20_000);
    clock.advance(secs(5.0));
    // Each use pays for two places of the table; there are no more than a few for each key.
    for _ in 0..100_000 {
        check(&engine, &[("user", "busy")]);
    }
    let stats = engine.stats();
    assert_eq!((stats.keys, stats.evicted), (1, 0));
}
