//! Loads policies: reads YAML text, checks it, and returns a policy that the engine can run. Policies
//! in Rust code are in [`build`].
//!
//! A policy file is YAML in one of three forms: a `kind: Policy` resource as the Aperture
//! Controller takes it, the bare policy inside of one (named after its file), or the values of a
//! blueprint, which is the shortest:
//!
//! ```yaml
//! blueprint: rate-limiting/base
//! policy:
//!   policy_name: per-user
//!   rate_limiter:
//!     bucket_capacity: 5        # tokens; a flow takes one
//!     fill_amount: 1            # tokens that are added in each interval
//!     parameters: {interval: 1s, limit_by_label_key: user_id}
//!     selectors: [{control_point: checkout}]
//! ```
//!
//! The fields of all forms are listed in [`fields`].
//!
//! A text may have up to 1 MiB, 64 levels of nesting and 100 000 values, counted with all aliases
//! expanded. All forms are read as the Controller reads them, with the differences below. Each
//! refused or ignored part is reported as an error or a warning with the file, the line and the
//! field ([`PolicyError`], [`PolicyWarning`]):
//!
//! - The following are refused: a key that is written twice in one mapping, a status code that does
//!   not exist, a selector or matcher with a regular expression that does not compile, a workload
//!   name that is already taken, an interval of zero or less, a port without a signal, and a
//!   percentile outside of 0 to 1. The Controller accepts them, and the resulting policy protects
//!   nothing.
//! - `null` in place of a text, number or boolean is treated as an absent key.
//! - `pass_through_label_values` always apply, also those of a `load_ramp`. On an Agent they apply
//!   only after dynamic configuration has arrived, and those of a ramp never apply.
//! - `~0` in a JSON pointer stands for `~`. The Controller refuses it.
//! - A Rego module is compiled when the policy is read, and refused if it does not compile or calls
//!   a function that is not available. Without the feature `rego`, modules are not evaluated, and a
//!   policy is refused if a component or a flux meter reads a label that only a module sets.
//! - Alerters, infra meters and `auto_scale` have no effect. A policy that only scales is refused.
//! - Dynamic configuration sets variables and `dry_run` by their config keys: the `dynamicConfig`
//!   of a resource, a file `<policy>.dynamic.yaml` beside the policy's file, and
//!   [`Engine::set_dynamic_config`](crate::Engine::set_dynamic_config).
//! - A component that the embedded engine does not support is refused by its name, never ignored.
//!   A loop of signals that feeds a deciding component is refused too, unless all of its signals
//!   stay invalid.
//!
//! Signals that never change are computed when the policy is read. The others become the nodes of a
//! circuit, provided that they reach a component that decides. Queries over flux meters in the form
//! that blueprints write are answered from the flux meters of this process.

mod adaptive;
mod assemble;
mod blueprint;
pub mod build;
mod circuit;
mod compared_values;
mod components;
mod count_only;
mod decode;
mod describe;
mod document;
mod error;
mod extractor;
pub mod fields;
mod matcher;
mod model;
mod number;
mod ports;
mod promql;
mod re2;
mod resources;
mod selector;
mod status_code;
mod suggest;
mod unset_labels;
mod yaml;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use self::adaptive::AdaptiveConcurrency;
pub(crate) use self::adaptive::Algorithm;
pub(crate) use self::build::PolicyDocument;
pub(crate) use self::compared_values::ComparedValues;
pub(crate) use self::count_only::CountOnly;
pub(crate) use self::describe::describe_unselected;
pub use self::error::{PolicyError, PolicyWarning};
pub(crate) use self::matcher::LabelMatcher;
pub(crate) use self::model::*;
pub(crate) use self::number::parse_number;
pub(crate) use self::yaml::MAX_BYTES;

/// A checked policy with the warnings that loading it produced.
#[derive(Clone, Debug)]
pub(crate) struct LoadedPolicy {
    pub(crate) policy: Policy,
    pub(crate) warnings: Vec<PolicyWarning>,
}

/// Reads and checks a policy without dynamic configuration.
///
/// `source` is the file's path or any other name for the text. Errors begin with it, and a bare
/// policy is named after its file stem.
#[cfg(test)]
pub(crate) fn load(source: &str, text: &str) -> Result<LoadedPolicy, PolicyError> {
    document::load(source, text, &|_| Vec::new())
}

/// A document of dynamic configuration: the path of its file or another name, and its text.
pub(crate) type DynamicConfigDocument = (Arc<str>, Arc<str>);

/// Reads and checks a policy, with dynamic configuration.
///
/// `dynamic` returns the documents for the name of a policy. They apply after the `dynamicConfig`
/// of the policy itself; if several documents set the same key, the last one applies.
pub(crate) fn load_configured(
    source: &str,
    text: &str,
    dynamic: &dyn Fn(&str) -> Vec<DynamicConfigDocument>,
) -> Result<LoadedPolicy, PolicyError> {
    document::load(source, text, dynamic)
}

/// Reads and checks a policy that was built in code, with dynamic configuration.
pub(crate) fn load_document(
    document: &PolicyDocument,
    dynamic: &dyn Fn(&str) -> Vec<DynamicConfigDocument>,
) -> Result<LoadedPolicy, PolicyError> {
    document.load(dynamic)
}

/// Returns the name of a file without folder and extension, which is the name of a bare policy.
pub(crate) fn stem(source: &str) -> &str {
    document::stem(source)
}
