//! `serve`: reloads, shutdown and logs.

use std::time::Duration;

use crate::program::{Folder, LONG, RunResult, Serving, limit, until};
use tower_aperture::{ApertureClient, FlowDecision, FlowParams, FlowStatus};

/// A policy that runs one flow at a time at `render`. Others wait.
pub(crate) const ONE_AT_A_TIME: &str = "
circuit:
  components:
  - flow_control:
      concurrency_scheduler:
        selectors: [{control_point: render}]
        in_ports: {max_concurrency: {constant_signal: {value: 1}}}
        concurrency_limiter: {max_inflight_duration: 3600s}
        scheduler: {default_workload_parameters: {queue_timeout: 3600s}}
";

pub(crate) fn client(serving: &Serving) -> ApertureClient {
    ApertureClient::builder()
        .address(&serving.address)
        .insecure(true)
        .check_timeout(LONG)
        .build()
        .expect("a client")
}

#[test]
fn sighup_reloads_changed_policies() {
    let folder = Folder::new();
    let policies = folder.write("limit.yaml", limit(1));
    let serving = Serving::start(&policies, &["--watch-interval", "0"]);
    assert_eq!(serving.check(&["checkout", "user_id=1"]).code, 0);
    assert_eq!(serving.check(&["checkout", "user_id=1"]).code, 3);
    folder.write("limit.yaml", limit(2));
    serving.signal("HUP");
    serving.wait_for_log("policies were reloaded", 1);
    assert_eq!(serving.check(&["checkout", "user_id=1"]).code, 0);
}

#[test]
fn a_changed_file_is_reloaded() {
    let folder = Folder::new();
    folder.write("limit.yaml", limit(1));
    let serving = Serving::start(folder.path(), &["--watch-interval", "20ms"]);
    folder.write("limit.yaml", limit(2));
    serving.wait_for_log("policies were reloaded", 1);
    let RunResult { out, .. } = serving.check(&["checkout", "user_id=1"]);
    assert!(out.contains("1.00 remaining"), "{out}");
}

#[test]
fn an_invalid_file_changes_nothing_and_the_log_has_its_position_and_field() {
    let folder = Folder::new();
    folder.write("limit.yaml", limit(2));
    let serving = Serving::start(folder.path(), &["--watch-interval", "0"]);
    assert_eq!(serving.check(&["checkout", "user_id=1"]).code, 0);
    folder.write("limit.yaml", limit(7).replace("3600s", "soon"));
    serving.signal("HUP");
    serving.wait_for_log("policies were not reloaded", 1);
    let log = serving.log();
    assert!(
        log.contains("limit.yaml:8:") && log.contains("interval") && log.contains("`soon`"),
        "{log}"
    );
    let RunResult { out, .. } = serving.check(&["checkout", "user_id=1"]);
    assert!(
        out.contains("0.00 remaining"),
        "state and limit are unchanged: {out}"
    );
}

#[tokio::test]
async fn sigterm_and_sigint_reject_waiting_flows_and_end_the_program() {
    let folder = Folder::new();
    let policies = folder.write("one.yaml", ONE_AT_A_TIME);
    for signal in ["TERM", "INT"] {
        let mut serving = Serving::start(&policies, &[]);
        let client = client(&serving);
        let first = client.start_flow("render", FlowParams::new()).await;
        assert_eq!(first.decision(), FlowDecision::Accepted);
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.start_flow("render", FlowParams::new()).await }
        });
        tokio::task::spawn_blocking({
            let address = serving.address.clone();
            move || until("one flow waits", || number_of_waiters(&address) == 1)
        })
        .await
        .expect("the flow waits");
        serving.signal(signal);
        let flow = tokio::time::timeout(LONG, waiting).await;
        let flow = flow.expect("an answer").expect("no panic");
        assert_eq!(
            flow.decision(),
            FlowDecision::Rejected,
            "{:?}",
            flow.error()
        );
        first.finish(FlowStatus::Ok);
        let status = tokio::task::spawn_blocking(move || serving.wait_for_exit()).await;
        assert!(status.expect("no panic").success());
    }
}

/// Returns the number of waiting flows that `status --once` shows.
fn number_of_waiters(address: &str) -> usize {
    let RunResult { out, err, .. } = crate::program::run(&["status", "--once", "--addr", address]);
    let line = out.lines().find_map(|line| line.strip_prefix("waiting"));
    let number = line.and_then(|line| line.split_whitespace().next());
    let number = number.and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("{out}{err}"))
}

#[test]
fn logs_can_be_json_objects() {
    let folder = Folder::new();
    let policies = folder.write("limit.yaml", limit(1));
    let mut serving = Serving::start(&policies, &["--log-format", "json"]);
    folder.write("limit.yaml", "no policy");
    serving.signal("HUP");
    serving.wait_for_log("not reloaded", 1);
    serving.signal("TERM");
    assert!(serving.wait_for_exit().success());
    serving.wait_for_log("\"ended\"", 1);
    let log = serving.log();
    let events: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(events.len() >= 4, "{log}");
    for event in &events {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(event[field].is_string(), "{field}: {event}");
        }
    }
    let error = events.iter().find(|event| event["level"] == "ERROR");
    let message = error.expect("the refused reload")["message"].as_str();
    assert!(message.expect("text").contains("limit.yaml"), "{log}");
}

#[tokio::test]
async fn a_second_signal_ends_the_program_immediately() {
    let folder = Folder::new();
    let policies = folder.write("limit.yaml", limit(1));
    let mut serving = Serving::start(&policies, &["--shutdown-grace", "3600s"]);
    // An unfinished request delays the shutdown after the first signal.
    let mut hung = tokio::net::TcpStream::connect(&serving.address)
        .await
        .expect("a connection");
    tokio::io::AsyncWriteExt::write_all(
        &mut hung,
        b"POST /v1/flowcontrol/checkhttp HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{",
    )
    .await
    .expect("sent");
    tokio::time::sleep(Duration::from_millis(50)).await;
    serving.signal("TERM");
    serving.wait_for_log("shutting down", 1);
    serving.signal("TERM");
    let (serving, status) = tokio::task::spawn_blocking(move || {
        let status = serving.wait_for_exit();
        (serving, status)
    })
    .await
    .expect("no panic");
    assert!(status.success());
    drop((serving, hung));
}

#[test]
fn sigterm_ends_the_program_while_a_reload_hangs_on_a_file() {
    for file_kind in ["keys", "policy"] {
        let folder = Folder::new();
        let policies = folder.write("limit.yaml", limit(1));
        let keys = folder.write("keys", "sesame\n");
        let args = ["--api-key-file", &keys, "--watch-interval", "20ms"];
        let mut serving = Serving::start(&policies, &args);
        let path = match file_kind {
            "keys" => &keys,
            _ => &policies,
        };
        std::fs::remove_file(path).expect("the file exists");
        let mkfifo = std::process::Command::new("mkfifo").arg(path).status();
        assert!(mkfifo.expect("mkfifo runs").success());
        serving.signal("HUP");
        serving.wait_for_log("policies were", 1);
        serving.signal("HUP");
        serving.signal("TERM");
        assert!(serving.wait_for_exit().success(), "{file_kind}");
    }
}
