//! Cases of errors, and the rules that every public error follows.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;

/// One error, the name of its type, and whether it has a cause.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    error: Box<dyn Error>,
    has_cause: bool,
}

pub(crate) fn case(name: &'static str, error: impl Error + 'static, has_cause: bool) -> Case {
    let error = Box::new(error);
    Case {
        name,
        error,
        has_cause,
    }
}

/// Asserts that each error returns its cause as `source` and does not repeat its text.
pub(crate) fn assert_causes_are_sources(cases: Vec<Case>) {
    for Case {
        name,
        error,
        has_cause,
    } in cases
    {
        assert_eq!(error.source().is_some(), has_cause, "{name}: {error:?}");
        let mut texts = vec![error.to_string()];
        let mut next = error.source();
        while let Some(cause) = next {
            texts.push(cause.to_string());
            next = cause.source();
        }
        for (at, text) in texts.iter().enumerate() {
            assert!(!text.is_empty(), "{name}: {texts:?}");
            for outer in &texts[..at] {
                assert!(!outer.contains(text), "{name} repeats a text: {texts:?}");
            }
        }
        // The text must be complete without the text of its cause.
        assert!(!texts[0].ends_with([':', ' ']), "{name}: {texts:?}");
    }
}

/// Adds the types that implement `Error` in the source files of a folder.
fn find_errors(path: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(path).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            find_errors(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).expect("text");
        for line in text.lines().filter(|line| line.starts_with("impl")) {
            if let Some((_, name)) = line.split_once("Error for ") {
                let end = name.find(|c: char| !c.is_alphanumeric());
                found.insert(name[..end.unwrap_or(name.len())].to_owned());
            }
        }
    }
}

/// Asserts that the cases have every type that implements `Error` in the folders, but for those that
/// only occur as the cause of another error.
pub(crate) fn assert_all_are_tested(cases: &[Case], folders: &[&Path], internal: &[&str]) {
    let mut found = BTreeSet::new();
    for folder in folders {
        find_errors(folder, &mut found);
    }
    let tested: BTreeSet<_> = cases.iter().map(|case| case.name.to_owned()).collect();
    let untested: Vec<_> = found
        .difference(&tested)
        .filter(|name| !internal.contains(&name.as_str()))
        .collect();
    assert!(untested.is_empty(), "{untested:?}");
    assert!(found.len() >= tested.len(), "{found:?}");
}
