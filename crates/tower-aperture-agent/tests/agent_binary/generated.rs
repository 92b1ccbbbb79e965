//! `completions` and `man`: a shell that completes, and what the output must not contain.

use std::process::{Command, Stdio};

use crate::program::{Folder, RunResult, program, run};

#[test]
fn bash_completes_commands_options_and_values() {
    let bash = Command::new("bash")
        .args(["-c", "true"])
        .stdin(Stdio::null())
        .status();
    if bash.is_err() {
        println!("skipped: bash is not installed");
        return;
    }
    let folder = Folder::new();
    let RunResult { code, out, err } = run(&["completions", "bash"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let script = folder.write("completions.bash", out);
    for (line, expected) in [
        ("ser", "serve"),
        ("comp", "completions"),
        ("serve --tls-k", "--tls-key"),
        ("serve --log-format js", "json"),
        ("check --ti", "--timeout"),
        ("completions power", "powershell"),
    ] {
        let complete = "
            source \"$1\"
            COMP_WORDS=(tower-aperture-agent $2)
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            COMPREPLY=()
            words=($(complete -p tower-aperture-agent))
            while [ \"${words[0]}\" != -F ]; do words=(\"${words[@]:1}\"); done
            \"${words[1]}\" tower-aperture-agent \"${COMP_WORDS[COMP_CWORD]}\" \
                \"${COMP_WORDS[COMP_CWORD - 1]}\"
            echo \"${COMPREPLY[@]}\"
        ";
        let mut command = Command::new("bash");
        command.args(["--norc", "-c", complete, "bash", &script, line]);
        let RunResult { out, err, .. } = RunResult::of(command);
        assert_eq!((out.trim(), err.as_str()), (expected, ""), "{line}");
    }
}

#[test]
fn generated_texts_contain_no_values_of_the_environment() {
    for args in [&["man"][..], &["completions", "zsh"], &["--help"]] {
        let mut command = program(args);
        command
            .env(
                "TOWER_APERTURE_AGENT_PROMETHEUS",
                "http://user:sesame@10.0.0.7:9090",
            )
            .env("TOWER_APERTURE_AGENT_LISTEN", "10.0.0.7:8089");
        let RunResult { code, out, err } = RunResult::of(command);
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
        assert!(out.contains("tower-aperture-agent"), "{args:?}: {out}");
        assert!(!out.contains("sesame") && !out.contains("10.0.0.7"));
    }
}

#[test]
fn completions_of_an_unknown_shell_exit_with_2_and_name_the_known_ones() {
    let RunResult { code, out, err } = run(&["completions", "tcsh"]);
    assert_eq!((code, out.as_str()), (2, ""));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(err.contains(shell), "{err}");
    }
    assert!(run(&["--version"]).out.starts_with("tower-aperture-agent "));
}
