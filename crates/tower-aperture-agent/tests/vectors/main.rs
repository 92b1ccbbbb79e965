//! Replays conversations recorded with a real Aperture Agent against the embedded engine.
//!
//! A conversation without queues is replayed again through a served agent, and one with rate
//! limiters only also with its buckets in Redis, if there is a `redis-server`.
//!
//! The program reads every `*.json` below `tests/vectors` of the engine and below the folder that the
//! variable `TOWER_APERTURE_VECTORS` names. It prints one line per recording: `ok`; `deviates` with the row
//! of the register of quirks; the first difference; `refused` with the component that the engine
//! does not support; or `skipped` with the reason, such as an unsupported call or a loop that
//! queries Prometheus. A control loop on constant signals has its own line. The first lines are
//! checks of the replay itself. Arguments that are not options select recordings by a part of their
//! name.
// The program reports its results on standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod answer;
mod checks;
mod compare;
mod fair;
mod http_answer;
mod loops;
mod made;
mod message;
mod orders;
mod over_grpc;
mod policies;
mod policy;
mod recording;
#[path = "../../../aperture-redis/tests/redis/server.rs"]
#[allow(dead_code)] // What only the tests of the store use.
mod redis_server;
mod replay;
mod spans;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use serde_json::Value;

use self::recording::{Call, Recording};
use self::redis_server::Server;

