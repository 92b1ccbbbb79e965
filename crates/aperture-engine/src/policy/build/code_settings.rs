//! Settings of policies in code that no policy file can express.

use crate::policy::{AdaptiveConcurrency, CountOnly, Policy, PolicyError};

/// The settings by the id of their component.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct CodeSettings {
    /// The settings of concurrency limiters that find their limits.
    pub(super) adaptive: Vec<(String, AdaptiveConcurrency)>,
    /// The predicates of rate limiters that count only some outcomes.
    pub(super) count_only: Vec<(String, CountOnly)>,
}

impl CodeSettings {
    /// Applies the settings to the policy that was read from the document.
    pub(super) fn apply(&self, source: &str, policy: &mut Policy) -> Result<(), PolicyError> {
        for (id, settings) in &self.adaptive {
            let mut components = policy.components.iter_mut();
            let Some(component) = components.find(|component| *component.id == **id) else {
                continue;
            };
            let made = component.kind.make_adaptive(settings);
            made.map_err(|error| PolicyError::new(source, error.message))?;
        }
        for (id, count_only) in &self.count_only {
            policy.set_count_only(id, count_only.clone(), source)?;
        }
        Ok(())
    }
}
