//! Tests with malformed and malicious texts.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::{limiter, load, recordings};
use crate::policy::re2::Pattern;

/// Texts that are difficult for parsers of YAML or of policies.
const SEEDS: &[&str] = &[
    "",
    " ",
    "\t",
    "---",
    "...",
    "--- ---",
    "- - - -",
    "? ? ? ?",
    ": : :",
    "? a\n: b",
    "{",
    "}",
    "[",
    "]",
    "[,",
    "{,}",
    "{a",
    "{a: {b: [",
    "a: [}",
    "&a",
    "*a",
    "&a *a",
    "&a &b c",
    "a: &a\nb: *a",
    "!",
    "!!",
    "!<",
    "!<tag:yaml.org,2002:str> a",
    "%YAML 1.1\n---\na: 1",
    "%YAML 9.9\n---\na: 1",
    "%TAG ! tag:x,2000:\n---\n!a b",
    "'",
    "\"",
    "\"\\",
    "\"\\x",
    "\"\\u12",
    "\"\\U00110000\"",
    "\"\\ud800\"",
    "|",
    ">",
    "|9",
    "|-\n",
    ">+9\n a",
    "a: |\n  b\n c",
    "a:\n\t- b",
    "a: b: c",
    "a:b",
    "a: 'b' c",
    "<<: *x",
    "<<: {<<: {<<: {}}}",
    "{<<: [[]]}",
    "<<: [{circuit: {}}]",
    "\u{feff}\u{feff}",
    "\u{feff}circuit: {}",
    "circuit: {}\r",
    "\u{85}circuit: {}",
    "\u{2028}circuit: {}",
    "circuit: &c {components: [*c]}",
    "circuit: {components: {}}",
    "circuit: {components: [[]]}",
    "circuit: {components: [{flow_control: []}]}",
    "circuit: {evaluation_interval: 99999999999999999999s}",
    "metadata: {name: &n [*n]}",
    "blueprint: {}",
    "blueprint: rate-limiting/base",
    "blueprint: rate-limiting/base\npolicy: []",
    "__REQUIRED_FIELD__",
    "#",
    "# \u{10ffff}",
];

#[test]
fn malformed_texts_load_or_return_an_error() {
    for seed in SEEDS {
        if let Err(error) = load("p.yaml", seed) {
            assert!(!error.to_string().is_empty(), "{seed:?}");
        }
    }
}

#[test]
fn errors_stay_short_for_long_texts() {
    let long = "x".repeat(100_000);
    for text in [
        format!("{long}: 1"),
        format!("circuit: {{components: [{{{long}: {{}}}}]}}"),
        format!("circuit: {{evaluation_interval: {long}}}"),
        limiter(|text| text.replace("30s", &long)),
        limiter(|text| text.replace("flow_control", &long)),
        format!("resources: {{\"{long}\": 1}}\ncircuit: {{components: 5}}"),
        format!("{{\"{long}\": 1, \"{long}\": 2}}"),
        format!("!<{long}> a"),
        classifier(&format!("{{\"{long}-\": {{}}}}")),
        classifier(&format!("{{l: {{extractor: {{from: {long}}}}}}}")),
        classifier(&format!(
            "{{l: {{extractor: {{path_templates: {{template_values: {{'/{{a}}/{long}': b}}}}}}}}}}"
        )),
        classifier(&format!(
            "{{l: {{extractor: {{address: {{from: {long}}}}}}}}}"
        )),
    ] {
        let message = load("p.yaml", &text).expect_err("a wrong text").to_string();
        assert!(message.len() < 2_000, "{} bytes", message.len());
    }
}

#[test]
fn number_of_warnings_is_limited() {
    let mut text = String::from("circuit: {}\n");
    for key in 0..10_000 {
        text.push_str(&format!("key{key}: 1\n"));
    }
    let warnings = load("p.yaml", &text).expect("a policy").warnings;
    assert!((1..=200).contains(&warnings.len()), "{}", warnings.len());
}

#[test]
fn long_chain_of_constant_signals_folds() {
    let mut text = String::from("circuit:\n  components:\n");
    for index in (0..5_000).rev() {
        text.push_str(&format!(
            "    - arithmetic_combinator: {{operator: add, in_ports: {{lhs: {{signal_name: S{index}}}}}, out_ports: {{output: {{signal_name: S{}}}}}}}\n",
            index + 1
        ));
    }
    text.push_str(
        "    - variable: {constant_output: {value: 1}, out_ports: {output: {signal_name: S0}}}\n",
    );
    assert!(load("p.yaml", &text).is_ok());
}

fn classifier(rules: &str) -> String {
    format!(
        "resources: {{flow_control: {{classifiers: [{{selectors: [{{control_point: a}}], rules: {rules}}}]}}}}"
    )
}

