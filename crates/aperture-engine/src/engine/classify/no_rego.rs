//! The evaluation of Rego modules in builds without the feature `rego`, where none exists.

use std::convert::Infallible;
use std::sync::Arc;

use super::super::http_input::HttpInput;
use super::ClassifierLabel;
use crate::rego::CompiledModule;

/// The input document, which cannot exist.
pub(super) type Document = Infallible;

pub(super) const fn evaluate(
    module: &CompiledModule,
    _: &[(Arc<str>, bool)],
    _: &mut Option<Document>,
    _: &HttpInput<'_>,
    _: &[&str],
) -> Result<Vec<ClassifierLabel>, Infallible> {
    match *module {}
}
