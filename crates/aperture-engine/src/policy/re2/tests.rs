//! Checks that patterns have the same meaning as in Go.

use super::Pattern;

fn finds(pattern: &str, text: &str) -> bool {
    Pattern::new(pattern).expect(pattern).is_match(text)
}

#[test]
fn patterns_match_anywhere_in_the_text() {
    assert!(finds("b", "abc"));
    assert!(finds("", ""));
    assert!(finds("a.c", "xabcx"));
    assert!(!finds("a.c", "a\nc"));
    assert!(!finds("^b", "abc"));
}

#[test]
fn perl_classes_are_ascii() {
    for (pattern, text) in [
        ("^\\d$", "\u{661}"),
        ("^\\w$", "é"),
        ("^\\s$", "\u{a0}"),
        ("^\\s$", "\u{b}"),
        ("^[[:alpha:]]$", "é"),
        ("^[\\d]$", "\u{661}"),
        ("^\\W$", "a"),
    ] {
        assert!(!finds(pattern, text), "{pattern} {text:?}");
    }
    for (pattern, text) in [
        ("^\\D$", "\u{661}"),
        ("^\\W$", "é"),
        ("^\\S$", "\u{b}"),
        ("^[^\\w]$", "é"),
        ("é\\b", "éa"),
        ("^(?i)É$", "é"),
        ("^\\pL$", "é"),
        ("^\\p{^L}$", "1"),
        ("^\\P{Greek}$", "a"),
    ] {
        assert!(finds(pattern, text), "{pattern} {text:?}");
    }
}

#[test]
fn a_bracket_and_a_colon_without_a_class_name_are_characters() {
    for text in ["[", ":"] {
        assert!(finds("^[[:]$", text), "{text:?}");
        assert!(finds("^[[:a]$", text), "{text:?}");
        assert!(finds("^[a[:]$", text), "{text:?}");
    }
    assert!(finds("^[[:]]$", ":]"));
    for pattern in ["[[::]]", "[[:^:]]", "[[:]:]]", "[[:][:]"] {
        assert!(Pattern::new(pattern).is_err(), "{pattern}");
    }
}

#[test]
fn not_a_boundary_matches_only_between_characters() {
    assert!(!finds("\\B", "aéa"));
    assert!(finds("\\B", "é"));
    assert!(finds("a\\Bb", "ab"));
    assert!(finds("\\B", ""));
}

#[test]
fn dollar_matches_the_end_of_the_text() {
    assert!(!finds("a$", "a\n"));
    assert!(finds("(?m)a$", "a\nb"));
    assert!(finds("a\\z", "a"));
}

#[test]
fn quoted_text_is_literal() {
    assert!(finds("^\\Qa.b*\\E$", "a.b*"));
    assert!(!finds("^\\Qa.b\\E$", "axb"));
    assert!(finds("^\\Qa+", "a+"));
    assert!(finds("^\\Qab\\E+$", "abbb"));
    assert!(finds("^\\Q\\\\E$", "\\"));
}

#[test]
fn set_operators_are_plain_characters_in_a_class() {
    for (pattern, text) in [
        ("^[a&&b]$", "&"),
        ("^[+--]$", ","),
        ("^[[a]$", "["),
        ("^[a~~b]$", "~"),
        ("^[]a]$", "]"),
        ("^[^]a]$", "b"),
        ("^[a-]$", "-"),
        ("^[-a]$", "-"),
        ("^[\\x41-\\x{43}]$", "B"),
        ("^[\\n]$", "\n"),
        ("^[\\]]$", "]"),
        ("^[\\W\\d]$", "5"),
        ("^[[:^digit:]x]$", "a"),
        ("^[a-c-e]$", "-"),
        ("^[^a]$", "\n"),
    ] {
        assert!(finds(pattern, text), "{pattern} {text:?}");
    }
    assert!(!finds("^[a&&b]$", "c"));
}

#[test]
fn braces_without_a_repetition_are_literal() {
    assert!(finds("^{,2}$", "{,2}"));
    assert!(finds("^a{$", "a{"));
    assert!(finds("^a{x}$", "a{x}"));
    assert!(finds("^{$", "{"));
    assert!(finds("^a{2}$", "aa"));
    assert!(finds("^a{1,}?$", "aaa"));
    assert!(finds("^a{02}$", "a{02}"));
}

#[test]
fn escapes_read_as_in_go() {
    assert!(finds("^\\101\\0\\x41\\x{0041}$", "A\0AA"));
    assert!(finds("^\\<\\>\\_\\ \\-$", "<>_ -"));
    assert!(finds("^\\a\\f\\t\\v$", "\x07\x0c\t\x0b"));
    assert!(finds("^(?P<n>a)(?<m>b)(?i:C)(?s-i:.)(?)$", "abc\n"));
    assert!(finds("^(?ii)a(?i-i)A$", "AA"));
    assert!(finds("^#a b$", "#a b"));
    assert!(finds("^a&b-<c>$", "a&b-<c>"));
}

#[test]
fn patterns_that_go_refuses_are_refused() {
    for pattern in [
        "(",
        ")",
        "[",
        "[]",
        "a**",
        "a+*",
        "a{2}{3}",
        "a??*",
        "*",
        "a|*",
        "(*)",
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?<!a)",
        "(a)\\1",
        "\\8",
        "\\k",
        "\\Z",
        "\\C",
        "\\G",
        "\\h",
        "\\x",
        "\\xg1",
        "\\x{110000}",
        "\\x{}",
        "\\",
        "[b-a]",
        "[a-\\d]",
        "[[:nope:]]",
        "[\\b]",
        "a{1001}",
        "a{2,1}",
        "a{99999999999}",
        "(?x)a",
        "(?u)a",
        "(?-)a",
        "(?i",
        "\\p",
        "\\p{",
        "\\p{Nope}",
        "(?#c)",
        "\\é",
        "\\E",
    ] {
        assert!(Pattern::new(pattern).is_err(), "{pattern}");
    }
}

#[test]
fn patterns_over_a_limit_are_refused() {
    for pattern in [
        "(".repeat(1000) + &")".repeat(1000),
        "((((\\pL{1000}){1000}){1000}){1000})".to_owned(),
        "(?:a{1000}){1000}".to_owned(),
        "a".repeat(10_000),
    ] {
        assert!(Pattern::new(&pattern).is_err());
    }
}
