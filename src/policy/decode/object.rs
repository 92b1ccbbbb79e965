//! A mapping's fields by name.

use super::At;
use crate::policy::PolicyError;

/// A mapping whose keys have been checked.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Object<'t> {
    pub(in crate::policy) at: At<'t>,
}

impl<'t> Object<'t> {
    /// A message, list or map: absent and null are the same.
    pub(in crate::policy) fn get(&self, key: &str) -> Option<At<'t>> {
        self.at.peek(key).filter(|at| !at.is_null())
    }

    pub(in crate::policy) fn required(&self, key: &str) -> Result<At<'t>, PolicyError> {
        self.get(key).ok_or_else(|| self.at.missing(key))
    }

    pub(in crate::policy) fn object(
        &self,
        key: &str,
        known: &'static [&'static str],
    ) -> Result<Option<Object<'t>>, PolicyError> {
        self.get(key).map(|at| at.object(known)).transpose()
    }

    /// A scalar: null is as if absent, which users may not expect of it.
    pub(in crate::policy) fn scalar(&self, key: &str) -> Option<At<'t>> {
        let at = self.at.peek(key)?;
        if at.is_null() {
            at.warn("null counts as absent here");
            return None;
        }
        Some(at)
    }

    pub(in crate::policy) fn text(&self, key: &str) -> Result<Option<&'t str>, PolicyError> {
        self.scalar(key).map(|at| at.text()).transpose()
    }

    /// Text that must be there and not be empty.
    pub(in crate::policy) fn required_text(&self, key: &str) -> Result<&'t str, PolicyError> {
        let at = self.required(key)?;
        match at.text()? {
            "" => Err(at.error("must not be empty")),
            text => Ok(text),
        }
    }

    pub(in crate::policy) fn boolean(&self, key: &str, default: bool) -> Result<bool, PolicyError> {
        self.scalar(key).map_or(Ok(default), |at| at.boolean())
    }

    pub(in crate::policy) fn number(&self, key: &str, default: f64) -> Result<f64, PolicyError> {
        self.scalar(key).map_or(Ok(default), |at| at.number())
    }

    /// The one of several keys that is given; a null gives nothing.
    pub(in crate::policy) fn only(
        &self,
        keys: &[&'static str],
    ) -> Result<Option<(&'static str, At<'t>)>, PolicyError> {
        let mut found: Option<(&'static str, At<'t>)> = None;
        for &key in keys {
            let Some(at) = self.scalar(key) else { continue };
            if let Some((first, _)) = found {
                return Err(at.error(format!("cannot stand beside `{first}`; give one of them")));
            }
            found = Some((key, at));
        }
        Ok(found)
    }
}
