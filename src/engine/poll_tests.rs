//! In which poll a changed file counts.

use std::fs;
use std::path::PathBuf;

use super::Engine;
use super::reload::Poll;
use crate::policy::PolicyError;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("tower-aperture-poll-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    /// Opens the file and writes over what it holds.
    fn rewrite(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).expect("a file");
    }

    /// Renames another file into its place.
    fn replace(&self, name: &str, text: &str) {
        self.rewrite(".new", text);
        fs::rename(self.0.join(".new"), self.0.join(name)).expect("a file");
    }
}

impl Drop for Folder {
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

fn engine(folder: &Folder) -> Engine {
    let engine = Engine::builder().policy_folder(&folder.0).build();
    engine.expect("the policies are right")
}

/// The polls that put something in force, of so many.
fn counts(engine: &Engine, polls: usize) -> Vec<usize> {
    let mut poll = Poll::default();
    let polls = (1..=polls).filter(|_| matches!(engine.shared.poll(&mut poll), Ok(true)));
    polls.collect()
}

#[test]
fn a_replaced_file_counts_at_the_second_equal_poll_and_a_rewritten_one_at_the_fourth() {
    let folder = Folder::new("counts");
    folder.rewrite("a.yaml", &policy("a", 1));
    let engine = engine(&folder);
    assert!(counts(&engine, 5).is_empty());
    folder.replace("a.yaml", &policy("a", 2));
    assert_eq!(counts(&engine, 5), [2]);
    folder.rewrite("a.yaml", &policy("a", 3));
    assert_eq!(counts(&engine, 5), [4]);
    // New, and gone.
    folder.rewrite("b.yaml", &policy("b", 3));
    assert_eq!(counts(&engine, 5), [2]);
    fs::remove_file(folder.0.join("a.yaml")).expect("it is there");
    assert_eq!(counts(&engine, 5), [2]);
    // Both at a time.
    folder.replace("c.yaml", &policy("c", 3));
    folder.rewrite("b.yaml", &policy("b", 4));
    assert_eq!(counts(&engine, 5), [4]);
}

#[test]
fn a_file_that_is_half_written_for_three_polls_changes_nothing() {
    let folder = Folder::new("half");
    let (one, two) = (policy("a", 1), policy("a", 22));
    folder.rewrite("a.yaml", &one);
    let engine = engine(&folder);
    let before = engine.describe();
    let mut poll = Poll::default();
    let half = two.replace("22", "2");
    for text in [
        &half, &half, &half, &one, &half, &half, &half, &two, &two, &two,
    ] {
        folder.rewrite("a.yaml", text);
        assert_eq!(engine.shared.poll(&mut poll), Ok(false));
        assert_eq!(engine.describe(), before);
    }
    assert_eq!(engine.shared.poll(&mut poll), Ok(true));
    assert!(engine.describe().contains("22 tokens"));
}

#[test]
fn a_wrong_policy_is_tried_once_and_a_reload_takes_what_is_there() {
    let folder = Folder::new("once");
    folder.rewrite("a.yaml", &policy("a", 1));
    let engine = engine(&folder);
    folder.replace("a.yaml", "circuit: none");
    let mut poll = Poll::default();
    let polls: Vec<Result<bool, PolicyError>> =
        (0..6).map(|_| engine.shared.poll(&mut poll)).collect();
    assert_eq!(polls.iter().filter(|result| result.is_err()).count(), 1);
    assert!(polls[1].is_err());
    assert_eq!(engine.stats().failed_reloads, 1);
    folder.rewrite("a.yaml", &policy("a", 9));
    assert_eq!(engine.reload(), Ok(()));
    assert!(engine.describe().contains("9 tokens"));
    assert!(counts(&engine, 5).is_empty());
}

#[test]
fn unchanged_policies_are_not_read_again() {
    const MANY: usize = 1000;
    let texts = |changed: Option<usize>| {
        (0..MANY).map(move |at| {
            let capacity = if changed == Some(at) { 2 } else { 1 };
            let name = format!("policy-{at}");
            (format!("{name}.yaml"), policy(&name, capacity))
        })
    };
    let engine = Engine::builder().build().expect("nothing is wrong");
    engine.reload_with(texts(None)).expect("they are right");
    let first = engine.shared.live.load_full();
    engine.reload_with(texts(Some(77))).expect("they are right");
    let second = engine.shared.live.load_full();
    let read_again = second.read_again(&first);
    assert_eq!(read_again, 1);
}
