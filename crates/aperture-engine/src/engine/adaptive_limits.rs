//! Which concurrency limiters of an engine find their limits by themselves, and the limits that
//! they have found.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{Engine, EngineBuilder, EngineMode};
use crate::policy::{AdaptiveConcurrency, ComponentKind, Policy, PolicyError};

/// The settings of limiters by their policy and their id.
#[derive(Debug, Default)]
pub(super) struct AdaptiveSettings(BTreeMap<(String, String), AdaptiveConcurrency>);

impl AdaptiveSettings {
    /// Makes the limiters of a policy adaptive.
    pub(super) fn apply(&self, source: &str, policy: &mut Policy) -> Result<(), PolicyError> {
        let settings = self.0.iter();
        for ((_, id), settings) in settings.filter(|((name, _), _)| **name == *policy.name) {
            let mut components = policy.components.iter_mut();
            let Some(component) = components.find(|component| *component.id == **id) else {
                return Err(unknown_component(source, policy, id));
            };
            component.kind.make_adaptive(settings).map_err(|error| {
                let field = match error.field {
                    "" => String::new(),
                    field => format!("`{field}` "),
                };
                let message = format!("adaptive limit of `{id}`: {field}{}", error.message);
                PolicyError::new(source, message)
            })?;
        }
        Ok(())
    }

    /// Refuses names without a policy: a misspelt name would leave the limit constant.
    pub(super) fn check_names(&self, policies: &HashSet<Arc<str>>) -> Result<(), PolicyError> {
        let mut names = self.0.keys();
        match names.find(|(policy, _)| !policies.contains(policy.as_str())) {
            None => Ok(()),
            Some((unknown, _)) => Err(PolicyError::new(
                "EngineBuilder::adaptive_limit",
                format!("no policy is named `{unknown}`: give the name of one that is loaded"),
            )),
        }
    }
}

fn unknown_component(source: &str, policy: &Policy, id: &str) -> PolicyError {
    let limiters = policy.components.iter();
    let limiters =
        limiters.filter(|component| matches!(component.kind, ComponentKind::ConcurrencyLimiter(_)));
    let known: Vec<String> = limiters
        .map(|component| format!("`{}`", component.id))
        .collect();
    let known = match known.is_empty() {
        true => "the policy has no concurrency limiter".to_owned(),
        false => format!("its concurrency limiters are {}", known.join(", ")),
    };
    let message = format!("adaptive limit of `{id}`: there is no such component; {known}");
    PolicyError::new(source, message)
}

impl<M: EngineMode> EngineBuilder<M> {
    /// Makes a concurrency limiter of a policy file find its limit by itself. The settings replace
    /// its `max_concurrency`; its other parameters remain. For a policy in code, use
    /// [`ConcurrencyLimit::adaptive`](crate::policy::build::ConcurrencyLimit::adaptive).
    ///
    /// `component` is the id of the limiter, such as `root.0`. A later call for the same limiter
    /// replaces the earlier one. The setting also applies to reloads, which fail if the policy no
    /// longer has the limiter.
    #[must_use]
    pub fn adaptive_limit(
        mut self,
        policy_name: impl Into<String>,
        component_id: impl Into<String>,
        settings: AdaptiveConcurrency,
    ) -> Self {
        let limiter = (policy_name.into(), component_id.into());
        self.settings.adaptive.0.insert(limiter, settings);
        self
    }
}

/// The limits in force of a concurrency limiter that finds them by itself.
///
/// See [`Engine::adaptive_limits`] for an example.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AdaptiveLimit {
    /// The name of the policy.
    pub policy_name: Arc<str>,
    /// The id of the component in the policy, such as `root.0`.
    pub component_id: Arc<str>,
    /// The number of keys with a limit of their own.
    pub keys: usize,
    /// The lowest limit of a key, in flows in flight. Without keys, it is the limit with which a
    /// key begins, as the following ones are.
    pub lowest: f64,
    /// The mean of the limits of all keys.
    pub mean: f64,
    /// The highest limit of a key.
    pub highest: f64,
}

impl<M: EngineMode> Engine<M> {
    /// Returns the limits of all concurrency limiters that [find them by
    /// themselves](AdaptiveConcurrency), policy by policy. Visits every key: for metrics, not for
    /// each request.
    ///
    /// ```
    /// use tower_aperture::Engine;
    /// use tower_aperture::policy::AdaptiveConcurrency;
    ///
    /// let engine = Engine::builder()
    ///     .policy_text("search.yaml", "
    /// circuit:
    ///   components:
    ///   - flow_control:
    ///       concurrency_limiter:
    ///         selectors: [{control_point: search}]
    ///         in_ports: {max_concurrency: {constant_signal: {value: 40}}}
    ///         parameters: {max_inflight_duration: 60s}
    /// ")
    ///     .adaptive_limit("search", "root.0", AdaptiveConcurrency::gradient().initial(40))
    ///     .build()?;
    /// let limits = engine.adaptive_limits();
    /// assert_eq!((limits[0].keys, limits[0].lowest), (0, 40.0));
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[must_use]
    pub fn adaptive_limits(&self) -> Vec<AdaptiveLimit> {
        let live = self.shared.live.load();
        let entries = live.index.components().iter();
        entries
            .filter_map(|entry| {
                let limits = entry.component.limits_in_force()?;
                Some(AdaptiveLimit {
                    policy_name: Arc::clone(&entry.policy_name),
                    component_id: Arc::clone(&entry.component_id),
                    keys: limits.keys,
                    lowest: limits.lowest,
                    mean: limits.mean,
                    highest: limits.highest,
                })
            })
            .collect()
    }
}
