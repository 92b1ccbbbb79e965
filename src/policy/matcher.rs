//! Label matchers (skeleton).

use crate::flow::Labels;

/// Which labels a flow must have.
#[derive(Clone, Debug, Default)]
pub(crate) struct LabelMatcher;

impl LabelMatcher {
    pub(crate) fn matches(&self, _labels: &Labels<'_>) -> bool {
        true
    }
}
