//! Which labels a flow must have, compiled when the policy is read.

use std::fmt::{self, Display};
use std::sync::Arc;

use super::re2::Pattern;
use crate::flow::Labels;

/// All of its tests must hold; without any it matches every flow.
#[derive(Clone, Debug, Default)]
pub(crate) struct LabelMatcher {
    tests: Arc<[Test]>,
}

/// One condition on the labels. A label that is missing satisfies only `Not` and what holds of
/// nothing.
#[derive(Clone, Debug)]
pub(super) enum Test {
    Exists(Box<str>),
    Equals {
        label: Box<str>,
        value: Box<str>,
    },
    OneOf {
        label: Box<str>,
        values: Box<[Box<str>]>,
    },
    Matches {
        label: Box<str>,
        pattern: Pattern,
    },
    Not(Box<Test>),
    All(Box<[Test]>),
    Any(Box<[Test]>),
}

impl LabelMatcher {
    pub(super) fn new(tests: Vec<Test>) -> Self {
        Self {
            tests: tests.into(),
        }
    }

    pub(super) fn tests(&self) -> &[Test] {
        &self.tests
    }

    /// It matches every flow.
    pub(crate) fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    /// Some test looks at the label.
    #[cfg(not(feature = "rego"))]
    pub(super) fn reads(&self, label: &str) -> bool {
        self.tests.iter().any(|test| test.reads(label))
    }

    /// Each test, for those who compare.
    #[cfg(test)]
    pub(super) fn shown(&self) -> Vec<String> {
        self.tests.iter().map(|test| format!("{test:?}")).collect()
    }

    /// Allocates nothing, once the caches of its patterns are warm.
    pub(crate) fn matches(&self, labels: &Labels<'_>) -> bool {
        self.tests.iter().all(|test| test.holds(labels))
    }
}

impl Test {
    #[cfg(not(feature = "rego"))]
    fn reads(&self, wanted: &str) -> bool {
        match self {
            Self::Exists(label)
            | Self::Equals { label, .. }
            | Self::OneOf { label, .. }
            | Self::Matches { label, .. } => **label == *wanted,
            Self::Not(test) => test.reads(wanted),
            Self::All(tests) | Self::Any(tests) => tests.iter().any(|test| test.reads(wanted)),
        }
    }

    fn holds(&self, labels: &Labels<'_>) -> bool {
        match self {
            Self::Exists(label) => labels.get(label).is_some(),
            Self::Equals { label, value } => labels.get(label) == Some(value),
            Self::OneOf { label, values } => labels
                .get(label)
                .is_some_and(|found| values.iter().any(|value| **value == *found)),
            Self::Matches { label, pattern } => labels
                .get(label)
                .is_some_and(|found| pattern.is_match(found)),
            Self::Not(test) => !test.holds(labels),
            Self::All(tests) => tests.iter().all(|test| test.holds(labels)),
            Self::Any(tests) => tests.iter().any(|test| test.holds(labels)),
        }
    }
}

/// In words, as for those who read what is in force.
impl Display for LabelMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        joined(f, &self.tests, " and ")
    }
}

impl Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(label) => write!(f, "`{label}` is there"),
            Self::Equals { label, value } => write!(f, "`{label}` is `{value}`"),
            Self::OneOf { label, values } => {
                write!(f, "`{label}` is one of `{}`", values.join("`, `"))
            }
            Self::Matches { label, pattern } => write!(f, "`{label}` matches `{pattern}`"),
            Self::Not(test) => write!(f, "not ({test})"),
            Self::All(tests) if tests.is_empty() => f.write_str("always"),
            Self::Any(tests) if tests.is_empty() => f.write_str("never"),
            Self::All(tests) => {
                f.write_str("(")?;
                joined(f, tests, " and ")?;
                f.write_str(")")
            }
            Self::Any(tests) => {
                f.write_str("(")?;
                joined(f, tests, " or ")?;
                f.write_str(")")
            }
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, tests: &[Test], between: &str) -> fmt::Result {
    for (index, test) in tests.iter().enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        write!(f, "{test}")?;
    }
    Ok(())
}
