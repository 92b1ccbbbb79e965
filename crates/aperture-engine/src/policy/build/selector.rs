//! Selectors and label matchers in code: which flows a part of a policy is for.

use super::field::{FieldPath, MAX_KEY_BYTES};
use super::hidden::Hidden;
use crate::policy::PolicyError;
use crate::policy::yaml::{Mapping, Value};

/// Selects flows by control point, service, agent group and labels.
///
/// A text is the selector of all flows that enter at the control point of this name.
///
/// ```
/// use tower_aperture::policy::{LabelMatcher, Policy, RateLimit, Selector};
///
/// let bots = Selector::control_point("checkout")
///     .service("shop")
///     .agent_group("default")
///     .when(LabelMatcher::new().equals("client_kind", "bot"));
/// let policy = Policy::new("bots").at(bots).limit(RateLimit::per_minute(60));
/// assert!(policy.to_yaml()?.contains("client_kind: bot"));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Selector {
    pub(super) control_point: String,
    service: Option<String>,
    agent_group: Option<String>,
    matcher: LabelMatcher,
}

impl Selector {
    /// Returns the selector of all flows that enter at a control point.
    pub fn control_point(name: impl Into<String>) -> Self {
        Self {
            control_point: name.into(),
            service: None,
            agent_group: None,
            matcher: LabelMatcher::new(),
        }
    }

    /// Selects only flows of a service; without this, or with the name `any`, flows of all
    /// services.
    #[must_use]
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.service = Some(name.into());
        self
    }

    /// Sets the agent group; without this, that of the [policy](super::Policy::agent_group).
    #[must_use]
    pub fn agent_group(mut self, group: impl Into<String>) -> Self {
        self.agent_group = Some(group.into());
        self
    }

    /// Selects only flows whose labels match. A later call replaces an earlier one.
    #[must_use]
    pub fn when(mut self, matcher: LabelMatcher) -> Self {
        self.matcher = matcher;
        self
    }

    pub(super) fn lower(
        &self,
        path: &FieldPath<'_>,
        agent_group: Option<&str>,
    ) -> Result<Value, PolicyError> {
        let control_point = path.name("control_point").text_value(&self.control_point)?;
        let service = self.service.as_deref();
        let service = service.map(|name| path.name("service").text_value(name));
        let group = self.agent_group.as_deref().or(agent_group);
        let group = group.map(|group| path.name("agent_group").text_value(group));
        let matcher = self.matcher.lower(&path.name("when"))?;
        let selector = Mapping::new()
            .with("control_point", control_point)
            .with_some("service", service.transpose()?)
            .with_some("agent_group", group.transpose()?)
            .with_some("label_matcher", matcher.unless_empty());
        Ok(selector.into())
    }
}

impl From<&str> for Selector {
    fn from(control_point: &str) -> Self {
        Self::control_point(control_point)
    }
}

impl From<String> for Selector {
    fn from(control_point: String) -> Self {
        Self::control_point(control_point)
    }
}

