//! The command line: options, `validate`, `check` and their errors.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use crate::program::{Folder, RunResult, Serving, limit, program, run};

#[test]
fn help_describes_the_program_and_its_commands() {
    let RunResult { code, out, .. } = run(&["--help"]);
    assert_eq!(code, 0);
    for words in [
        "one node",
        "development, tests and small systems",
        "cluster",
        "serve",
        "validate",
        "check",
        "status",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
}

#[test]
fn an_invalid_command_line_exits_with_2() {
    for args in [
        &["serve"][..],
        &["serve", "--policies", "x", "--tls-cert", "x"],
        &["serve", "--policies", "x", "--client-ca", "x"],
        &["serve", "--policies", "x", "--log-format", "xml"],
        &["serve", "--policies", "x", "--shutdown-grace", "soon"],
        &["serve", "--policies", "x", "--max-labels", "7"],
        &["serve", "--policies", "x", "--max-keys", "-1"],
        &["serve", "--policies", "x", "--idle-timeout", "0"],
        &["serve", "--policies", "x", "--answer-timeout", "61m"],
        &["check"],
        &["check", "checkout", "no-label"],
        &["check", "checkout", "--cert", "x"],
        &["validate"],
        &["orbit"],
        &[],
    ] {
        let RunResult { code, out, err } = run(args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
        let helps = err.contains("Usage:") || err.contains("try '--help'");
        assert!(helps, "{args:?}: {err}");
    }
}

#[test]
fn serve_and_its_dry_run_report_errors_at_startup_and_exit_with_1() {
    let folder = Folder::new();
    let valid = folder.write("good.yaml", limit(1));
    let no_pem = folder.write("no.pem", "certificate");
    let invalid = folder.write("bad.yaml", limit(1).replace("3600s", "soon"));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (taken, address));
    let (_taken, address) = taken.expect("an address");
    let address = address.to_string();
    let needs_prometheus = folder.write(
        "needy.yaml",
        "
blueprint: load-scheduling/promql
policy:
  policy_name: needy
  promql_query: up
  setpoint: 1
  overload_condition: gt
  load_scheduling_core:
    aiad_load_scheduler:
      load_scheduler: {selectors: [{control_point: x}]}
      alerter: {alert_name: x}
",
    );
    for (args, expected) in [
        (&["--policies", "no/such.yaml"][..], "no/such.yaml"),
        (&["--policies", &*invalid], "bad.yaml:8:"),
        (&["--policies", &*valid, "--listen", &*address], &*address),
        (
            &["--policies", &*valid, "--listen", "nowhere"],
            "nowhere: cannot listen",
        ),
        (
            &["--policies", &*valid, "--api-key-file", "no/keys"],
            "no/keys",
        ),
        (
            &[
                "--policies",
                &*valid,
                "--tls-cert",
                &*no_pem,
                "--tls-key",
                &*no_pem,
            ],
            "no.pem: the file is not PEM",
        ),
        (&["--policies", &*needs_prometheus], "--prometheus URL"),
        (
            &["--policies", &*valid, "--prometheus", "prometheus:9090"],
            "http://",
        ),
        (
            &["--policies", &*valid, "--log-level", "a=b=c"],
            "log level",
        ),
    ] {
        let mut all = vec!["serve"];
        if !args.contains(&"--listen") {
            all.extend(["--listen", "127.0.0.1:0"]);
        }
        all.extend(args);
        let RunResult { code, out, err } = run(&all);
        assert_eq!((code, out.as_str()), (1, ""), "{args:?}: {err}");
        assert!(err.contains("error: ") && err.contains(expected), "{err}");
        all.push("--dry-run");
        let dry_run = run(&all);
        if expected == address {
            assert_eq!(dry_run.code, 0, "it does not listen: {}", dry_run.err);
            continue;
        }
        assert_eq!((dry_run.code, dry_run.out.as_str()), (1, ""), "{args:?}");
        assert_eq!(dry_run.err.lines().last(), err.lines().last());
    }
}

#[test]
fn validate_describes_a_policy() {
    let folder = Folder::new();
    let file = folder.write("limit.yaml", limit(7));
    let RunResult { code, out, err } = run(&["validate", &file]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with(&file), "{out}");
    assert!(out.contains("policy `limit`"), "{out}");
    assert!(
        out.contains("7 tokens") && out.contains("`user_id`"),
        "{out}"
    );
}

#[test]
fn validate_checks_each_file_and_reports_position_field_and_value() {
    let folder = Folder::new();
    let valid = folder.write("good.yaml", limit(1));
    let invalid = folder.write("bad.yaml", limit(1).replace("3600s", "soon"));
    let RunResult { code, out, err } = run(&["validate", &invalid, "no/such.yaml", &valid]);
    assert_eq!(code, 1);
    assert!(out.contains("policy `limit`"), "{out}");
    let errors: Vec<&str> = err.lines().collect();
    assert_eq!(errors.len(), 2, "{err}");
    let place = format!("error: {invalid}:8:");
    assert!(errors[0].starts_with(&place), "{err}");
    assert!(
        errors[0].contains("interval") && errors[0].contains("`soon`"),
        "{err}"
    );
    assert!(errors[1].starts_with("error: no/such.yaml: "), "{err}");
}

#[test]
fn validate_checks_the_files_of_a_folder_together() {
    let folder = Folder::new();
    let RunResult { code, err, .. } = run(&["validate", folder.path()]);
    assert_eq!(code, 1);
    assert!(err.contains("there is no .yaml"), "{err}");
    folder.write("a.yaml", limit(1));
    folder.write("b.txt", "no policy");
    assert_eq!(run(&["validate", folder.path()]).code, 0);
    let duplicate = folder.write("b.yaml", limit(2));
    let RunResult { code, err, .. } = run(&["validate", folder.path()]);
    assert_eq!(code, 1);
    assert!(err.contains("`limit`"), "{err}");
    assert_eq!(
        run(&["validate", &duplicate]).code,
        0,
        "the file is valid on its own"
    );
}

/// Runs on policies of other authors, if the machine has that folder.
#[test]
fn validate_describes_or_refuses_each_policy_of_the_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus");
    let Ok(files) = fs::read_dir(&folder) else {
        println!("{}: skipped, no such folder", folder.display());
        return;
    };
    let mut described = 0;
    for file in files {
        let path = file.expect("a file").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.to_str().expect("text");
        let RunResult { code, out, err } = run(&["validate", name]);
        if code == 0 {
            described += 1;
            assert!(out.starts_with(name) && out.contains("policy `"), "{out}");
        } else {
            assert_eq!(code, 1, "{name}: {err}");
            assert!(err.starts_with(&format!("error: {name}:")), "{err}");
        }
    }
    assert!(described > 0);
}

