//! What a limiter reads of a flow: its key and how many tokens it asks for.

use crate::engine::engine_flow::EngineFlow;
use crate::policy;

/// The key by which a flow is limited.
pub(crate) enum FlowKey<'a> {
    Present(&'a str),
    Missing,
}

/// Returns the tokens that a flow asks for. Ignores a label value that is not a number or not
/// finite, because NaN would corrupt the state.
#[inline(always)]
pub(crate) fn requested_tokens(label_key: Option<&str>, flow: &EngineFlow<'_, '_>) -> f64 {
    match label_key {
        None => 1.0,
        Some(key) => parse_tokens_label(key, flow),
    }
}

fn parse_tokens_label(key: &str, flow: &EngineFlow<'_, '_>) -> f64 {
    flow.labels
        .get(key)
        .and_then(policy::parse_number)
        .filter(|tokens| tokens.is_finite())
        .unwrap_or(1.0)
}
