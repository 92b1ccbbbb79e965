//! `validate`: what policies do, or why they cannot be used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tower_aperture::engine::{EngineBuilder, SignalSource};
use tower_aperture::{Engine, PolicyError};

use crate::args::Validate;
use crate::output::{Problem, WithCauses, complain, say};

/// Stands for the Prometheus that is there when it gets serious.
#[derive(Debug)]
pub(crate) struct Later;

impl SignalSource for Later {
    fn latest(&self, _query: &str) -> Option<f64> {
        None
    }
}

#[allow(clippy::unnecessary_wraps)]
pub(crate) fn run(args: &Validate) -> Result<ExitCode, Problem> {
    let mut good = true;
    for path in &args.paths {
        good &= validate(args, path);
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn validate(args: &Validate, path: &Path) -> bool {
    if !path.is_dir() {
        return judge(args, path);
    }
    let files = match policy_files(path) {
        Ok(files) if files.is_empty() => {
            complain(format_args!(
                "{}: there is no .yaml or .yml file in this folder",
                path.display()
            ));
            return false;
        }
        Ok(files) => files,
        Err(error) => {
            complain(format_args!("{}: cannot be read: {error}", path.display()));
            return false;
        }
    };
    let mut good = true;
    for file in &files {
        good &= judge(args, file);
    }
    // Good ones may still not go together.
    if good && let Err(error) = build(args, |engine| engine.policy_folder(path)) {
        complain(WithCauses(&error));
        return false;
    }
    good
}

fn judge(args: &Validate, file: &Path) -> bool {
    match build(args, |engine| engine.policy_file(file)) {
        Ok(engine) => {
            let mut text = format!("{}\n{}", file.display(), engine.describe());
            if !engine.queries().is_empty() {
                text.push_str(
                    "  what it asks, a Prometheus has to answer: --prometheus of serve\n",
                );
            }
            say(text);
            true
        }
        Err(error) => {
            complain(WithCauses(&error));
            false
        }
    }
}

fn build(
    args: &Validate,
    with: impl FnOnce(EngineBuilder) -> EngineBuilder,
) -> Result<Engine, PolicyError> {
    let mut engine = Engine::builder().signal_source(Later);
    if let Some(group) = &args.agent_group {
        engine = engine.agent_group(group);
    }
    with(engine).build()
}

/// Those that the engine takes of a folder.
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
