//! From text to a checked policy.
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
//!     fill_amount: 1            # tokens that come back in each interval
//!     parameters: {interval: 1s, limit_by_label_key: user_id}
//!     selectors: [{control_point: checkout}]
//! ```
//!
//! A text may take 1 MiB, 64 levels and 100 000 values with all aliases written out. All forms are
//! read as the Controller reads them, with these differences, each an error or a warning that names
//! the file, the line and the field ([`PolicyError`], [`PolicyWarning`]):
//!
//! - a key written twice in one mapping, a status code that does not exist, a selector or matcher
//!   with a regular expression that does not compile, a workload's name that is taken, an interval
//!   of zero or less, a port without a signal and a percentile outside of 0 to 1 are refused (the
//!   Controller takes them, and what then runs protects nothing);
//! - `null` in the place of a text, number or boolean is as if the key were absent;
//! - `pass_through_label_values` hold, also those of a `load_ramp` (on an Agent only after dynamic
//!   configuration has come, and never those of a ramp);
//! - `~0` in a JSON pointer is `~` (there, it is refused);
//! - a Rego module is compiled when the policy is read, and refused where it does not compile or
//!   calls a function that is not available. Without the feature `rego`, modules are not evaluated:
//!   a policy is refused of which something that decides reads a label that only a module sets;
//! - alerters, infra meters and `auto_scale` have no effect; a policy that only scales is refused;
//! - dynamic configuration sets variables and `dry_run` by their config keys: the `dynamicConfig`
//!   of a resource, a file `<policy>.dynamic.yaml` beside the policy's, and
//!   [`Engine::set_dynamic_config`](crate::Engine::set_dynamic_config);
//! - a component that the embedded engine does not know is refused by its name, never ignored, and
//!   so is a loop of signals that something decides by, unless it is invalid for good.
//!
//! Signals that never change are computed when the policy is read. The others, as far as they
//! reach something that decides, become the nodes of a circuit; queries over flux meters in the
//! form that blueprints write are answered from the flux meters of this process.

mod blueprint;
mod circuit;
mod compared;
mod components;
mod decode;
mod describe;
mod document;
mod error;
mod extractor;
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
#[cfg(not(feature = "rego"))]
mod unset_labels;
mod yaml;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(crate) use self::compared::ComparedValues;
pub(crate) use self::describe::describe_unselected;
pub use self::error::{PolicyError, PolicyWarning};
pub(crate) use self::matcher::LabelMatcher;
pub(crate) use self::model::*;
pub(crate) use self::number::parse_number;
pub(crate) use self::yaml::MAX_BYTES;

/// A policy, and what its author may want to know.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) policy: Policy,
    pub(crate) warnings: Vec<PolicyWarning>,
}

/// Reads and checks a policy.
///
/// `source` is the file's path or any other name for the text; errors begin with it, and a bare
/// policy is named after its stem.
#[cfg(test)]
pub(crate) fn load(source: &str, text: &str) -> Result<Loaded, PolicyError> {
    document::load(source, text, &|_| Vec::new())
}

/// A document of dynamic configuration: its file or another name of it, and its text.
pub(crate) type Dynamic = (Arc<str>, Arc<str>);

/// Reads and checks a policy whose `config_key`s are set by the documents that `dynamic` returns
/// for its name. They come after its own `dynamicConfig`; of a key the last document counts.
pub(crate) fn load_configured(
    source: &str,
    text: &str,
    dynamic: &dyn Fn(&str) -> Vec<Dynamic>,
) -> Result<Loaded, PolicyError> {
    document::load(source, text, dynamic)
}

/// Returns a file's name without folder and extension, which names a bare policy.
pub(crate) fn stem(source: &str) -> &str {
    document::stem(source)
}