#[test]
fn check_prints_the_decision_and_exits_with_its_code() {
    let folder = Folder::new();
    let policies = folder.write("limit.yaml", limit(2));
    let serving = Serving::start(&policies, &[]);
    for remaining in ["1.00 remaining", "0.00 remaining"] {
        let RunResult { code, out, err } = serving.check(&["checkout", "user_id=42"]);
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.starts_with("accepted"), "{out}");
        assert!(
            out.contains("policy `limit` root.0 rate limiter: yes"),
            "{out}"
        );
        assert!(out.contains(remaining), "{out}");
    }
    let RunResult { code, out, .. } = serving.check(&["checkout", "user_id=42"]);
    assert_eq!(code, 3);
    assert!(
        out.starts_with("rejected: rate_limited, HTTP status 429"),
        "{out}"
    );
    assert!(out.contains("key `user_id:42`"), "{out}");
    let RunResult { code, out, .. } =
        serving.check(&["elsewhere", "user_id=42", "empty=", "eq=a=b"]);
    assert_eq!(code, 0);
    assert!(out.contains("no policy decides here"), "{out}");
    assert_eq!(
        serving.check(&["elsewhere", "--ramp"]).code,
        3,
        "no ramp accepts the flow"
    );
}

#[test]
fn check_reports_limiters_that_were_skipped_for_a_missing_label() {
    let folder = Folder::new();
    folder.write("rate.yaml", limit(1));
    folder.write(
        "slots.yaml",
        "
blueprint: concurrency-limiting/base
policy:
  policy_name: slots
  concurrency_limiter:
    max_concurrency: 1
    parameters: {max_inflight_duration: 60s, limit_by_label_key: tenant}
    selectors: [{control_point: checkout}]
",
    );
    folder.write(
        "quota.yaml",
        "
circuit:
  components:
  - flow_control:
      quota_scheduler:
        selectors: [{control_point: checkout}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 10}}
          fill_amount: {constant_signal: {value: 10}}
        rate_limiter: {interval: 60s, limit_by_label_key: plan}
",
    );
    let serving = Serving::start(folder.path(), &[]);
    let line_of = |out: &str, policy: &str| {
        let start = format!("  policy `{policy}` ");
        let line = out.lines().find(|line| line.starts_with(&start));
        line.unwrap_or_else(|| panic!("{policy}: {out}")).to_owned()
    };
    for (args, skipped, has) in [
        (
            &["checkout"][..],
            &["limit", "slots", "quota"][..],
            "no labels",
        ),
        (
            &["checkout", "user-id=42", "Tenant=a"],
            &["limit", "slots", "quota"],
            "the labels Tenant, user-id",
        ),
        (
            &["checkout", "user_id=42"],
            &["slots", "quota"],
            "the labels user_id",
        ),
        (
            &["checkout", "tenant=a", "plan=free"],
            &["limit"],
            "the labels plan, tenant",
        ),
    ] {
        let RunResult { code, out, err } = serving.check(args);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        for policy in ["limit", "slots", "quota"] {
            let line = line_of(&out, policy);
            if skipped.contains(&policy) {
                assert!(line.contains(": skipped: "), "{line}");
                assert!(line.contains("label it limits by is missing"), "{line}");
                assert!(line.ends_with(has), "{line}");
                assert!(!line.contains("took"), "{line}");
            } else {
                assert!(line.contains(": yes, key "), "{line}");
                assert!(!line.contains("skipped"), "{line}");
            }
        }
    }
}

