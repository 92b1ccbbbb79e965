//! Standard output and standard error. Nobody listening is no reason to fail.

use std::fmt::Display;
use std::io::{self, Write as _};

/// What ends a command, as one line for people.
pub(crate) type Problem = Box<dyn std::error::Error>;

pub(crate) fn say(text: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

pub(crate) fn complain(problem: impl Display) {
    let _ = writeln!(io::stderr().lock(), "error: {problem}");
}