#[test]
fn long_chain_of_changing_signals_becomes_as_many_nodes() {
    const LENGTH: usize = 5_000;
    let mut text = String::from("circuit:\n  components:\n");
    for index in (0..LENGTH).rev() {
        text.push_str(&format!(
            "    - inverter: {{in_ports: {{input: {{signal_name: S{index}}}}}, out_ports: {{output: {{signal_name: S{}}}}}}}\n",
            index + 1
        ));
    }
    text.push_str(&format!(
        "    - query: {{promql: {{out_ports: {{output: {{signal_name: S0}}}}}}}}
    - flow_control: {{sampler: {{in_ports: {{accept_percentage: {{signal_name: S{LENGTH}}}}}, parameters: {{selectors: [{{control_point: a}}]}}}}}}\n"
    ));
    let policy = load("p.yaml", &text).expect("a policy").policy;
    let circuit = policy.circuit.expect("signals that change");
    assert_eq!(circuit.nodes.len(), LENGTH + 1);
    assert_eq!(circuit.signals as usize, LENGTH + 1);
    assert_eq!(&*circuit.nodes[0].id, "root.5000");
}

/// The recorded policies, which contain every kind of component, resource and blueprint.
static TEXTS: LazyLock<Vec<String>> = LazyLock::new(recordings::texts);

/// A random sequence of pieces of policies and of YAML.
fn random_pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "circuit",
        "components",
        "flow_control",
        "rate_limiter",
        "in_ports",
        "parameters",
        "interval",
        "selectors",
        "control_point",
        "blueprint",
        "policy",
        "metadata",
        "spec",
        "rate-limiting/base",
        ": ",
        ":\n  ",
        ":\n    ",
        "- ",
        "\n",
        "\n  ",
        "\n    ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "1",
        "30s",
        "'",
        "\"",
        "null",
        "~",
        "&a ",
        "*a",
        "<<",
        "!!str ",
        "! ",
        "|",
        ">",
        "#",
        "---\n",
        "...\n",
        "? ",
        "\\",
        "\t",
        "\r\n",
        "%",
        "@",
        "`",
        "é",
        "\u{feff}",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn loading_any_text_does_not_panic(text in any::<String>()) {
        let _ = load("p.yaml", &text);
    }

    #[test]
    fn loading_random_pieces_does_not_panic(text in random_pieces()) {
        let _ = load("p.yaml", &text);
    }

    #[test]
    fn loading_a_damaged_policy_does_not_panic(cut in 0_usize..400, length in 0_usize..40, piece in "[-:{}\\[\\],&*!|>'\"#%\n a1]{0,4}") {
        let text = limiter(|text| text);
        let chars: Vec<char> = text.chars().collect();
        let cut = cut.min(chars.len());
        let rest = (cut + length).min(chars.len());
        let damaged: String = chars[..cut].iter().copied().chain(piece.chars()).chain(chars[rest..].iter().copied()).collect();
        if let Err(error) = load("p.yaml", &damaged) {
            prop_assert!(error.to_string().starts_with("p.yaml"));
        }
    }

    #[test]
    fn loading_a_damaged_recording_does_not_panic(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), length in 0_usize..60, piece in "[-:{}\\[\\],&*!|>'\"#%\n a1]{0,4}") {
        let chars: Vec<char> = which.get(&TEXTS).chars().collect();
        let cut = at.index(chars.len());
        let rest = (cut + length).min(chars.len());
        let damaged: String = chars[..cut].iter().copied().chain(piece.chars()).chain(chars[rest..].iter().copied()).collect();
        match load("p.yaml", &damaged) {
            Err(error) => prop_assert!(error.to_string().starts_with("p.yaml")),
            Ok(loaded) => prop_assert!(!loaded.policy.describe(&|_| true, false).is_empty()),
        }
    }

    #[test]
    fn compiling_any_pattern_does_not_panic(source in any::<String>(), text in any::<String>()) {
        if let Ok(pattern) = Pattern::new(&source) {
            let _ = pattern.is_match(&text);
        }
    }

    #[test]
    fn quoted_text_matches_texts_that_contain_it(source in "[^\\\\]{0,12}", before in ".{0,4}", text in ".{0,12}") {
        let pattern = Pattern::new(&format!("\\Q{source}\\E"));
        let pattern = pattern.expect("quoted text is a pattern");
        prop_assert_eq!(pattern.is_match(&text), text.contains(&source));
        let containing = format!("{before}{source}{text}");
        prop_assert!(pattern.is_match(&containing));
    }

    /// Patterns in the syntax that Go and the `regex` crate share must have the same meaning.
    #[test]
    fn shared_syntax_has_the_same_meaning(pieces in prop::collection::vec(prop::sample::select(vec![
        "a", "b", ".", "*", "+", "?", "(", ")", "|", "[ab]", "[^a]", "^", "$", "\\d", "\\w+", "{2}", "(?:", "(?i)", "1",
    ]), 0..10), text in "[abAB1 ]{0,8}") {
        let source = pieces.concat();
        if let (Ok(ours), Ok(theirs)) = (Pattern::new(&source), regex::Regex::new(&source)) {
            prop_assert_eq!(ours.is_match(&text), theirs.is_match(&text), "{}", source);
        }
    }
}
