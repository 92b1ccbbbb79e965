//! Compares selectors and their matchers with the recorded summaries.

use std::sync::Arc;

use serde_json::{Value, json};

use super::ComparisonResult;
use super::values::{empty, list, pruned, same, without};
use crate::policy::decode::{DocumentNode, LoadContext};
use crate::policy::{LabelMatcher, Selector, selector, yaml};

pub(super) fn compare_selectors(selectors: &[Selector], recorded: &Value) -> ComparisonResult {
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

/// Compares a matcher with the recorded one, compiled to conditions. Parts that the summary leaves
/// out were empty in the text.
pub(super) fn compare_matcher(matcher: &LabelMatcher, recorded: &Value) -> ComparisonResult {
    if empty(&pruned(recorded)) {
        return Ok(());
    }
    let file: Arc<str> = Arc::from("summary");
    let tree = yaml::read(&file, &recorded.to_string()).map_err(|error| error.to_string())?;
    let context = LoadContext::new(file, false);
    let theirs = selector::matcher(DocumentNode::root(&context, &tree))
        .map_err(|error| error.to_string())?;
    let shown = |matcher: &LabelMatcher| {
        let mut conditions = matcher.debug_strings();
        conditions.sort();
        conditions
    };
    same(
        "label matcher",
        &json!(shown(matcher)),
        &json!(shown(&theirs)),
    )
}
