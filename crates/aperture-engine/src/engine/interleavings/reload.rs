//! Reloads: components that stay keep their state, even while they are in use.

use aperture_core::{ControlPoint, ControlPointMemo, Decider as _};

use super::*;

fn reload(engine: &Engine, components: &[String]) {
    engine
        .reload_with([("test.yaml", policy_of(components))])
        .expect("the policy is right");
}

#[test]
fn a_reload_under_load_neither_loses_nor_creates_tokens() {
    explore(|| {
        let kept = rate_limiter(4.0);
        let (engine, _) = engine_of(std::slice::from_ref(&kept));
        let reloading = engine.clone();
        let reloading = thread::spawn(move || {
            for other in [7.0, 8.0] {
                reload(&reloading, &[kept.clone(), rate_limiter(other)]);
            }
        });
        let shared = engine.clone();
        let accepted =
            run_threads(3, move |_| [(); 2].map(|()| check(&shared).0.accepted())).concat();
        reloading.join().expect("it does not panic");
        assert_eq!(accepted.into_iter().filter(|accepted| *accepted).count(), 4);
        assert!(!check(&engine).0.accepted());
    });
}

#[test]
fn slots_and_their_waiters_survive_a_reload() {
    explore(|| {
        let (engine, _) = engine_of(&[slots(1.0)]);
        let reloading = engine.clone();
        let reloading = thread::spawn(move || {
            for other in [7.0, 8.0] {
                reload(&reloading, &[slots(1.0), rate_limiter(other)]);
            }
        });
        let (shared, inside) = (engine.clone(), InFlightGauge::default());
        run_threads(3, move |at| {
            let (report, ticket) = block_on(start(&shared, 1 + at));
            assert!(report.accepted(), "it has a minute");
            inside.enter(1);
            inside.leave();
            drop(ticket);
        });
        reloading.join().expect("it does not panic");
        assert!(check(&engine).0.accepted());
    });
}

#[test]
fn concurrent_reloads_create_a_component_once() {
    explore(|| {
        let (engine, _) = engine_of(&[]);
        let shared = engine.clone();
        let limited = |report: &CheckReport| !report.limiter_decisions.is_empty();
        let accepted = run_threads(3, move |at| {
            if at < 2 {
                reload(&shared, &[rate_limiter(1.0)]);
            }
            let (report, _) = check(&shared);
            report.accepted() && limited(&report)
        });
        let accepted = accepted.into_iter().filter(|accepted| *accepted).count();
        assert_eq!(accepted, 1, "a second component started with a full bucket");
    });
}

#[test]
fn a_flow_after_a_reload_passes_only_by_the_policies_in_force() {
    let passes = |engine: &Engine, memo: &ControlPointMemo| {
        let (params, here) = (FlowParams::new(), ControlPoint::new("here").with_memo(memo));
        engine.passes(here, &params) || {
            // Notes in the memo what the policies say.
            drop(engine.decide_from(here, &params, &params.labels));
            false
        }
    };
    explore(move || {
        let (engine, _) = engine_of(&[]);
        let memo = Arc::new(ControlPointMemo::new());
        let (shared, noted) = (engine.clone(), Arc::clone(&memo));
        let flows = thread::spawn(move || {
            for _ in 0..4 {
                passes(&shared, &noted);
            }
        });
        passes(&engine, &memo);
        reload(&engine, &[rate_limiter(1.0)]);
        assert!(!passes(&engine, &memo), "a policy selects it now");
        flows.join().expect("it does not panic");
        assert!(!passes(&engine, &memo));
        reload(&engine, &[]);
        assert!(!passes(&engine, &memo), "nothing is noted yet");
        assert!(passes(&engine, &memo));
    });
}
