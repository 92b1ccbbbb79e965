//! Loading policies from texts, files and folders.

use std::fs;
use std::path::{Path, PathBuf};

use tower_aperture::Engine;

use crate::support::*;

/// The temporary folder of one test. Dropping it removes it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("engine-{name}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the target folder can be written");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("the target folder can be written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn all_policies_of_a_folder_are_in_force() {
    let folder = Folder::new("all");
    folder.write("b.yaml", &policy("b", &[Limiter::new(1.0, 0.0)]));
    folder.write("a.yml", &policy("a", &[Limiter::new(1.0, 0.0)]));
    folder.write("notes.txt", "no policy");
    folder.write(".hidden.yaml", "no policy either");
    fs::create_dir(folder.0.join("more.yaml")).expect("the target folder can be written");
    let engine = Engine::builder().policy_folder(&folder.0).build();
    let report = check(&engine.expect("the policies are valid"), &[]);
    let mut names: Vec<&str> = report
        .limiter_decisions
        .iter()
        .map(|decision| &*decision.policy_name)
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn a_folder_without_policies_is_warned_about() {
    let folder = Folder::new("empty");
    let engine = Engine::builder().policy_folder(&folder.0).build();
    let engine = engine.expect("an empty folder is valid");
    assert_eq!(engine.warnings().len(), 1);
    assert!(check(&engine, &[]).accepted());
}

#[test]
fn an_error_names_its_file() {
    let folder = Folder::new("errors");
    let wrong = folder.write(
        "wrong.yaml",
        "kind: Policy\nspec: {circuit: {components: 7}}\n",
    );
    let binary = folder.0.join("binary.yaml");
    fs::write(&binary, [0xff, 0xfe, 0x00]).expect("the target folder can be written");
    let missing = folder.0.join("missing.yaml");
    for path in [wrong, binary, missing] {
        let error = Engine::builder().policy_file(&path).build();
        let error = error.expect_err("the file holds no valid policy");
        assert_eq!(error.file(), path.display().to_string());
    }
    let nowhere = folder.0.join("nowhere");
    let error = Engine::builder().policy_folder(&nowhere).build();
    let error = error.expect_err("the folder does not exist");
    assert_eq!(error.file(), nowhere.display().to_string());
}

#[test]
fn a_file_that_is_not_utf8_is_refused_with_the_offset_of_the_byte() {
    let folder = Folder::new("not-utf8");
    let path = folder.0.join("latin1.yaml");
    // The last one ends within a character.
    for (text, offset) in [
        (&b"\xff"[..], 0),
        (b"# abc\xe9\nresources: {}\n", 5),
        (
            "# café\n# \u{20ac}"
                .as_bytes()
                .split_last()
                .expect("it has bytes")
                .1,
            10,
        ),
    ] {
        fs::write(&path, text).expect("the target folder can be written");
        let error = Engine::builder().policy_file(&path).build();
        let error = error.expect_err("the file is not UTF-8");
        assert_eq!(error.file(), path.display().to_string());
        let expected = format!("the byte at offset {offset} is not UTF-8");
        assert!(error.message().starts_with(&expected), "{error}");
    }
}

#[test]
fn two_policies_of_the_same_name_are_refused() {
    let text = policy("same", &[Limiter::new(1.0, 0.0)]);
    let error = Engine::builder()
        .policy_text("first.yaml", &*text)
        .policy_text("second.yaml", &*text)
        .build()
        .expect_err("the names are the same");
    assert_eq!(error.file(), "second.yaml");
    assert!(error.to_string().contains("`same`"), "{error}");
}

#[test]
fn debug_output_shows_neither_policies_nor_labels() {
    let builder = builder(&[Limiter::new(1.0, 0.0).by("secret_label")]);
    assert!(!format!("{builder:?}").contains("secret_label"));
    let engine = builder.build().expect("the policy is valid");
    check(&engine, &[("secret_label", "secret_value")]);
    assert!(!format!("{engine:?}").contains("secret"));
}

#[test]
fn the_description_lists_policies_in_force_and_parts_without_effect() {
    let text = |name: &str, group: &str| {
        format!(
            "metadata: {{name: {name}}}
spec:
  circuit:
    components:
    - flow_control:
        concurrency_limiter:
          in_ports: {{max_concurrency: {{constant_signal: {{value: 3}}}}}}
          parameters: {{max_inflight_duration: 20s, limit_by_label_key: account}}
          selectors: [{{control_point: export, agent_group: {group}}}]
    - alerter: {{parameters: {{alert_name: often}}}}
"
        )
    };
    let engine = Engine::builder()
        .policy_text("one.yaml", text("one", "default"))
        .policy_text("two.yaml", text("two", "other"))
        .build()
        .expect("the policies are valid");
    let alerter =
        "spec.circuit.components[1].alerter: has no effect: the embedded engine sends no alerts";
    assert_eq!(
        engine.describe(),
        format!(
            "policy `one`
  root.0 concurrency_limiter: 3 in flight, each for at most 20s, for each value of the label \
             `account`; rejects with 429
    at `export`, any service
policy `two`
  no part of it applies here
notes
  one.yaml:10:7: {alerter}
  two.yaml:10:7: {alerter}
  two.yaml: policy `two`: selectors of agent group `other` are left out, because the engine has no \
             agent group and stands for `default`
"
        )
    );
}
