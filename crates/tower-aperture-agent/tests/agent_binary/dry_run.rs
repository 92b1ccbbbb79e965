//! `serve --dry-run`: what it reports, and that it does not listen.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;

use crate::program::{Folder, RunResult, Serving, limit, program, run};
use crate::secrets::Authority;

#[test]
fn a_dry_run_describes_everything_that_would_be_served() {
    let folder = Folder::new();
    let authority = Authority::new();
    let (certificate, key) = authority.issue(&folder, "agent");
    let ca = authority.write(&folder, "ca.pem");
    let keys = folder.write("keys", "sesame\nabracadabra\n");
    set_permissions(&keys, Permissions::from_mode(0o644)).expect("permissions are set");
    let applies = folder.write("limit.yaml", limit(7));
    let elsewhere = limit(1).replace("{control_point", "{agent_group: elsewhere, control_point");
    let elsewhere = elsewhere.replace("policy_name: limit", "policy_name: elsewhere");
    let elsewhere = folder.write("elsewhere.yaml", elsewhere);
    let RunResult { code, out, err } = run(&[
        "serve",
        "--dry-run",
        "--policies",
        &applies,
        "--policies",
        &elsewhere,
        "--listen",
        "localhost:8089",
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
        "--client-ca",
        &ca,
        "--api-key-file",
        &keys,
        "--prometheus",
        "http://user:simsalabim@127.0.0.1:1",
        "--watch-interval",
        "5s",
        "--agent-group",
        "aperture-cloud",
        "--log-level",
        "error",
    ]);
    assert_eq!((code, err.as_str()), (0, ""));
    for line in [
        "dry run: serve would listen on localhost:8089, with TLS, for clients with a certificate",
        "API keys: 2 accepted",
        "Prometheus: for 0 queries of policies",
        "reloads: on SIGHUP, and when policy files change, checked every 5s",
        "agent group: aperture-cloud",
        "policy `limit`",
        "notes",
        "warnings",
    ] {
        assert!(out.lines().any(|printed| printed == line), "{line}: {out}");
    }
    assert!(out.contains("7 tokens"), "{out}");
    let (_, notes) = out.split_once("notes\n").expect("notes");
    let (notes, warnings) = notes.split_once("warnings\n").expect("warnings");
    assert!(notes.contains("elsewhere.yaml:"), "{notes}");
    assert!(
        warnings.contains(&format!("{keys}: run chmod o-r")),
        "{out}"
    );
    for secret in ["sesame", "abracadabra", "simsalabim"] {
        assert!(!out.contains(secret), "{out}");
    }
}

#[test]
fn a_dry_run_logs_the_warnings_that_serve_logs() {
    let folder = Folder::new();
    let keys = folder.write("keys", "sesame\n");
    set_permissions(&keys, Permissions::from_mode(0o644)).expect("permissions are set");
    let elsewhere = limit(1).replace("{control_point", "{agent_group: elsewhere, control_point");
    let policies = folder.write("limit.yaml", elsewhere);
    let serving = Serving::start(&policies, &["--api-key-file", &keys]);
    serving.wait_for_log(" serving ", 1);
    let args = [
        "--dry-run",
        "--policies",
        &policies,
        "--api-key-file",
        &keys,
    ];
    let RunResult { code, err, .. } = run(&[&["serve"][..], &args].concat());
    assert_eq!(code, 0, "{err}");
    let warnings = |log: &str| -> Vec<String> {
        let lines = log.lines().filter_map(|line| line.split_once(" WARN "));
        lines.map(|(_, warning)| warning.to_owned()).collect()
    };
    assert!(warnings(&err).len() >= 2, "{err}");
    assert_eq!(warnings(&err), warnings(&serving.log()));
}

#[test]
fn a_dry_run_does_not_need_the_address_of_the_agent_that_runs() {
    let folder = Folder::new();
    let policies = folder.write("limit.yaml", limit(1));
    let serving = Serving::start(&policies, &[]);
    let mut command = program(&["serve", "--policies", &policies]);
    command
        .env("TOWER_APERTURE_AGENT_DRY_RUN", "true")
        .env("TOWER_APERTURE_AGENT_LISTEN", &serving.address);
    let RunResult { code, out, err } = RunResult::of(command);
    assert_eq!(code, 0, "{err}");
    let first = format!(
        "dry run: serve would listen on {}, in plaintext\n",
        serving.address
    );
    assert!(out.starts_with(&first), "{out}");
    assert!(out.contains("API keys: none, so every call is accepted\n"));
    assert_eq!(serving.check(&["checkout", "user_id=1"]).code, 0);

    let empty = Folder::new();
    let RunResult { code, out, .. } = run(&["serve", "--dry-run", "--policies", empty.path()]);
    assert_eq!(code, 0);
    assert!(out.contains("there is no .yaml"), "{out}");
}
