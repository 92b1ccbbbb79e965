//! Watched folders and files that are half written, unreadable or suddenly gone.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tower_aperture::engine::{ManualClock, PolicyWatcher};
use tower_aperture::{Engine, PolicyError};

use crate::loading::Folder;
use crate::support::*;

/// Waits until `poll` returns a value, and panics after a minute.
fn wait_until<T>(condition: &str, poll: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "waited a minute in vain until {condition}"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns a policy that accepts one flow.
fn single_flow_policy(name: &str) -> String {
    policy(name, &[Limiter::new(1.0, 0.0)])
}

/// Creates an engine for the folder, and uses up the one flow of its policy.
fn engine_at_its_limit(path: &Path) -> Engine {
    let engine = Engine::builder()
        .policy_folder(path)
        .clock(ManualClock::new());
    let engine = engine.build().expect("the policies are valid");
    assert!(check(&engine, &[]).accepted());
    engine
}

fn watch(engine: &Engine) -> PolicyWatcher {
    engine
        .watch(Duration::from_millis(2))
        .expect("a thread can be started")
}

fn wait_for_error(watcher: &PolicyWatcher) -> PolicyError {
    wait_until("the watcher has an error", || watcher.last_error())
}

#[test]
fn an_unreadable_entry_changes_nothing_until_it_is_removed() {
    /// Creates an unreadable entry at a path.
    type Break = fn(&Path);
    let breaks: [(&str, Break); 3] = [
        ("no text", |path| {
            fs::write(path, b"\xff\xfe\xfd").expect("the file can be written");
        }),
        ("a dangling link", |path| link("nowhere", path)),
        ("a pipe", pipe),
    ];
    for (kind, break_path) in breaks {
        let folder = Folder::new(&format!("unreadable {kind}"));
        folder.write("a.yaml", &single_flow_policy("a"));
        let engine = engine_at_its_limit(folder.path());
        let watcher = watch(&engine);
        let path = folder.path().join("b.yaml");
        break_path(&path);
        let error = wait_for_error(&watcher);
        assert!(error.file().ends_with("b.yaml"), "{kind}: {error}");
        assert!(!check(&engine, &[]).accepted(), "{kind}");
        assert_eq!(engine.reload().expect_err(kind).file(), error.file());
        let new_engine = Engine::builder().policy_folder(folder.path()).build();
        assert_eq!(new_engine.expect_err(kind).file(), error.file());

        fs::remove_file(&path).expect("the entry can be removed");
        wait_until("the error is gone", || {
            watcher.last_error().is_none().then_some(())
        });
        assert!(!check(&engine, &[]).accepted(), "{kind}");
    }
}

#[cfg(unix)]
fn link(to: &str, path: &Path) {
    std::os::unix::fs::symlink(to, path).expect("the link can be created");
}

#[cfg(unix)]
fn pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.expect("mkfifo runs").success());
}

#[cfg(not(unix))]
fn link(_: &str, path: &Path) {
    fs::write(path, b"\xff").expect("the file can be written");
}

#[cfg(not(unix))]
fn pipe(path: &Path) {
    fs::write(path, b"\xff").expect("the file can be written");
}

#[test]
fn a_watcher_ignores_an_empty_or_missing_folder_and_a_reload_accepts_an_empty_one() {
    for gone in [false, true] {
        let folder = Folder::new(&format!("emptied-{gone}"));
        let own = folder.path().join("own");
        fs::create_dir(&own).expect("the folder can be created");
        fs::write(own.join("a.yaml"), single_flow_policy("a")).expect("the file can be written");
        let engine = engine_at_its_limit(&own);
        let watcher = watch(&engine);
        fs::remove_file(own.join("a.yaml")).expect("the entry can be removed");
        if gone {
            fs::remove_dir(&own).expect("the entry can be removed");
        }
        let error = wait_for_error(&watcher);
        assert!(error.file().ends_with("own"), "{error}");
        assert!(!check(&engine, &[]).accepted());
        assert_eq!(engine.reload().is_err(), gone);
        assert_eq!(check(&engine, &[]).accepted(), !gone);
    }
}

#[test]
fn a_file_that_gets_its_content_back_keeps_its_state() {
    let folder = Folder::new("held-again");
    folder.write("a.yaml", &single_flow_policy("a"));
    folder.write("b.yaml", &policy("b", &[]));
    let engine = engine_at_its_limit(folder.path());
    let watcher = watch(&engine);
    for _ in 0..5 {
        folder.write("a.yaml", "apiVersion: half");
        let _ = wait_for_error(&watcher);
        folder.write("a.yaml", &single_flow_policy("a"));
        wait_until("the error is gone", || {
            watcher.last_error().is_none().then_some(())
        });
        assert!(!check(&engine, &[]).accepted());
    }
}

#[test]
fn a_policy_ends_when_its_file_is_removed_from_a_folder_with_others() {
    let folder = Folder::new("one-of-two");
    folder.write("a.yaml", &single_flow_policy("a"));
    folder.write("b.yaml", &policy("b", &[]));
    let engine = engine_at_its_limit(folder.path());
    let _watcher = watch(&engine);
    fs::remove_file(folder.path().join("a.yaml")).expect("the entry can be removed");
    wait_until("the policy is gone", || {
        check(&engine, &[]).accepted().then_some(())
    });
}

#[cfg(unix)]
#[test]
fn a_watcher_follows_swapped_symbolic_links() {
    let folder = Folder::new("swapped");
    let path = folder.path();
    for (version, tokens) in [("..v1", 1.0), ("..v2", 5.0)] {
        fs::create_dir(path.join(version)).expect("the folder can be created");
        let text = policy("a", &[Limiter::new(tokens, 0.0)]);
        fs::write(path.join(version).join("a.yaml"), text).expect("the file can be written");
    }
    link("..v1", &path.join("..data"));
    link("..data/a.yaml", &path.join("a.yaml"));
    let engine = engine_at_its_limit(path);
    let _watcher = watch(&engine);
    link("..v2", &path.join("..new"));
    fs::rename(path.join("..new"), path.join("..data")).expect("the link can be replaced");
    wait_until("the new policy accepts flows", || {
        check(&engine, &[]).accepted().then_some(())
    });
}

#[test]
fn dropping_a_watcher_does_not_wait_for_its_next_poll() {
    let folder = Folder::new("dropped");
    folder.write("a.yaml", &single_flow_policy("a"));
    let engine = engine_at_its_limit(folder.path());
    drop(
        engine
            .watch(Duration::from_secs(3600))
            .expect("a thread can be started"),
    );
}
