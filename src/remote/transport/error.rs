//! Errors of the transport.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// Why no connection could be made.
#[derive(Clone, Debug)]
pub(in crate::remote) struct ConnectError(Arc<BoxError>);

impl ConnectError {
    pub(super) fn new(error: impl Into<BoxError>) -> Self {
        Self(Arc::new(error.into()))
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no connection to the agent")
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&**self.0)
    }
}

/// Returns the message of the innermost cause. Outer errors only state that an error occurred.
pub(in crate::remote) fn innermost_message(mut error: &(dyn Error + 'static)) -> String {
    while let Some(inner) = error.source() {
        error = inner;
    }
    error.to_string()
}
