//! The causes of errors, which `source` returns.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The cause of a public error, which the error's `source` returns. The public error's own text
/// does not repeat the text of the cause.
///
/// Causes are equal if their texts are equal, so that errors can be compared.
#[derive(Clone, Default)]
pub struct Cause(Option<Arc<CauseInner>>);

/// Behind one pointer, so that errors and the decisions that carry them stay small.
struct CauseInner {
    error: Box<dyn Error + Send + Sync>,
    innermost: bool,
}

impl Cause {
    /// No cause.
    pub const NONE: Self = Self(None);

    /// Makes a cause of an error.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Some(Arc::new(CauseInner {
            error: error.into(),
            innermost: false,
        })))
    }

    /// Makes a cause of the innermost source of an error, for errors whose outer layers only state
    /// that an operation failed.
    pub fn innermost(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Some(Arc::new(CauseInner {
            error: error.into(),
            innermost: true,
        })))
    }

    /// Returns the cause, for an error's `source`.
    #[must_use]
    pub fn get(&self) -> Option<&(dyn Error + 'static)> {
        let CauseInner { error, innermost } = &**self.0.as_ref()?;
        let mut error: &(dyn Error + 'static) = &**error;
        while let (true, Some(inner)) = (*innermost, error.source()) {
            error = inner;
        }
        Some(error)
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        let text = |cause: &Self| cause.get().map(ToString::to_string);
        text(self) == text(other)
    }
}

impl Eq for Cause {}

/// Shows the text only, because the `Debug` output of some errors of other crates has a URL.
impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Some(error) => fmt::Debug::fmt(&error.to_string(), f),
            None => f.write_str("None"),
        }
    }
}

/// Shows an error with all its causes, for logs: `the outer error: its cause: the cause of that`.
#[derive(Debug)]
pub struct WithCauses<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for WithCauses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
