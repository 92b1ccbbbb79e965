//! Rego modules in builds without the feature `rego`, which cannot evaluate them.

use std::convert::Infallible;
use std::sync::Arc;

/// A compiled module, which cannot exist.
#[derive(Debug)]
pub(crate) enum CompiledModule {}

/// Compiles nothing: returns `None`.
pub(crate) const fn compile(_: &str, _: &[Arc<str>]) -> Result<Option<CompiledModule>, Infallible> {
    Ok(None)
}
