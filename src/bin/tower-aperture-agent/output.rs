//! Standard output and standard error. Nobody listening is no reason to fail.

use std::error::Error;
use std::fmt::{self, Display};
use std::io::{self, Write as _};

/// What ends a command, as one line for people.
pub(crate) type Problem = Box<dyn Error>;

/// Shows an error with all its causes on one line.
pub(crate) struct WithCauses<'a>(pub(crate) &'a (dyn Error + 'static));

impl Display for WithCauses<'_> {
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

pub(crate) fn say(text: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

pub(crate) fn complain(problem: impl Display) {
    let _ = writeln!(io::stderr().lock(), "error: {problem}");
}
