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

const BY_USER: &str = ", limit_by_label_key: user";

/// Keys are made up while one is at its limit: it stays there.
fn flood(component: &str, keys: usize, made_up: usize, asks: &dyn Fn(&Engine, &str) -> bool) {
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("test.yaml", policy_of(&[component.to_owned()]))
        .max_keys(keys)
        .clock(clock.clone())
        .build()
        .expect("the policy is right");
    let granted = (0..50).filter(|_| asks(&engine, "closed")).count();
    assert!((1..50).contains(&granted), "{component}");
    let mut let_in = 0;
    for user in 0..made_up {
        clock.advance(secs(1e-6));
        let_in += usize::from(asks(&engine, &format!("made up {user}")));
        assert!(engine.stats().keys <= keys);
    }
    assert_eq!(let_in, made_up, "{component}");
    let again = (0..50).filter(|_| asks(&engine, "closed")).count();
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
fn row_48_a_flood_of_made_up_keys_does_not_reopen_a_closed_bucket() {
    let once = |engine: &Engine, user: &str| check(engine, &[("user", user)]).accepted();
    for scheduler in [false, true] {
        for fill in [0.0, 1.0, 5.0] {
            for more in [
                "",
                ", continuous_fill: false",
                ", lazy_sync: {enabled: true, num_sync: 1}",
            ] {
                let component = bucket_of(scheduler, fill, more);
                for (keys, made_up) in [(2, 50), (100, 1000), (3000, 9000)] {
                    flood(&component, keys, made_up, &once);
                }
            }
        }
    }
}

#[test]
fn row_48_a_flood_of_made_up_keys_does_not_free_slots_that_are_taken() {
    // Made-up keys end their flows; the closed one does not.
    let ends = |engine: &Engine, user: &str| {
        let (report, ticket) = now(start(engine, &[("user", user)]));
        if user == "closed" {
            ticket.leave_open();
        }
        report.accepted()
    };
    for component in [limiter(3.0, BY_USER), slots(3.0, BY_USER, "")] {
        for (keys, made_up) in [(2, 50), (100, 1000), (3000, 9000)] {
            flood(&component, keys, made_up, &ends);
        }
    }
}

/// Made-up keys that use up their own limits cost an attacker as much as honest use.
#[test]
fn row_48_of_many_closed_keys_those_go_first_that_are_open() {
    let (closed, open) = (40, 24);
    let clock = ManualClock::new();
    let engine = builder(&[Limiter::new(5.0, 1.0).by("user").interval(secs(300.0))])
        .max_keys(closed + open)
        .clock(clock.clone())
        .build()
        .expect("the policy is right");
    let ask = |user: String| check(&engine, &[("user", &user)]).accepted();
    for user in 0..open {
        assert!(ask(format!("open {user}")));
    }
    for user in 0..closed {
        let granted = (0..9).filter(|_| ask(format!("closed {user}"))).count();
        assert_eq!(granted, 5);
    }
    for user in 0..500 {
        clock.advance(secs(0.01));
        assert!(ask(format!("new {user}")));
    }
    for user in 0..closed {
        assert!(!ask(format!("closed {user}")), "{user} is open again");
    }
    // Keys that are full again lose nothing, however lately they were used.
    clock.advance(secs(1800.0));
    let evicted = engine.stats().evicted;
    assert!(ask("one more".to_owned()));
    assert_eq!(engine.stats().evicted, evicted + 1);
}
