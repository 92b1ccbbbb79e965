//! Rate limiters that several threads use at once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use crate::support::*;

#[test]
fn concurrent_threads_are_granted_at_most_the_capacity() {
    let (engine, _) = engine(&[
        Limiter::new(1000.0, 0.0).by("user"),
        Limiter::new(1500.0, 0.0),
    ]);
    let granted = [AtomicU32::new(0), AtomicU32::new(0)];
    thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for turn in 0..1000 {
                    let user = turn % 2;
                    let params = params(&[("user", ["a", "b"][user])]);
                    if decide(&engine, &params).is_ok() {
                        granted[user].fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let granted = granted.map(AtomicU32::into_inner);
    assert!(
        granted.iter().all(|granted| *granted <= 1000),
        "{granted:?}"
    );
    // A flow may miss tokens that a rejected flow is about to return, but no tokens are lost.
    let later = (0..1500)
        .filter(|user| check(&engine, &[("user", &user.to_string())]).accepted())
        .count();
    assert_eq!(granted.iter().sum::<u32>() as usize + later, 1500);
    let stats = engine.stats();
    assert_eq!(stats.accepted + stats.rejected, 5500);
}

#[test]
fn threads_with_separate_keys_do_not_disturb_each_other() {
    let (engine, _) = Limiter::new(50.0, 0.0).by("user").engine();
    thread::scope(|threads| {
        for thread in 0..4 {
            let engine = &engine;
            threads.spawn(move || {
                for user in 0..100 {
                    let user = format!("{thread}-{user}");
                    let params = params(&[("user", &user)]);
                    let granted = (0..60).filter(|_| decide(engine, &params).is_ok()).count();
                    assert_eq!(granted, 50);
                }
            });
        }
    });
    assert_eq!(engine.stats().keys, 400);
}
