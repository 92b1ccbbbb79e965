//! Access to the fields of a mapping by name.

use super::{DocumentNode, Section};
use crate::policy::PolicyError;

/// A mapping whose keys have been checked.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Object<'t> {
    pub(in crate::policy) node: DocumentNode<'t>,
    pub(super) section: &'static Section,
}

impl<'t> Object<'t> {
    /// Returns a nested mapping or list. Null is treated as absent.
    pub(in crate::policy) fn get(&self, key: &str) -> Option<DocumentNode<'t>> {
        self.node.peek(key).filter(|node| !node.is_null())
    }

    pub(in crate::policy) fn required(&self, key: &str) -> Result<DocumentNode<'t>, PolicyError> {
        self.get(key).ok_or_else(|| self.node.missing(key))
    }

    pub(in crate::policy) fn object(
        &self,
        key: &str,
        section: &'static Section,
    ) -> Result<Option<Object<'t>>, PolicyError> {
        self.get(key).map(|node| node.object(section)).transpose()
    }

    /// Returns a scalar. Null is treated as absent, with a warning, because users may not expect
    /// it.
    pub(in crate::policy) fn scalar(&self, key: &str) -> Option<DocumentNode<'t>> {
        let node = self.node.peek(key)?;
        if node.is_null() {
            node.warn("null is treated as absent here");
            return None;
        }
        Some(node)
    }

    pub(in crate::policy) fn text(&self, key: &str) -> Result<Option<&'t str>, PolicyError> {
        self.scalar(key).map(|node| node.text()).transpose()
    }

    /// Reads a required text that must not be empty.
    pub(in crate::policy) fn required_text(&self, key: &str) -> Result<&'t str, PolicyError> {
        let node = self.required(key)?;
        match node.text()? {
            "" => Err(node.error("must not be empty")),
            text => Ok(text),
        }
    }

    pub(in crate::policy) fn boolean(&self, key: &str, default: bool) -> Result<bool, PolicyError> {
        self.scalar(key).map_or(Ok(default), |node| node.boolean())
    }

    pub(in crate::policy) fn number(&self, key: &str, default: f64) -> Result<f64, PolicyError> {
        self.scalar(key).map_or(Ok(default), |node| node.number())
    }

    /// Returns the one key that is given. Null is treated as absent.
    ///
    /// # Errors
    ///
    /// Returns an error if more than one key is given.
    pub(in crate::policy) fn only(
        &self,
    ) -> Result<Option<(&'static str, DocumentNode<'t>)>, PolicyError> {
        let mut found: Option<(&'static str, DocumentNode<'t>)> = None;
        for key in self.section.names() {
            let Some(node) = self.scalar(key) else {
                continue;
            };
            if let Some((first, _)) = found {
                return Err(node.error(format!(
                    "cannot be combined with `{first}`; give one of them"
                )));
            }
            found = Some((key, node));
        }
        Ok(found)
    }
}
