//! The document of a policy in code.

use std::fmt;
use std::sync::Arc;

use super::code_settings::CodeSettings;
use super::field::source_name;
use crate::policy::yaml::{self, Mapping, Value};
use crate::policy::{DynamicConfigDocument, LoadedPolicy, PolicyError, document};

/// The document of a policy in code, as a value and as YAML, with what a document cannot express.
#[derive(Clone, PartialEq)]
pub(crate) struct PolicyDocument {
    /// The name by which errors refer to the policy.
    pub(crate) source: Arc<str>,
    value: Arc<Value>,
    pub(crate) text: Arc<str>,
    code_settings: Arc<CodeSettings>,
}

impl PolicyDocument {
    pub(super) fn new(policy: &str, document: Mapping, code_settings: CodeSettings) -> Self {
        Self {
            source: source_name(policy).into(),
            text: yaml::print(&document).into(),
            value: Arc::new(document.into()),
            code_settings: Arc::new(code_settings),
        }
    }

    /// Reads the document.
    pub(in crate::policy) fn load(
        &self,
        dynamic: &dyn Fn(&str) -> Vec<DynamicConfigDocument>,
    ) -> Result<LoadedPolicy, PolicyError> {
        let mut loaded = document::load_value(&self.source, &self.value, dynamic)?;
        self.code_settings.apply(&self.source, &mut loaded.policy)?;
        Ok(loaded)
    }
}

impl fmt::Debug for PolicyDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PolicyDocument").field(&self.source).finish()
    }
}