/// A condition on the labels of a flow. All conditions of a matcher must hold; a matcher without
/// conditions matches every flow.
///
/// ```
/// use tower_aperture::policy::{LabelMatcher, Policy, RateLimit, Selector};
///
/// let matcher = LabelMatcher::new()
///     .equals("tier", "free")
///     .one_of("region", ["eu", "us"])
///     .none_of("method", ["GET", "HEAD"])
///     .exists("user_id")
///     .absent("employee")
///     .matches("path", "^/v[12]/")
///     .any([
///         LabelMatcher::new().equals("client", "app"),
///         LabelMatcher::new().equals("client", "web").exists("session"),
///     ])
///     .not(LabelMatcher::new().equals("user_id", "monitor"));
/// let policy = Policy::new("free").at(Selector::control_point("api").when(matcher));
/// policy.limit(RateLimit::per_minute(100).by("user_id")).to_yaml()?;
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelMatcher {
    conditions: Vec<Condition>,
    /// The number of matchers within each other.
    depth: usize,
    is_too_deep: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Condition {
    Equals(String, Hidden),
    OneOf(String, Vec<Hidden>),
    NoneOf(String, Vec<Hidden>),
    Exists(String),
    Absent(String),
    Matches(String, Hidden),
    Any(Vec<LabelMatcher>),
    Not(LabelMatcher),
}

/// The number of matchers within each other. A document has at most 64 levels.
const MAX_DEPTH: usize = 6;

impl LabelMatcher {
    /// Returns a matcher without conditions, which matches every flow.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The label has the value.
    #[must_use]
    pub fn equals(self, label: impl Into<String>, value: impl Into<String>) -> Self {
        let value = Hidden::new(value);
        self.with(Condition::Equals(label.into(), value))
    }

    /// The label has one of the values, of which at least one is required.
    #[must_use]
    pub fn one_of<V: Into<String>>(
        self,
        label: impl Into<String>,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        let values = values.into_iter().map(Hidden::new).collect();
        self.with(Condition::OneOf(label.into(), values))
    }

    /// The label is absent or has none of the values, of which at least one is required.
    #[must_use]
    pub fn none_of<V: Into<String>>(
        self,
        label: impl Into<String>,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        let values = values.into_iter().map(Hidden::new).collect();
        self.with(Condition::NoneOf(label.into(), values))
    }

    /// The flow has the label.
    #[must_use]
    pub fn exists(self, label: impl Into<String>) -> Self {
        self.with(Condition::Exists(label.into()))
    }

    /// The flow does not have the label.
    #[must_use]
    pub fn absent(self, label: impl Into<String>) -> Self {
        self.with(Condition::Absent(label.into()))
    }

    /// Any part of the value of the label matches the regular expression, in the syntax of RE2. A
    /// policy may have 256 expressions.
    #[must_use]
    pub fn matches(self, label: impl Into<String>, regex: impl Into<String>) -> Self {
        let regex = Hidden::new(regex);
        self.with(Condition::Matches(label.into(), regex))
    }

    /// At least one of the matchers matches. At least one is required.
    #[must_use]
    pub fn any(mut self, matchers: impl IntoIterator<Item = Self>) -> Self {
        let matchers: Vec<Self> = matchers.into_iter().collect();
        let depth = matchers.iter().map(|matcher| matcher.depth + 1).max();
        if self.fits(depth.unwrap_or(0)) && matchers.iter().all(|matcher| !matcher.is_too_deep) {
            return self.with(Condition::Any(matchers));
        }
        self.is_too_deep = true;
        self
    }

    /// The matcher does not match. Matchers may contain each other to a depth of 6.
    #[must_use]
    pub fn not(mut self, matcher: Self) -> Self {
        if self.fits(matcher.depth + 1) && !matcher.is_too_deep {
            return self.with(Condition::Not(matcher));
        }
        self.is_too_deep = true;
        self
    }

    /// Takes the depth of an operand into account. Returns false if it is too deep.
    fn fits(&mut self, depth: usize) -> bool {
        self.depth = self.depth.max(depth);
        depth <= MAX_DEPTH
    }

    fn with(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// Returns the fields of a `label_matcher`.
    pub(super) fn lower(&self, path: &FieldPath<'_>) -> Result<Mapping, PolicyError> {
        if self.is_too_deep {
            return Err(path.error(format!(
                "matchers contain each other more than {MAX_DEPTH} times; set a label where the \
                 flow begins, and match that"
            )));
        }
        let mut labels = Mapping::new();
        let mut list = Vec::new();
        let mut expressions = Vec::new();
        for (index, condition) in self.conditions.iter().enumerate() {
            let path = path.index(index);
            condition.check(&path)?;
            match condition {
                Condition::Equals(label, value)
                    if label.len() <= MAX_KEY_BYTES && !labels.has(label) =>
                {
                    labels = labels.with(label.clone(), value.as_str());
                }
                Condition::Equals(label, value) => {
                    list.push(requirement(label, "In", std::slice::from_ref(value)));
                }
                Condition::OneOf(label, values) => list.push(requirement(label, "In", values)),
                Condition::NoneOf(label, values) => list.push(requirement(label, "NotIn", values)),
                Condition::Exists(label) => list.push(requirement(label, "Exists", &[])),
                Condition::Absent(label) => list.push(requirement(label, "DoesNotExist", &[])),
                Condition::Matches(..) | Condition::Any(_) | Condition::Not(_) => {
                    expressions.push(condition.expression(&path)?);
                }
            }
        }
        Ok(Mapping::new()
            .with_some("match_labels", labels.unless_empty())
            .with_some("match_list", (!list.is_empty()).then_some(list))
            .with_some("expression", all(expressions)))
    }

    /// Returns the matcher as an expression.
    fn expression(&self, path: &FieldPath<'_>) -> Result<Value, PolicyError> {
        let expression = |(index, condition): (usize, &Condition)| {
            let path = path.index(index);
            condition.check(&path)?;
            condition.expression(&path)
        };
        let expressions = self.conditions.iter().enumerate().map(expression);
        let expressions: Vec<Value> = expressions.collect::<Result<_, _>>()?;
        Ok(all(expressions).unwrap_or_else(|| operands("all", Vec::new())))
    }
}

impl Condition {
    fn label(&self) -> Option<&str> {
        match self {
            Self::Equals(label, _)
            | Self::OneOf(label, _)
            | Self::NoneOf(label, _)
            | Self::Exists(label)
            | Self::Absent(label)
            | Self::Matches(label, _) => Some(label),
            Self::Any(_) | Self::Not(_) => None,
        }
    }

    fn check(&self, path: &FieldPath<'_>) -> Result<(), PolicyError> {
        if self.label() == Some("") {
            return Err(path.error("the name of the label is empty; name the label to match"));
        }
        match self {
            Self::OneOf(_, values) | Self::NoneOf(_, values) if values.is_empty() => {
                Err(path.error("no value is given; give at least one, or use `exists` or `absent`"))
            }
            Self::Any(matchers) if matchers.is_empty() => {
                Err(path
                    .error("no matcher is given, and so no flow would match; give at least one"))
            }
            _ => Ok(()),
        }
    }

    fn expression(&self, path: &FieldPath<'_>) -> Result<Value, PolicyError> {
        let exists = |label: &str| expression("label_exists", label);
        let one_of = |label: &str, values: &[Hidden]| {
            let equals = values.iter().map(|value| equals(label, value));
            operands("any", equals.collect())
        };
        Ok(match self {
            Self::Equals(label, value) => equals(label, value),
            Self::OneOf(label, values) => one_of(label, values),
            Self::NoneOf(label, values) => expression("not", one_of(label, values)),
            Self::Exists(label) => exists(label),
            Self::Absent(label) => expression("not", exists(label)),
            Self::Matches(label, regex) => {
                let fields = Mapping::new().with("label", label.as_str());
                expression("label_matches", fields.with("regex", regex.as_str()))
            }
            Self::Any(matchers) => {
                let lower = |(index, matcher): (usize, &LabelMatcher)| {
                    matcher.expression(&path.name("any").index(index))
                };
                let matchers = matchers.iter().enumerate().map(lower);
                operands("any", matchers.collect::<Result<_, _>>()?)
            }
            Self::Not(matcher) => expression("not", matcher.expression(&path.name("not"))?),
        })
    }
}

fn requirement(label: &str, operator: &'static str, values: &[Hidden]) -> Value {
    let values: Vec<Value> = values.iter().map(|value| value.as_str().into()).collect();
    let requirement = Mapping::new()
        .with("key", label)
        .with("operator", operator)
        .with_some("values", (!values.is_empty()).then_some(values));
    requirement.into()
}

fn equals(label: &str, value: &Hidden) -> Value {
    let fields = Mapping::new().with("label", label);
    expression("label_equals", fields.with("value", value.as_str()))
}

/// Returns the expression that all of the expressions hold; `None` if there are none.
fn all(mut expressions: Vec<Value>) -> Option<Value> {
    match expressions.len() {
        0 | 1 => expressions.pop(),
        _ => Some(operands("all", expressions)),
    }
}

fn operands(kind: &'static str, of: Vec<Value>) -> Value {
    expression(kind, Mapping::new().with("of", of))
}

fn expression(kind: &'static str, value: impl Into<Value>) -> Value {
    Mapping::new().with(kind, value).into()
}
