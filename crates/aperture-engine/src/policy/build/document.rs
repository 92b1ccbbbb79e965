//! The document of a policy in code.

use std::fmt;
use std::sync::Arc;

use super::field::source_name;
use crate::policy::yaml::{self, Mapping, Value};
use crate::policy::{DynamicConfigDocument, LoadedPolicy, PolicyError, document};

/// The document of a policy in code, as a value and as YAML.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PolicyDocument {
    /// The name by which errors refer to the policy.
    pub(crate) source: Arc<str>,
    value: Arc<Value>,
    pub(crate) text: Arc<str>,
}

impl PolicyDocument {
    pub(super) fn new(policy: &str, document: Mapping) -> Self {
        Self {
            source: source_name(policy).into(),
            text: yaml::print(&document).into(),
            value: Arc::new(document.into()),
        }
    }

    /// Reads the document.
    pub(in crate::policy) fn load(
        &self,
        dynamic: &dyn Fn(&str) -> Vec<DynamicConfigDocument>,
    ) -> Result<LoadedPolicy, PolicyError> {
        document::load_value(&self.source, &self.value, dynamic)
    }
}

impl fmt::Debug for PolicyDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PolicyDocument").field(&self.source).finish()
    }
}
