//! Turns a policy in code into the document that a policy file would be.

use super::code_settings::CodeSettings;
use super::field::FieldPath;
use super::selector::Selector;
use super::signal::Signal;
use crate::policy::yaml::{Mapping, Value};
use crate::policy::{AdaptiveConcurrency, CountOnly, PolicyError};

/// The reader of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The engine of this process.
    Engine,
    /// A policy file, which an engine or an Agent loads.
    File,
}

/// The state of lowering one policy: what its components share.
pub(super) struct Lowering<'p> {
    pub(super) policy: &'p str,
    pub(super) target: Target,
    /// The selectors of components that have none of their own.
    pub(super) selectors: &'p [Selector],
    /// The agent group of selectors that have none of their own.
    pub(super) agent_group: Option<&'p str>,
    /// The names of the flux meters.
    pub(super) meters: Vec<&'p str>,
    /// The signals that components read, with their names.
    pub(super) signals: Vec<(&'p Signal, String)>,
    /// The components that compute them.
    pub(super) nodes: Vec<Value>,
    /// The id of the component that is lowered.
    pub(super) component_id: String,
    /// The settings that the document cannot express.
    pub(super) code_settings: CodeSettings,
}

impl Lowering<'_> {
    /// Refuses a setting that policy files cannot express. Each such setting passes through here;
    /// `instead` says what to do with a file.
    pub(super) fn only_in_code(
        &self,
        field: &FieldPath<'_>,
        instead: &str,
    ) -> Result<(), PolicyError> {
        match self.target {
            Target::Engine => Ok(()),
            Target::File => {
                Err(field.error(format!("a policy file cannot express this; {instead}")))
            }
        }
    }

    /// Makes the component that is lowered, a concurrency limiter, find its limit.
    pub(super) fn make_adaptive(
        &mut self,
        settings: &AdaptiveConcurrency,
        field: &FieldPath<'_>,
    ) -> Result<(), PolicyError> {
        settings.check().map_err(|error| match error.field {
            "" => field.error(error.message),
            name => field.name(name).error(error.message),
        })?;
        let instead = "give a number of slots, and call `EngineBuilder::adaptive_limit` where the \
                       file is loaded";
        self.only_in_code(field, instead)?;
        let adaptive = (self.component_id.clone(), settings.clone());
        self.code_settings.adaptive.push(adaptive);
        Ok(())
    }

    /// Makes the component that is lowered, a rate limiter, count only some outcomes.
    pub(super) fn count_only(
        &mut self,
        count_only: &CountOnly,
        field: &FieldPath<'_>,
    ) -> Result<(), PolicyError> {
        let instead = "leave it out, or set it in code where the limit is made";
        self.only_in_code(field, instead)?;
        let counted = (self.component_id.clone(), count_only.clone());
        self.code_settings.count_only.push(counted);
        Ok(())
    }

    /// Returns the selectors of a component: its own, or those of the policy.
    pub(super) fn selectors(
        &self,
        own: &[Selector],
        path: &FieldPath<'_>,
    ) -> Result<Value, PolicyError> {
        let of_policy = FieldPath::policy(self.policy);
        let (selectors, owner) = match own.is_empty() {
            true => (self.selectors, &of_policy),
            false => (own, path),
        };
        if selectors.is_empty() {
            return Err(path.name("at").error(
                "no control point is given; name it by `at`, for the policy or for this part of it",
            ));
        }
        let at = owner.name("at");
        let lower = |(index, selector): (usize, &Selector)| {
            selector.lower(&at.index(index), self.agent_group)
        };
        let selectors: Result<Vec<Value>, _> = selectors.iter().enumerate().map(lower).collect();
        Ok(Value::from(selectors?))
    }
}

/// Returns a component of a kind of `flow_control`.
pub(super) fn flow_control(kind: &'static str, fields: Mapping) -> Value {
    let kind = Mapping::new().with(kind, fields);
    Mapping::new().with("flow_control", kind).into()
}
