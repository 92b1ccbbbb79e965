//! Logs, on standard error.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::args::{LogFormat, Logs};
use crate::output::Problem;

pub(crate) fn begin(args: &Logs) -> Result<(), Problem> {
    let level = match &args.log_level {
        Some(level) => level.clone(),
        None => std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default(),
    };
    let level = if level.trim().is_empty() {
        "info"
    } else {
        level.trim()
    };
    let filter = EnvFilter::try_new(level)
        .map_err(|error| format!("the log level `{level}` is none: {error}"))?;
    let logs = fmt().with_env_filter(filter).with_writer(io::stderr);
    let begun = match args.log_format {
        LogFormat::Text => logs.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    begun.map_err(|error| format!("logs cannot be written: {error}").into())
}
