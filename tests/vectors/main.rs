//! Replays conversations recorded with a real Aperture Agent against the embedded engine.
//!
//! Every `*.json` below this folder is read, and below the folder that `TOWER_APERTURE_VECTORS`
//! names. One line a recording says `ok`, `deviates` (and which row of the register of quirks), the
//! first difference, `refused` with the component that the engine does not support, or `skipped`
//! with the reason: a call that is missing, or a loop that asks Prometheus. A control loop on
//! constant signals has a line of its own. The first lines are checks of the replay itself. Arguments that are no options select recordings by a part
//! of their name.
// Its lines are what this program is for.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod answer;
mod checks;
mod compare;
mod fair;
mod http_answer;
mod loops;
mod made;
#[cfg(feature = "server")]
mod message;
mod orders;
#[cfg(feature = "server")]
mod over_grpc;
mod policies;
mod policy;
mod recording;
mod replay;
#[cfg(feature = "server")]
mod spans;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use serde_json::Value;

use self::recording::Recording;

/// What became of a recording.
pub(crate) enum Verdict {
    Same,
    /// As many as could be compared.
    Partly(String),
    /// Loaded and run, or refused at load as the rows say.
    Deviates(String),
    Skipped(String),
    /// Not supported: the engine says so by name.
    Refused(String),
    Differs(String),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut files = Vec::new();
    find(&own, &own, &mut files);
    if let Some(folder) = env::var_os("TOWER_APERTURE_VECTORS").map(PathBuf::from) {
        let before = files.len();
        find(&folder, &folder, &mut files);
        if files.len() == before {
            println!("{}: no recordings there", folder.display());
            return ExitCode::FAILURE;
        }
    }
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors");
    if corpus.is_dir() {
        let mut others = Vec::new();
        find(&corpus, &corpus, &mut others);
        files.extend(
            others
                .into_iter()
                .filter(|(name, _)| name.contains("corpus-")),
        );
    } else {
        println!("policies/corpus-*: absent, other people's texts are only read in place");
    }
    files.retain(|(name, _)| {
        filters.is_empty() || filters.iter().any(|filter| name.contains(*filter))
    });
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in &files {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }

    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    println!("\nrunning {} recordings", files.len());
    for (name, right) in checks::run() {
        match right {
            true => passed += 1,
            false => failed += 1,
        }
        println!(
            "the replay: {name}: {}",
            if right { "ok" } else { "FAILED" }
        );
    }
    for (name, path) in &files {
        let lines = match read(path) {
            Ok(value) => {
                let of_loop =
                    loops::replay(&value).map(|verdict| (format!("{name} (loop)"), verdict));
                let served = over_grpc(&value);
                let served = served.map(|verdict| (format!("{name} over gRPC"), verdict));
                [Some((name.clone(), run(&value))), of_loop, served]
            }
            Err(problem) => [Some((name.clone(), Verdict::Differs(problem))), None, None],
        };
        for (name, verdict) in lines.into_iter().flatten() {
            match verdict {
                Verdict::Same => {
                    passed += 1;
                    println!("{name}: ok");
                }
                Verdict::Partly(what) => {
                    passed += 1;
                    println!("{name}: ok ({what})");
                }
                Verdict::Deviates(how) => {
                    passed += 1;
                    println!("{name}: deviates ({how})");
                }
                Verdict::Skipped(why) => {
                    skipped += 1;
                    println!("{name}: skipped ({why})");
                }
                Verdict::Refused(what) => {
                    skipped += 1;
                    println!("{name}: refused ({what})");
                }
                Verdict::Differs(difference) => {
                    failed += 1;
                    println!("{name}: FAILED: {difference}");
                }
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured; 0 \
         filtered out"
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn find(root: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => panic!("{}: {error}", folder.display()),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            find(root, &path, files);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let name = path.strip_prefix(root).unwrap_or(&path).with_extension("");
            files.push((name.display().to_string(), path));
        }
    }
}

fn read(path: &Path) -> Result<Value, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("is not JSON: {error}"))
}

fn run(value: &Value) -> Verdict {
    if let Some(entries) = value.as_array() {
        let mut judged = 0;
        for entry in entries.iter().filter(|entry| policies::is_policy(entry)) {
            let name = entry.get("name").or(entry.get("file"));
            let name = name.and_then(Value::as_str).unwrap_or_default();
            match policies::judge(entry) {
                Verdict::Differs(what) => return Verdict::Differs(format!("{name}: {what}")),
                Verdict::Partly(what) | Verdict::Deviates(what) => println!("  {name}: {what}"),
                Verdict::Refused(what) => println!("  {name}: refused: {what}"),
                Verdict::Same | Verdict::Skipped(_) => {}
            }
            judged += 1;
        }
        return match made::replay_all(entries) {
            Verdict::Skipped(_) if judged > 0 => {
                Verdict::Partly(format!("{judged} entries loaded or refused as recorded"))
            }
            verdict => verdict,
        };
    }
    if policies::is_policy(value) {
        return policies::judge(value);
    }
    if value.get("runs").is_some() {
        return fair::replay(value);
    }
    #[cfg(feature = "server")]
    if value.get("cases").is_some() && value.get("base_span").is_some() {
        return spans::replay(value);
    }
    if let Some(form) = other_form(value) {
        return Verdict::Skipped(form.to_owned());
    }
    match Recording::read(value) {
        Ok(recording) => replay::replay(&recording),
        Err(problem) => Verdict::Differs(format!("is not a recording: {problem}")),
    }
}

/// A second time, by a served agent: conversations in which nothing waits.
#[cfg(feature = "server")]
fn over_grpc(value: &Value) -> Option<Verdict> {
    let calls = value["calls"].as_array()?;
    let mut recording = Recording::read(value).ok()?;
    if calls.is_empty() || !recording.decisions.is_empty() || !replay::nobody_waits(&recording) {
        return None;
    }
    recording.over_grpc = true;
    Some(replay::replay(&recording))
}

#[cfg(not(feature = "server"))]
fn over_grpc(_: &Value) -> Option<Verdict> {
    None
}

/// Files that are no conversations, by what they need to be replayed.
fn other_form(value: &Value) -> Option<&'static str> {
    if value.get("calls").is_some() || value.get("rows").is_some() {
        None
    } else if value.get("cases").is_some() && value.get("base_span").is_some() {
        Some("telemetry spans: needs the feature `server`")
    } else if value.get("policies").is_none() {
        Some("no conversation: judged by other tests")
    } else {
        None
    }
}

/// A refusal at load is of a component or parameter that the engine does not support, or of a label
/// that only a Rego module sets, in a build that evaluates none.
pub(crate) fn names_unsupported(error: &str) -> bool {
    error.contains("not supported by the embedded engine of this version")
        || cfg!(not(feature = "rego")) && error.contains("enable the feature `rego`")
}
