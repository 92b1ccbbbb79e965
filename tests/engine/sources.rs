//! Folders and files as they are found in life: half written, unreadable, suddenly gone.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tower_aperture::engine::{ManualClock, PolicyWatcher};
use tower_aperture::{Engine, PolicyError};

use crate::loading::Folder;
use crate::support::*;

/// Waits, for longer than it can take.
fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "in vain waited until {what}"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

fn closed(name: &str) -> String {
    policy(name, &[Limiter::new(1.0, 0.0)])
}

fn open(path: &Path) -> Engine {
    let engine = Engine::builder()
        .policy_folder(path)
        .clock(ManualClock::new());
    let engine = engine.build().expect("the policies are right");
    assert!(check(&engine, &[]).accepted());
    engine
}

fn watched(engine: &Engine) -> PolicyWatcher {
    engine
        .watch(Duration::from_millis(2))
        .expect("there are threads")
}

fn error_of(watcher: &PolicyWatcher) -> PolicyError {
    until("the watcher says why", || watcher.last_error())
}

#[test]
fn an_entry_that_cannot_be_read_changes_nothing_until_it_can() {
    /// Puts something unreadable in a path.
    type Break = fn(&Path);
    let breaks: [(&str, Break); 3] = [
        ("no text", |path| {
            fs::write(path, b"\xff\xfe\xfd").expect("a file");
        }),
        ("a dangling link", |path| link("nowhere", path)),
        ("a pipe", pipe),
    ];
    for (what, broken) in breaks {
        let folder = Folder::new(&format!("unreadable {what}"));
        folder.write("a.yaml", &closed("a"));
        let engine = open(folder.path());
        let watcher = watched(&engine);
        let path = folder.path().join("b.yaml");
        broken(&path);
        let error = error_of(&watcher);
        assert!(error.file().ends_with("b.yaml"), "{what}: {error}");
        assert!(!check(&engine, &[]).accepted(), "{what}");
        assert_eq!(engine.reload().expect_err(what).file(), error.file());
        let refused = Engine::builder().policy_folder(folder.path()).build();
        assert_eq!(refused.expect_err(what).file(), error.file());

        fs::remove_file(&path).expect("it is there");
        until("the error is over", || {
            watcher.last_error().is_none().then_some(())
        });
        assert!(!check(&engine, &[]).accepted(), "{what}");
    }
}

#[cfg(unix)]
fn link(to: &str, path: &Path) {
    std::os::unix::fs::symlink(to, path).expect("a link");
}

#[cfg(unix)]
fn pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.expect("mkfifo runs").success());
}

#[cfg(not(unix))]
fn link(_: &str, path: &Path) {
    fs::write(path, b"\xff").expect("a file");
}

#[cfg(not(unix))]
fn pipe(path: &Path) {
    fs::write(path, b"\xff").expect("a file");
}

#[test]
fn a_folder_that_is_suddenly_empty_or_gone_changes_nothing_but_a_reload_takes_it() {
    for gone in [false, true] {
        let folder = Folder::new(&format!("emptied-{gone}"));
        let own = folder.path().join("own");
        fs::create_dir(&own).expect("a folder");
        fs::write(own.join("a.yaml"), closed("a")).expect("a file");
        let engine = open(&own);
        let watcher = watched(&engine);
        fs::remove_file(own.join("a.yaml")).expect("it is there");
        if gone {
            fs::remove_dir(&own).expect("it is there");
        }
        let error = error_of(&watcher);
        assert!(error.file().ends_with("own"), "{error}");
        assert!(!check(&engine, &[]).accepted());
        assert_eq!(engine.reload().is_err(), gone);
        assert_eq!(check(&engine, &[]).accepted(), !gone);
    }
}

#[test]
fn what_a_file_holds_again_was_never_gone() {
    let folder = Folder::new("held-again");
    folder.write("a.yaml", &closed("a"));
    folder.write("b.yaml", &policy("b", &[]));
    let engine = open(folder.path());
    let watcher = watched(&engine);
    for _ in 0..5 {
        folder.write("a.yaml", "apiVersion: half");
        let _ = error_of(&watcher);
        folder.write("a.yaml", &closed("a"));
        until("the error is over", || {
            watcher.last_error().is_none().then_some(())
        });
        assert!(!check(&engine, &[]).accepted());
    }
}

#[test]
fn a_policy_that_goes_from_a_folder_with_others_is_gone() {
    let folder = Folder::new("one-of-two");
    folder.write("a.yaml", &closed("a"));
    folder.write("b.yaml", &policy("b", &[]));
    let engine = open(folder.path());
    let _watcher = watched(&engine);
    fs::remove_file(folder.path().join("a.yaml")).expect("it is there");
    until("a is gone", || check(&engine, &[]).accepted().then_some(()));
}

#[cfg(unix)]
#[test]
fn a_folder_of_swapped_links_is_followed() {
    let folder = Folder::new("swapped");
    let path = folder.path();
    for (version, tokens) in [("..v1", 1.0), ("..v2", 5.0)] {
        fs::create_dir(path.join(version)).expect("a folder");
        let text = policy("a", &[Limiter::new(tokens, 0.0)]);
        fs::write(path.join(version).join("a.yaml"), text).expect("a file");
    }
    link("..v1", &path.join("..data"));
    link("..data/a.yaml", &path.join("a.yaml"));
    let engine = open(path);
    let _watcher = watched(&engine);
    link("..v2", &path.join("..new"));
    fs::rename(path.join("..new"), path.join("..data")).expect("both are links");
    until("there are tokens", || {
        check(&engine, &[]).accepted().then_some(())
    });
}

#[test]
fn dropping_a_watcher_does_not_wait_for_the_next_look() {
    let folder = Folder::new("dropped");
    folder.write("a.yaml", &closed("a"));
    let engine = open(folder.path());
    drop(
        engine
            .watch(Duration::from_secs(3600))
            .expect("there are threads"),
    );
}