#[test]
fn an_error_for_an_address_with_https_names_the_tls_option() {
    for command in ["check", "status"] {
        let rest: &[&str] = match command {
            "check" => &["checkout"],
            _ => &["--once"],
        };
        for (addr, more, expected) in [
            ("https://127.0.0.1:1", &[][..], "--tls"),
            ("HTTPS://agent.internal", &[], "--tls"),
            ("http://127.0.0.1:1", &["--tls"], "--tls"),
            ("ftp://127.0.0.1:1", &[], "https://"),
            ("https://user:sesame@127.0.0.1:1", &[], "--tls"),
            ("user:sesame://127.0.0.1:1", &[], "https://"),
        ] {
            let mut args = vec![command, "--addr", addr];
            args.extend(more);
            args.extend(rest);
            let RunResult { code, out, err } = run(&args);
            assert_eq!((code, out.as_str()), (1, ""), "{args:?}");
            assert!(err.starts_with("error: --addr"), "{err}");
            assert!(err.contains(expected) && !err.contains("sesame"), "{err}");
        }
    }
}

#[test]
fn an_address_may_have_the_scheme_that_matches_the_options() {
    let folder = Folder::new();
    let policies = folder.write("limit.yaml", limit(2));
    let serving = Serving::start(&policies, &[]);
    let addr = format!("http://{}/", serving.address);
    let RunResult { code, out, err } = run(&["check", "--addr", &addr, "checkout", "user_id=1"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let RunResult { code, out, err } = run(&["status", "--addr", &addr, "--once"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    // The address is valid; only the connection fails.
    let RunResult { code, err, .. } =
        run(&["check", "--addr", "https://127.0.0.1:1", "--tls", "x"]);
    assert_eq!(code, 1);
    assert!(err.contains("is unreachable"), "{err}");
}

#[test]
fn errors_contain_each_cause_once() {
    let folder = Folder::new();
    let RunResult { code, err, .. } = run(&["validate", "no/such.yaml"]);
    assert_eq!(code, 1);
    assert_eq!(err.matches("No such file").count(), 1, "{err}");
    assert!(
        err.contains("no/such.yaml: cannot be read: No such file"),
        "{err}"
    );
    let RunResult { err, .. } = run(&["serve", "--policies", "no/such.yaml"]);
    assert!(
        err.contains("no/such.yaml: cannot be read: No such file"),
        "{err}"
    );
    let RunResult { err, .. } = run(&["check", "--addr", "127.0.0.1:1", "checkout"]);
    assert_eq!(err.matches("refused").count(), 1, "{err}");
    let valid = folder.write("good.yaml", limit(1));
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let pem = folder.write("a.pem", pem);
    let args = [
        "serve",
        "--policies",
        &*valid,
        "--tls-cert",
        &*pem,
        "--tls-key",
        &*pem,
    ];
    let RunResult { code, err, .. } = run(&args);
    assert_eq!(code, 1);
    assert!(
        err.contains("the private key: it cannot be used: "),
        "{err}"
    );
}

#[test]
fn check_returns_its_slot_when_it_exits() {
    let folder = Folder::new();
    let policies = folder.write(
        "one.yaml",
        "
circuit:
  components:
  - flow_control:
      concurrency_limiter:
        selectors: [{control_point: render}]
        in_ports: {max_concurrency: {constant_signal: {value: 1}}}
        parameters: {max_inflight_duration: 3600s}
",
    );
    let serving = Serving::start(&policies, &[]);
    for _ in 0..3 {
        let RunResult { code, out, err } = serving.check(&["render"]);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert!(out.contains("concurrency limiter: yes"), "{out}");
    }
}

#[test]
fn an_unreachable_agent_is_reported_with_its_address() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    for args in [
        &["check", "checkout", "--timeout", "50ms", "--addr"][..],
        &["status", "--once", "--timeout", "50ms", "--addr"],
    ] {
        let mut all = args.to_vec();
        all.push(&address);
        let RunResult { code, out, err } = run(&all);
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        let expected = format!("error: {address} is unreachable: ");
        assert!(err.starts_with(&expected), "{err}");
    }
}

#[test]
fn options_can_be_set_by_environment_variables() {
    let folder = Folder::new();
    let (one, two) = (Folder::new(), folder.write("limit.yaml", limit(1)));
    let mut command = program(&["serve"]);
    command
        .env(
            "TOWER_APERTURE_AGENT_POLICIES",
            format!("{},{two}", one.path()),
        )
        .env("TOWER_APERTURE_AGENT_LISTEN", "127.0.0.1:0")
        .env("TOWER_APERTURE_AGENT_LOG_FORMAT", "json")
        .env("RUST_LOG", "debug");
    let serving = Serving::of(command);
    serving.wait_for_log("\"level\":\"INFO\"", 1);
    let mut command = program(&["check", "checkout", "user_id=1"]);
    command.env("APERTURE_AGENT_ADDRESS", &serving.address);
    assert_eq!(RunResult::of(command).code, 0);
}
