//! Reads selectors and label matchers.

use std::sync::Arc;

use super::PolicyError;
use super::decode::{DocumentNode, Field, FieldValue, Given, Object, Section};
use super::matcher::{LabelCondition, LabelMatcher};
use super::model::Selector;
use super::re2::Pattern;

static SELECTOR: Section = Section::new(
    "Selector",
    &[&[
        Field::required(
            "control_point",
            FieldValue::Name,
            "The control point at which flows enter.",
        ),
        Field::with_default(
            "service",
            FieldValue::Text,
            "any",
            "The service that flows belong to. `any` selects all flows.",
        ),
        Field::optional(
            "agent_group",
            FieldValue::Text,
            "The group of agents that the policy is for. Without it, the policy is for an engine \
             without a group.",
        ),
        Field::optional(
            "label_matcher",
            FieldValue::Section(&MATCHER),
            "The condition on the labels. Without it, flows with any labels are selected.",
        ),
    ]],
);

/// The `selectors` of a component, of which each needs at least one.
pub(super) const SELECTORS: Field = Field::required(
    "selectors",
    FieldValue::List(&SELECTOR),
    "The flows; those that at least one selector selects. At least one selector is required.",
);

/// A condition on labels.
pub(super) static MATCHER: Section = Section::new(
    "Label matcher",
    &[&[
        Field::optional(
            "match_labels",
            FieldValue::TextMap,
            "Labels with the values that they must have.",
        ),
        Field::optional(
            "match_list",
            FieldValue::List(&REQUIREMENT),
            "Requirements on labels.",
        ),
        Field::optional(
            "match_expressions",
            FieldValue::List(&REQUIREMENT),
            "The old name of `match_list`, which takes precedence.",
        ),
        Field::optional(
            "expression",
            FieldValue::Section(&EXPRESSION),
            "A condition of any depth.",
        ),
    ]],
);

static REQUIREMENT: Section = Section::new(
    "Label requirement",
    &[&[
        Field::required("key", FieldValue::Name, "The label."),
        Field::required(
            "operator",
            FieldValue::OneOf(&["In", "NotIn", "Exists", "DoesNotExist"]),
            "The requirement. A flow without the label satisfies `NotIn` and `DoesNotExist`.",
        ),
        Field::optional(
            "values",
            FieldValue::Texts,
            "The values for `In` and `NotIn`. Without values, they are compared with the empty text.",
        ),
    ]],
);

static EXPRESSION: Section = Section::choice(
    "Label expression",
    Given::ExactlyOne,
    &[&[
        Field::optional(
            "not",
            FieldValue::Section(&EXPRESSION),
            "The expression is false.",
        ),
        Field::optional(
            "all",
            FieldValue::Section(&OPERANDS),
            "All expressions are true.",
        ),
        Field::optional(
            "any",
            FieldValue::Section(&OPERANDS),
            "At least one expression is true.",
        ),
        Field::optional("label_exists", FieldValue::Text, "The flow has the label."),
        Field::optional(
            "label_equals",
            FieldValue::Section(&LABEL_EQUALS),
            "The label has the value.",
        ),
        Field::optional(
            "label_matches",
            FieldValue::Section(&LABEL_MATCHES),
            "The value of the label matches the regular expression.",
        ),
    ]],
);

static OPERANDS: Section = Section::new(
    "",
    &[&[Field::optional(
        "of",
        FieldValue::List(&EXPRESSION),
        "The expressions.",
    )]],
);

static LABEL_EQUALS: Section = Section::new(
    "",
    &[&[
        Field::required("label", FieldValue::Name, "The label."),
        Field::with_default("value", FieldValue::Text, "''", "The value."),
    ]],
);

static LABEL_MATCHES: Section = Section::new(
    "",
    &[&[
        Field::required("label", FieldValue::Name, "The label."),
        Field::required(
            "regex",
            FieldValue::Syntax("a regular expression of RE2", "a.*"),
            "The expression, which matches any part of the value. A policy may have 256.",
        ),
    ]],
);

/// Reads a required list with at least one selector.
pub(super) fn selectors(parent: &Object<'_>, key: &str) -> Result<Vec<Selector>, PolicyError> {
    let node = parent.required(key)?;
    let selectors = node.list()?;
    if selectors.is_empty() {
        return Err(node.error("at least one selector is required"));
    }
    selectors.into_iter().map(selector).collect()
}

