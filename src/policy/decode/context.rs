//! What one load shares, and its limits.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::policy::PolicyWarning;

/// What one load shares.
#[derive(Debug)]
pub(in crate::policy) struct Context {
    pub(super) file: Arc<str>,
    /// Values files are checked as by a schema: no unknown keys, no nulls, no quoted numbers, no
    /// deprecated fields.
    pub(in crate::policy) strict: bool,
    warnings: RefCell<Vec<PolicyWarning>>,
    regexes: Cell<usize>,
}

impl Context {
    /// More warnings than anyone reads; hostile files could make a hundred thousand.
    const MAX_WARNINGS: usize = 100;
    /// Each compiled pattern may take a megabyte.
    pub(super) const MAX_REGEXES: usize = 256;

    pub(in crate::policy) fn new(file: Arc<str>, strict: bool) -> Self {
        Self {
            file,
            strict,
            warnings: RefCell::default(),
            regexes: Cell::new(0),
        }
    }

    pub(in crate::policy) fn into_warnings(self) -> Vec<PolicyWarning> {
        self.warnings.into_inner()
    }

    /// Nobody reads further warnings.
    pub(super) fn full(&self) -> bool {
        self.warnings.borrow().len() >= Self::MAX_WARNINGS
    }

    pub(super) fn warn(&self, warning: PolicyWarning) {
        self.warnings.borrow_mut().push(warning);
    }

    /// Another pattern to compile; false when there are too many.
    pub(super) fn count_regex(&self) -> bool {
        let regexes = self.regexes.get() + 1;
        self.regexes.set(regexes);
        regexes <= Self::MAX_REGEXES
    }
}