/// The result of replaying a recording.
pub(crate) enum Verdict {
    Same,
    /// Everything that can be compared is the same; the text says how much that is.
    Partly(String),
    /// Loaded and replayed, or refused at load, as the rows of the register say.
    Deviates(String),
    Skipped(String),
    /// The engine's error names an unsupported component.
    Refused(String),
    Differs(String),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../aperture-engine/tests/vectors");
    let mut files = Vec::new();
    find_recordings(&own, &own, &mut files);
    if let Some(folder) = env::var_os("TOWER_APERTURE_VECTORS").map(PathBuf::from) {
        let own_count = files.len();
        find_recordings(&folder, &folder, &mut files);
        if files.len() == own_count {
            println!("{}: contains no recordings", folder.display());
            return ExitCode::FAILURE;
        }
    }
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
    if corpus.is_dir() {
        let mut others = Vec::new();
        find_recordings(&corpus, &corpus, &mut others);
        files.extend(
            others
                .into_iter()
                .filter(|(name, _)| name.contains("corpus-")),
        );
    } else {
        println!(
            "policies/corpus-*: absent, third-party policies are only read in their own folder"
        );
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
    let server = Server::start();
    println!("\nrunning {} recordings", files.len());
    for (name, passes) in checks::run() {
        match passes {
            true => passed += 1,
            false => failed += 1,
        }
        println!(
            "the replay: {name}: {}",
            if passes { "ok" } else { "FAILED" }
        );
    }
    for (name, path) in &files {
        let lines = match read_json(path) {
            Ok(value) => {
                let loop_verdict =
                    loops::replay(&value).map(|verdict| (format!("{name} (loop)"), verdict));
                let served = replay_over_grpc(&value);
                let served = served.map(|verdict| (format!("{name} over gRPC"), verdict));
                let shared = server.as_ref();
                let shared = shared.and_then(|server| replay_shared(&value, server));
                let shared = shared.map(|verdict| (format!("{name} shared"), verdict));
                [
                    Some((name.clone(), judge_file(&value))),
                    loop_verdict,
                    served,
                    shared,
                ]
            }
            Err(problem) => [
                Some((name.clone(), Verdict::Differs(problem))),
                None,
                None,
                None,
            ],
        };
        for (name, verdict) in lines.into_iter().flatten() {
            match verdict {
                Verdict::Same => {
                    passed += 1;
                    println!("{name}: ok");
                }
                Verdict::Partly(detail) => {
                    passed += 1;
                    println!("{name}: ok ({detail})");
                }
                Verdict::Deviates(detail) => {
                    passed += 1;
                    println!("{name}: deviates ({detail})");
                }
                Verdict::Skipped(reason) => {
                    skipped += 1;
                    println!("{name}: skipped ({reason})");
                }
                Verdict::Refused(reason) => {
                    skipped += 1;
                    println!("{name}: refused ({reason})");
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

fn find_recordings(root: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => panic!("{}: {error}", folder.display()),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            find_recordings(root, &path, files);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let name = path.strip_prefix(root).unwrap_or(&path).with_extension("");
            files.push((name.display().to_string(), path));
        }
    }
}

fn read_json(path: &Path) -> Result<Value, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("is not JSON: {error}"))
}

fn judge_file(value: &Value) -> Verdict {
    if let Some(entries) = value.as_array() {
        let mut judged = 0;
        for entry in entries.iter().filter(|entry| policies::is_policy(entry)) {
            let name = entry.get("name").or(entry.get("file"));
            let name = name.and_then(Value::as_str).unwrap_or_default();
            match policies::judge(entry) {
                Verdict::Differs(detail) => return Verdict::Differs(format!("{name}: {detail}")),
                Verdict::Partly(detail) | Verdict::Deviates(detail) => {
                    println!("  {name}: {detail}");
                }
                Verdict::Refused(reason) => println!("  {name}: refused: {reason}"),
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
    if value.get("cases").is_some() && value.get("base_span").is_some() {
        return spans::replay(value);
    }
    if let Some(reason) = skip_reason(value) {
        return Verdict::Skipped(reason.to_owned());
    }
    match Recording::read(value) {
        Ok(recording) => replay::replay(&recording),
        Err(problem) => Verdict::Differs(format!("is not a recording: {problem}")),
    }
}

/// Replays a conversation again through a served agent, if none of its flows waits.
fn replay_over_grpc(value: &Value) -> Option<Verdict> {
    let calls = value["calls"].as_array()?;
    let mut recording = Recording::read(value).ok()?;
    if calls.is_empty() || !recording.decisions.is_empty() || !replay::no_flow_waits(&recording) {
        return None;
    }
    recording.over_grpc = true;
    Some(replay::replay(&recording))
}

/// Replays a conversation again with an engine whose buckets are in Redis, if its policies have
/// rate limiters only.
fn replay_shared(value: &Value, server: &Server) -> Option<Verdict> {
    let mut recording = Recording::read(value).ok()?;
    let only_buckets = |policy: &String| {
        let others = ["scheduler", "scheduling", "concurrency", "sampler", "ramp"];
        policy.contains("rate") && !others.iter().any(|other| policy.contains(other))
    };
    if recording.calls.is_empty()
        || !recording.decisions.is_empty()
        || !recording.policies.iter().all(only_buckets)
        || !replay::no_flow_waits(&recording)
    {
        return None;
    }
    if recording
        .policies
        .iter()
        .any(|policy| policy.contains("lazy_sync"))
    {
        let reason = "shared accounts with lazy sync ask their bucket at the first use";
        return Some(Verdict::Skipped(reason.to_owned()));
    }
    // A flow that has no time left to ask the store learns of no remembered rejection.
    let in_time = |call: &Call| call.deadline.is_none_or(|left| left > 0.010);
    if !recording.calls.iter().all(in_time) {
        let reason = "a flow has no time left to ask the store";
        return Some(Verdict::Skipped(reason.to_owned()));
    }
    recording.shared = Some(server.url());
    Some(replay::replay(&recording))
}

/// Returns why a file is not replayed, if it is not a conversation.
fn skip_reason(value: &Value) -> Option<&'static str> {
    if value.get("calls").is_some() || value.get("rows").is_some() {
        None
    } else if value.get("policies").is_none() {
        Some("not a conversation: other tests read it")
    } else {
        None
    }
}

/// Returns whether a policy was refused for a component or parameter that the engine does not
/// support.
pub(crate) fn is_unsupported(error: &str) -> bool {
    error.contains("not supported by the embedded engine of this version")
}