fn selector(node: DocumentNode<'_>) -> Result<Selector, PolicyError> {
    let fields = node.object(&SELECTOR)?;
    let label_matcher = fields.get("label_matcher").map(matcher).transpose()?;
    Ok(Selector {
        control_point: Arc::from(fields.required_text("control_point")?),
        service: Arc::from(fields.text("service")?.unwrap_or("any")),
        agent_group: fields.text("agent_group")?.map(Arc::from),
        matcher: label_matcher.unwrap_or_default(),
    })
}

/// Reads a label matcher. All given conditions must hold.
pub(super) fn matcher(node: DocumentNode<'_>) -> Result<LabelMatcher, PolicyError> {
    let fields = node.object(&MATCHER)?;
    let mut conditions = Vec::new();
    if let Some(labels) = fields.get("match_labels") {
        for (label, value) in labels.free_map()? {
            conditions.push(equals(label, value.text()?));
        }
    }
    let list = fields
        .get("match_list")
        .as_ref()
        .map(requirements)
        .transpose()?;
    let old = fields.get("match_expressions");
    let old_list = old.as_ref().map(requirements).transpose()?;
    match (list, old, old_list) {
        (Some(list), old, _) if !list.is_empty() => {
            if let Some(old) = old {
                old.warn("ignored, because `match_list`, its new name, is present");
            }
            conditions.extend(list);
        }
        (_, _, old_list) => conditions.extend(old_list.unwrap_or_default()),
    }
    if let Some(node) = fields.get("expression") {
        conditions.push(expression(node)?);
    }
    Ok(LabelMatcher::new(conditions))
}

fn equals(label: &str, value: &str) -> LabelCondition {
    LabelCondition::Equals {
        label: label.into(),
        value: value.into(),
    }
}

fn requirements(node: &DocumentNode<'_>) -> Result<Vec<LabelCondition>, PolicyError> {
    node.list()?.into_iter().map(requirement).collect()
}

fn requirement(node: DocumentNode<'_>) -> Result<LabelCondition, PolicyError> {
    let fields = node.object(&REQUIREMENT)?;
    let label: Box<str> = fields.required_text("key")?.into();
    let operator =
        fields
            .required("operator")?
            .one_of(&["In", "NotIn", "Exists", "DoesNotExist"])?;
    let mut values = Vec::new();
    if let Some(list) = fields.get("values") {
        for value in list.list()? {
            values.push(value.text()?.into());
        }
    }
    if values.is_empty() {
        // The Agent builds an alternation of the values, and an empty one matches the empty text.
        values.push("".into());
    }
    let one_of = |label, values: Vec<Box<str>>| LabelCondition::OneOf {
        label,
        values: values.into(),
    };
    Ok(match operator {
        "In" => one_of(label, values),
        "NotIn" => LabelCondition::Not(Box::new(one_of(label, values))),
        "Exists" => LabelCondition::Exists(label),
        _ => LabelCondition::Not(Box::new(LabelCondition::Exists(label))),
    })
}

fn expression(node: DocumentNode<'_>) -> Result<LabelCondition, PolicyError> {
    let whole = node.clone();
    let fields = node.object(&EXPRESSION)?;
    let Some((variant, node)) = fields.only()? else {
        let variants: Vec<&str> = EXPRESSION.names().collect();
        let variants = variants.join(", ");
        return Err(whole.error(format!("an expression is one of {variants}")));
    };
    Ok(match variant {
        "not" => LabelCondition::Not(Box::new(expression(node)?)),
        "all" => LabelCondition::All(operands(node)?),
        "any" => LabelCondition::Any(operands(node)?),
        "label_exists" => LabelCondition::Exists(node.text()?.into()),
        "label_equals" => {
            let fields = node.object(&LABEL_EQUALS)?;
            equals(
                fields.required_text("label")?,
                fields.text("value")?.unwrap_or_default(),
            )
        }
        _ => {
            let fields = node.object(&LABEL_MATCHES)?;
            let label = fields.required_text("label")?.into();
            let source = fields.required_text("regex")?;
            let node = fields.required("regex")?;
            node.count_regex()?;
            let pattern = Pattern::new(source).map_err(|reason| {
                node.error(format!("not a valid regular expression: {reason}"))
            })?;
            LabelCondition::Matches { label, pattern }
        }
    })
}

fn operands(node: DocumentNode<'_>) -> Result<Box<[LabelCondition]>, PolicyError> {
    let fields = node.object(&OPERANDS)?;
    let operands = fields.get("of").map(|list| list.list()).transpose()?;
    operands
        .unwrap_or_default()
        .into_iter()
        .map(expression)
        .collect()
}
