//! Label matchers: conditions on the labels of a flow, compiled when the policy is read.

use std::fmt::{self, Display};
use std::sync::Arc;

use super::re2::Pattern;
use aperture_core::LabelSource;

/// A matcher of labels. All of its conditions must hold; without conditions it matches every flow.
#[derive(Clone, Debug, Default)]
pub(crate) struct LabelMatcher {
    conditions: Arc<[LabelCondition]>,
}

/// One condition on the labels. A missing label satisfies only `Not`, and an `All` without
/// conditions.
#[derive(Clone, Debug)]
pub(super) enum LabelCondition {
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
    Not(Box<LabelCondition>),
    All(Box<[LabelCondition]>),
    Any(Box<[LabelCondition]>),
}

impl LabelMatcher {
    pub(super) fn new(conditions: Vec<LabelCondition>) -> Self {
        Self {
            conditions: conditions.into(),
        }
    }

    pub(super) fn conditions(&self) -> &[LabelCondition] {
        &self.conditions
    }

    /// Returns true if there are no conditions, so that every flow matches.
    pub(crate) fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Returns true if a condition reads the label.
    pub(super) fn reads(&self, label: &str) -> bool {
        self.conditions
            .iter()
            .any(|condition| condition.reads(label))
    }

    /// Returns each condition in its debug form, for comparison in tests.
    #[cfg(test)]
    pub(super) fn debug_strings(&self) -> Vec<String> {
        self.conditions
            .iter()
            .map(|condition| format!("{condition:?}"))
            .collect()
    }

    /// Returns true if the labels satisfy all conditions. Does not allocate once the caches of the
    /// patterns are warm.
    pub(crate) fn matches(&self, labels: &dyn LabelSource) -> bool {
        self.conditions
            .iter()
            .all(|condition| condition.holds(labels))
    }
}

impl LabelCondition {
    fn reads(&self, wanted: &str) -> bool {
        match self {
            Self::Exists(label)
            | Self::Equals { label, .. }
            | Self::OneOf { label, .. }
            | Self::Matches { label, .. } => **label == *wanted,
            Self::Not(condition) => condition.reads(wanted),
            Self::All(conditions) | Self::Any(conditions) => {
                conditions.iter().any(|condition| condition.reads(wanted))
            }
        }
    }

    fn holds(&self, labels: &dyn LabelSource) -> bool {
        match self {
            Self::Exists(label) => labels.get(label).is_some(),
            Self::Equals { label, value } => labels.get(label) == Some(value),
            Self::OneOf { label, values } => labels
                .get(label)
                .is_some_and(|found| values.iter().any(|value| **value == *found)),
            Self::Matches { label, pattern } => labels
                .get(label)
                .is_some_and(|found| pattern.is_match(found)),
            Self::Not(condition) => !condition.holds(labels),
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(labels)),
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(labels)),
        }
    }
}

/// Shows the conditions in words, for the description of a policy.
impl Display for LabelMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_joined(f, &self.conditions, " and ")
    }
}

impl Display for LabelCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(label) => write!(f, "`{label}` exists"),
            Self::Equals { label, value } => write!(f, "`{label}` is `{value}`"),
            Self::OneOf { label, values } => {
                write!(f, "`{label}` is one of `{}`", values.join("`, `"))
            }
            Self::Matches { label, pattern } => write!(f, "`{label}` matches `{pattern}`"),
            Self::Not(condition) => write!(f, "not ({condition})"),
            Self::All(conditions) if conditions.is_empty() => f.write_str("always"),
            Self::Any(conditions) if conditions.is_empty() => f.write_str("never"),
            Self::All(conditions) => {
                f.write_str("(")?;
                write_joined(f, conditions, " and ")?;
                f.write_str(")")
            }
            Self::Any(conditions) => {
                f.write_str("(")?;
                write_joined(f, conditions, " or ")?;
                f.write_str(")")
            }
        }
    }
}

fn write_joined(
    f: &mut fmt::Formatter<'_>,
    conditions: &[LabelCondition],
    between: &str,
) -> fmt::Result {
    for (index, condition) in conditions.iter().enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        write!(f, "{condition}")?;
    }
    Ok(())
}
