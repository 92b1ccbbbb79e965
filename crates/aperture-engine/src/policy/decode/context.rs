//! The state that is shared while one document is read, and its limits.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::policy::PolicyWarning;

/// The state that is shared while one document is read.
#[derive(Debug)]
pub(in crate::policy) struct LoadContext {
    pub(super) file: Arc<str>,
    /// True for values files, which are checked as by a schema: no unknown keys, no nulls, no
    /// quoted numbers, no deprecated fields.
    pub(in crate::policy) strict: bool,
    warnings: RefCell<Vec<PolicyWarning>>,
    regexes: Cell<usize>,
}

impl LoadContext {
    /// The number of warnings that are kept. A hostile file could produce a hundred thousand.
    const MAX_WARNINGS: usize = 100;
    /// The number of regular expressions in one document. Each may take 1 MiB when compiled.
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

    /// Returns true if the limit of warnings is reached.
    pub(super) fn has_max_warnings(&self) -> bool {
        self.warnings.borrow().len() >= Self::MAX_WARNINGS
    }

    pub(super) fn warn(&self, warning: PolicyWarning) {
        self.warnings.borrow_mut().push(warning);
    }

    /// Counts a pattern that is to be compiled. Returns false if the limit is exceeded.
    pub(super) fn count_regex(&self) -> bool {
        let regexes = self.regexes.get() + 1;
        self.regexes.set(regexes);
        regexes <= Self::MAX_REGEXES
    }
}
