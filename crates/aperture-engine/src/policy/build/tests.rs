//! Tests of policies in code: what they lower to, and what they refuse.

mod conditions;
mod equivalents;
mod loops;
mod refusals;
mod round_trip;

use std::time::Duration;

use super::*;
use crate::policy::{LoadedPolicy, PolicyError, load};

/// Reads the policy as the engine does.
fn read(policy: &Policy) -> Result<LoadedPolicy, PolicyError> {
    policy.clone().into_document()?.load(&|_| Vec::new())
}

/// Returns a text that is equal for policies that do the same. Their contents may be written in
/// different ways, so the hash does not count.
fn model(loaded: LoadedPolicy) -> String {
    let mut policy = loaded.policy;
    policy.hash = "".into();
    format!("{policy:#?}")
}

fn model_in_code(policy: &Policy) -> String {
    model(read(policy).unwrap_or_else(|error| panic!("{error}")))
}

fn model_in_file(text: &str) -> String {
    model(load("p.yaml", text).unwrap_or_else(|error| panic!("{error}\n{text}")))
}

/// Returns a policy file with these components.
fn file(components: &str) -> String {
    format!("metadata: {{name: p}}\nspec:\n  circuit:\n    components:\n{components}")
}

#[track_caller]
fn assert_same(policy: &Policy, text: &str) {
    assert_eq!(model_in_code(policy), model_in_file(text));
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn limited(limit: impl Into<Limit>) -> Policy {
    Policy::new("p").at("shop").limit(limit)
}

fn scheduled(scheduler: Scheduler) -> Policy {
    Policy::new("p").at("shop").schedule(scheduler)
}

fn matched(matcher: LabelMatcher) -> Policy {
    let selector = Selector::control_point("shop").when(matcher);
    Policy::new("p")
        .at(selector)
        .limit(RateLimit::per_second(1))
}

/// Checks that the engine and the printer refuse the policy, with this field and a message that
/// contains `part`.
#[track_caller]
fn assert_refused(policy: &Policy, field: &str, part: &str) {
    let error = read(policy).expect_err("the engine refuses it");
    assert_eq!(error.field(), field, "{error}");
    assert!(error.message().contains(part), "{error}");
    assert_eq!(error.file(), format!("policy `{}`", policy.name()));
    assert_eq!((error.line(), error.column()), (None, None));
    assert_eq!(policy.to_yaml(), Err(error), "the printer says the same");
}
