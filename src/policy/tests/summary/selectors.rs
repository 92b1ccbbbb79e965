//! Selectors and their matchers against what was recorded.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Verdict;
use super::values::{empty, list, pruned, same, without};
use crate::policy::decode::{At, Context};
use crate::policy::{LabelMatcher, Selector, selector, yaml};

pub(super) fn compare_selectors(selectors: &[Selector], recorded: &Value) -> Verdict {
    let recorded = list(recorded);
    same("selectors", &json!(selectors.len()), &json!(recorded.len()))?;
    for (selector, recorded) in selectors.iter().zip(recorded) {
        let ours = json!({
            "control_point": &*selector.control_point,
            "service": &*selector.service,
            "agent_group": selector.agent_group.as_deref().unwrap_or("aperture-cloud"),
        });
        same("selector", &ours, &without(recorded, &["label_matcher"]))?;
        compare_matcher(&selector.matcher, &recorded["label_matcher"])?;
    }
    Ok(())
}

/// What the summary says compiles to the same tests; what it leaves out was empty in the text.
pub(super) fn compare_matcher(matcher: &LabelMatcher, recorded: &Value) -> Verdict {
    if empty(&pruned(recorded)) {
        return Ok(());
    }
    let file: Arc<str> = Arc::from("summary");
    let tree = yaml::read(&file, &recorded.to_string()).map_err(|error| error.to_string())?;
    let context = Context::new(file, false);
    let theirs = selector::matcher(At::root(&context, &tree)).map_err(|error| error.to_string())?;
    let shown = |matcher: &LabelMatcher| {
        let mut tests = matcher.shown();
        tests.sort();
        tests
    };
    same(
        "label matcher",
        &json!(shown(matcher)),
        &json!(shown(&theirs)),
    )
}
