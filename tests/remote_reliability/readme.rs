//! The table "When something goes wrong" in the README names a test for each row, and each test
//! exists.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the names in the last cells of the first table of the section.
fn named_tests(readme: &str) -> Vec<&str> {
    let section = readme.split("\n## When something goes wrong\n").nth(1);
    let section = section.expect("the README has the section");
    section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|row| {
            let name = row.trim_end_matches('|').rsplit('|').next();
            name.unwrap_or_default().trim().trim_matches('`')
        })
        .collect()
}

/// Collects the paths of the Rust files in a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_test_that_the_readme_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("the README");
    let named = named_tests(&readme);
    assert!(
        named.len() >= 25,
        "the table of the README has rows: {named:?}"
    );

    let mut files = Vec::new();
    for folder in [
        "tests",
        "crates/aperture-engine/tests",
        "crates/tower-aperture-agent/tests",
    ] {
        sources(&root.join(folder), &mut files);
    }
    let tests: String = files
        .iter()
        .map(|file| fs::read_to_string(file).expect("a file of text"))
        .collect();
    for name in named {
        assert!(tests.contains(&format!("fn {name}(")), "no test `{name}`");
    }
}
