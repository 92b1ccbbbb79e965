//! Sets up logs on standard error.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::args::{LogArgs, LogFormat};
use crate::output::CommandError;

/// Installs the subscriber that writes logs.
pub(crate) fn init(args: &LogArgs) -> Result<(), CommandError> {
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
        .map_err(|error| format!("the log level `{level}` is not valid: {error}"))?;
    let logs = fmt().with_env_filter(filter).with_writer(io::stderr);
    let result = match args.log_format {
        LogFormat::Text => logs.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    result.map_err(|error| format!("logs cannot be written: {error}").into())
}
