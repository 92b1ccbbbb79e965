//! The modes of engines: with a shared store, decisions are futures.

use tower_aperture::{Check, Decider, Verdict};

use super::store::Replies;
use super::*;

#[test]
fn a_decision_is_pending_until_the_store_has_replied() {
    for component in every_kind() {
        let (store, _, engine) = one(Replies::Held, std::slice::from_ref(&component));
        let Check::Pending(mut pending) = engine.decide(HERE, &params()) else {
            panic!("the store has not replied: {component}");
        };
        assert!(poll(&mut pending).is_none(), "{component}");
        store.deliver_all();
        let verdict = poll(&mut pending);
        assert!(matches!(verdict, Some(Verdict::Accepted(_))), "{component}");
    }
}

#[test]
fn an_engine_in_process_that_is_used_as_a_shared_one_keeps_its_limits() {
    let in_process = Engine::builder()
        .policy_text("limits.yaml", policy(&[rate_limiter(2.0, 0.0, "")]))
        .build()
        .expect("the policy is valid");
    let shared: SharedEngine = in_process.clone().into();
    let params = params();
    let input = CheckInput::new(HERE, &params);
    assert!(in_process.check(&input).accepted());
    assert!(accepts(&shared), "the second token");
    assert!(!in_process.check(&input).accepted() && !accepts(&shared));
    assert_eq!(shared.stats().decided_without_store, 0);
}
