//! Tests of the poll at which a changed file is put in force.

use std::fs;
use std::path::PathBuf;

use super::Engine;
use super::reload::PendingChange;
use crate::policy::PolicyError;

struct TempFolder(PathBuf);

impl TempFolder {
    fn new(name: &str) -> Self {
        let name = format!("tower-aperture-poll-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    /// Writes over the content of the file in place.
    fn rewrite(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).expect("a file");
    }

    /// Renames another file into its place.
    fn replace(&self, name: &str, text: &str) {
        self.rewrite(".new", text);
        fs::rename(self.0.join(".new"), self.0.join(name)).expect("a file");
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn policy(name: &str, capacity: u32) -> String {
    format!(
        "blueprint: rate-limiting/base\npolicy:\n  policy_name: {name}\n  rate_limiter:\n    \
         bucket_capacity: {capacity}\n    fill_amount: 1\n    parameters: {{interval: 1s}}\n    \
         selectors: [{{control_point: here}}]\n"
    )
}

fn engine(folder: &TempFolder) -> Engine {
    let engine = Engine::builder().policy_folder(&folder.0).build();
    engine.expect("the policies are valid")
}

/// Polls this many times, and returns the numbers of the polls that put something in force.
fn polls_that_reload(engine: &Engine, polls: usize) -> Vec<usize> {
    let mut pending = PendingChange::default();
    let polls = (1..=polls).filter(|_| matches!(engine.shared.poll(&mut pending), Ok(true)));
    polls.collect()
}

#[test]
fn a_replaced_file_reloads_at_the_second_equal_poll_and_a_rewritten_one_at_the_fourth() {
    let folder = TempFolder::new("counts");
    folder.rewrite("a.yaml", &policy("a", 1));
    let engine = engine(&folder);
    assert!(polls_that_reload(&engine, 5).is_empty());
    folder.replace("a.yaml", &policy("a", 2));
    assert_eq!(polls_that_reload(&engine, 5), [2]);
    folder.rewrite("a.yaml", &policy("a", 3));
    assert_eq!(polls_that_reload(&engine, 5), [4]);
    // A new file, and a removed one.
    folder.rewrite("b.yaml", &policy("b", 3));
    assert_eq!(polls_that_reload(&engine, 5), [2]);
    fs::remove_file(folder.0.join("a.yaml")).expect("the file exists");
    assert_eq!(polls_that_reload(&engine, 5), [2]);
    // A replaced file and a rewritten one in the same poll.
    folder.replace("c.yaml", &policy("c", 3));
    folder.rewrite("b.yaml", &policy("b", 4));
    assert_eq!(polls_that_reload(&engine, 5), [4]);
}

#[test]
fn a_file_that_is_half_written_for_three_polls_changes_nothing() {
    let folder = TempFolder::new("half");
    let (one, two) = (policy("a", 1), policy("a", 22));
    folder.rewrite("a.yaml", &one);
    let engine = engine(&folder);
    let before = engine.describe();
    let mut pending = PendingChange::default();
    let half = two.replace("22", "2");
    for text in [
        &half, &half, &half, &one, &half, &half, &half, &two, &two, &two,
    ] {
        folder.rewrite("a.yaml", text);
        assert_eq!(engine.shared.poll(&mut pending), Ok(false));
        assert_eq!(engine.describe(), before);
    }
    assert_eq!(engine.shared.poll(&mut pending), Ok(true));
    assert!(engine.describe().contains("22 tokens"));
}

#[test]
fn an_invalid_policy_is_tried_once_and_a_reload_applies_the_current_files() {
    let folder = TempFolder::new("once");
    folder.rewrite("a.yaml", &policy("a", 1));
    let engine = engine(&folder);
    folder.replace("a.yaml", "circuit: none");
    let mut pending = PendingChange::default();
    let polls: Vec<Result<bool, PolicyError>> =
        (0..6).map(|_| engine.shared.poll(&mut pending)).collect();
    assert_eq!(polls.iter().filter(|result| result.is_err()).count(), 1);
    assert!(polls[1].is_err());
    assert_eq!(engine.stats().failed_reloads, 1);
    folder.rewrite("a.yaml", &policy("a", 9));
    assert_eq!(engine.reload(), Ok(()));
    assert!(engine.describe().contains("9 tokens"));
    assert!(polls_that_reload(&engine, 5).is_empty());
}

#[test]
fn unchanged_policies_are_not_parsed_again() {
    const MANY: usize = 1000;
    let texts = |changed: Option<usize>| {
        (0..MANY).map(move |at| {
            let capacity = if changed == Some(at) { 2 } else { 1 };
            let name = format!("policy-{at}");
            (format!("{name}.yaml"), policy(&name, capacity))
        })
    };
    let engine = Engine::builder().build().expect("an empty engine builds");
    engine
        .reload_with(texts(None))
        .expect("the policies are valid");
    let first = engine.shared.live.load_full();
    engine
        .reload_with(texts(Some(77)))
        .expect("the policies are valid");
    let second = engine.shared.live.load_full();
    let reparsed = second.count_reparsed(&first);
    assert_eq!(reparsed, 1);
}
