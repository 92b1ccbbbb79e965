//! The predicate of a rate limiter that counts only some outcomes.

use std::fmt;
use std::sync::Arc;

use super::PolicyError;
use super::model::{ComponentKind, Policy};
use aperture_core::FlowOutcome;

/// Says which outcomes of flows a rate limiter counts. The tokens of a flow are taken by its check,
/// and returned at its end if its outcome does not count.
///
/// A policy file cannot express it; it is set in code.
#[derive(Clone)]
pub(crate) struct CountOnly(Arc<dyn Fn(&FlowOutcome) -> bool + Send + Sync>);

impl CountOnly {
    pub(crate) fn new(predicate: impl Fn(&FlowOutcome) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(predicate))
    }

    /// Returns true if a flow with this outcome counts.
    pub(crate) fn counts(&self, outcome: &FlowOutcome) -> bool {
        (self.0)(outcome)
    }

    /// Returns the address of the predicate, which identifies it.
    fn address(&self) -> *const () {
        Arc::as_ptr(&self.0).cast()
    }
}

/// Equal if both are clones of one predicate.
impl PartialEq for CountOnly {
    fn eq(&self, other: &Self) -> bool {
        self.address() == other.address()
    }
}

/// Shows which predicate it is: a reload compares the texts of components.
impl fmt::Debug for CountOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CountOnly").field(&self.address()).finish()
    }
}

impl Policy {
    /// Makes a rate limiter of the policy count only some outcomes. `source` is the place that the
    /// error names.
    ///
    /// # Errors
    ///
    /// Returns an error if the policy has no rate limiter with this id.
    pub(crate) fn set_count_only(
        &mut self,
        component_id: &str,
        count_only: CountOnly,
        source: &str,
    ) -> Result<(), PolicyError> {
        let name = &self.name;
        let limiter = self
            .components
            .iter_mut()
            .find_map(|component| match &mut component.kind {
                ComponentKind::RateLimiter(limiter) if *component.id == *component_id => {
                    Some(limiter)
                }
                _ => None,
            });
        let Some(limiter) = limiter else {
            let message = format!(
                "policy `{name}` has no rate limiter `{component_id}` to count outcomes in"
            );
            return Err(PolicyError::new(source, message));
        };
        limiter.count_only = Some(count_only);
        Ok(())
    }
}
