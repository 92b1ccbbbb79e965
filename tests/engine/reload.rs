//! Changing policies while flows are decided.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tower_aperture::Engine;
use tower_aperture::engine::ManualClock;

use crate::support::*;

/// An engine with a policy `p` of these limiters.
fn engine_of(limiters: &[Limiter]) -> Engine {
    Engine::builder()
        .policy_text("p.yaml", policy("p", limiters))
        .clock(ManualClock::new())
        .build()
        .expect("the policy is right")
}

fn reload(engine: &Engine, limiters: &[Limiter]) {
    engine
        .reload_with([("p.yaml", policy("p", limiters))])
        .expect("the policy is right");
}

#[test]
fn what_did_not_change_goes_on_with_its_state() {
    let kept = Limiter::new(3.0, 0.0);
    let engine = engine_of(&[kept.clone(), Limiter::new(9.0, 0.0)]);
    assert!(check(&engine, &[]).accepted());
    assert!(check(&engine, &[]).accepted());
    reload(&engine, &[kept.clone(), Limiter::new(8.0, 0.0)]);
    assert!(check(&engine, &[]).accepted());
    assert!(!check(&engine, &[]).accepted());
    // Whom it applies to is no parameter.
    reload(
        &engine,
        &[kept.selectors("[{control_point: here}, {control_point: there}]")],
    );
    assert!(!check(&engine, &[]).accepted());
}

#[test]
fn what_changed_starts_fresh() {
    let engine = engine_of(&[Limiter::new(1.0, 0.0)]);
    assert!(check(&engine, &[]).accepted());
    assert!(!check(&engine, &[]).accepted());
    reload(&engine, &[Limiter::new(2.0, 0.0)]);
    assert!(check(&engine, &[]).accepted());
    assert!(check(&engine, &[]).accepted());
    assert!(!check(&engine, &[]).accepted());
    reload(&engine, &[]);
    assert!(check(&engine, &[]).accepted());
    assert_eq!(engine.stats().keys, 0);
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let engine = engine_of(&[Limiter::new(1.0, 0.0)]);
    assert!(check(&engine, &[]).accepted());
    let good = policy("q", &[Limiter::new(5.0, 0.0)]);
    let bad = policy("r", &[Limiter::new(5.0, 0.0)]).replace("fill_amount", "fill_amout");
    let error = engine
        .reload_with([("q.yaml", good), ("r.yaml", bad)])
        .expect_err("a port is missing");
    assert!(error.to_string().starts_with("r.yaml:"), "{error}");
    let report = check(&engine, &[]);
    assert!(!report.accepted());
    assert_eq!(&*report.limiter_decisions[0].policy_name, "p");
}

#[test]
fn a_reload_from_the_sources_undoes_one_with_texts() {
    let engine = engine_of(&[Limiter::new(1.0, 0.0)]);
    engine
        .reload_with([("q.yaml", policy("q", &[]))])
        .expect("the policy is right");
    assert!(check(&engine, &[]).limiter_decisions.is_empty());
    engine.reload().expect("the sources are as they were");
    let report = check(&engine, &[]);
    assert_eq!(&*report.limiter_decisions[0].policy_name, "p");
}

#[test]
fn a_reload_during_load_loses_no_token() {
    const TOKENS: usize = 20_000;
    let kept = Limiter::new(TOKENS as f64, 0.0);
    let engine = engine_of(&[kept.clone()]);
    let over = AtomicBool::new(false);
    let accepted: usize = thread::scope(|threads| {
        let askers: Vec<_> = (0..4)
            .map(|_| {
                threads.spawn(|| {
                    let mut accepted = 0;
                    while !over.load(Ordering::Relaxed) {
                        if check(&engine, &[]).accepted() {
                            accepted += 1;
                        } else {
                            over.store(true, Ordering::Relaxed);
                        }
                    }
                    accepted
                })
            })
            .collect();
        let mut other = 0.0;
        while !over.load(Ordering::Relaxed) {
            other += 1.0;
            reload(&engine, &[kept.clone(), Limiter::new(1e9 + other, 0.0)]);
        }
        askers
            .into_iter()
            .map(|asker| asker.join().expect("no asker panics"))
            .sum()
    });
    assert_eq!(accepted, TOKENS);
}
