//! Causes of errors.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The error below a public one, which its `source` hands out. Where there is one, the public
/// error's own text leaves out what the cause says.
///
/// Causes are equal when their texts are, so that errors can be compared.
#[derive(Clone, Default)]
pub(crate) struct Cause(Option<Arc<Shared>>);

/// One word in an error: decisions carry errors.
struct Shared {
    error: Box<dyn Error + Send + Sync>,
    innermost: bool,
}

#[allow(dead_code)] // Each feature brings errors of its own.
impl Cause {
    pub(crate) const NONE: Self = Self(None);

    pub(crate) fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Some(Arc::new(Shared {
            error: error.into(),
            innermost: false,
        })))
    }

    /// The last of an error's causes, where those around it only say that something failed.
    pub(crate) fn innermost(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Some(Arc::new(Shared {
            error: error.into(),
            innermost: true,
        })))
    }

    pub(crate) fn get(&self) -> Option<&(dyn Error + 'static)> {
        let Shared { error, innermost } = &**self.0.as_ref()?;
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

/// The text only: the `Debug` of some errors of other crates has the URL they were about.
impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Some(error) => fmt::Debug::fmt(&error.to_string(), f),
            None => f.write_str("None"),
        }
    }
}

/// Shows an error with all its causes, for logs: `the outer error: its cause: the cause of that`.
#[allow(dead_code)] // Used by what is logged.
pub(crate) struct WithCauses<'a>(pub(crate) &'a (dyn Error + 'static));

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
