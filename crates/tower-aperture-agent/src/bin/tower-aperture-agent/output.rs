//! Writes to standard output and standard error. Write errors are ignored, because a closed pipe is
//! no reason to fail.

use std::error::Error;
use std::fmt::{self, Display};
use std::io::{self, Write as _};

/// The error that ends a command, shown on one line.
pub(crate) type CommandError = Box<dyn Error>;

/// Shows an error and all its causes on one line.
pub(crate) struct ErrorChain<'a>(pub(crate) &'a (dyn Error + 'static));

impl Display for ErrorChain<'_> {
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

/// Prints a line to standard output.
pub(crate) fn print_line(text: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// Prints an error to standard error.
pub(crate) fn print_error(error: impl Display) {
    let _ = writeln!(io::stderr().lock(), "error: {error}");
}
