//! The command `validate`: describes policies, or reports why they cannot be used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tower_aperture::engine::{EngineBuilder, SignalSource};
use tower_aperture::{Engine, PolicyError};

use crate::args::ValidateArgs;
use crate::output::{CommandError, ErrorChain, print_error, print_line};

/// Replaces the Prometheus that will be available when the policies are served.
#[derive(Debug)]
pub(crate) struct AssumedPrometheus;

impl SignalSource for AssumedPrometheus {
    fn latest(&self, _query: &str) -> Option<f64> {
        None
    }
}

#[allow(clippy::unnecessary_wraps)]
pub(crate) fn run(args: &ValidateArgs) -> Result<ExitCode, CommandError> {
    let mut valid = true;
    for path in &args.paths {
        valid &= validate(args, path);
    }
    Ok(if valid {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn validate(args: &ValidateArgs, path: &Path) -> bool {
    if !path.is_dir() {
        return validate_file(args, path);
    }
    let files = match policy_files(path) {
        Ok(files) if files.is_empty() => {
            print_error(format_args!(
                "{}: there is no .yaml or .yml file in this folder",
                path.display()
            ));
            return false;
        }
        Ok(files) => files,
        Err(error) => {
            print_error(format_args!("{}: cannot be read: {error}", path.display()));
            return false;
        }
    };
    let mut valid = true;
    for file in &files {
        valid &= validate_file(args, file);
    }
    // Files that are valid alone may still conflict.
    if valid && let Err(error) = build(args, |engine| engine.policy_folder(path)) {
        print_error(ErrorChain(&error));
        return false;
    }
    valid
}

fn validate_file(args: &ValidateArgs, file: &Path) -> bool {
    match build(args, |engine| engine.policy_file(file)) {
        Ok(engine) => {
            let mut text = format!("{}\n{}", file.display(), engine.describe());
            if !engine.queries().is_empty() {
                text.push_str("  its queries need a Prometheus: start serve with --prometheus\n");
            }
            print_line(text);
            true
        }
        Err(error) => {
            print_error(ErrorChain(&error));
            false
        }
    }
}

fn build(
    args: &ValidateArgs,
    add_policies: impl FnOnce(EngineBuilder) -> EngineBuilder,
) -> Result<Engine, PolicyError> {
    let mut engine = Engine::builder().signal_source(AssumedPrometheus);
    if let Some(group) = &args.agent_group {
        engine = engine.agent_group(group);
    }
    add_policies(engine).build()
}

/// Returns the files that the engine reads from a folder.
fn policy_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if yaml && !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
