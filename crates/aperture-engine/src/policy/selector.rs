//! Reads selectors and label matchers.

use std::sync::Arc;

use super::PolicyError;
use super::decode::{DocumentNode, Object};
use super::matcher::{LabelCondition, LabelMatcher};
use super::model::Selector;
use super::re2::Pattern;

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
    let fields = node.object(&["control_point", "service", "agent_group", "label_matcher"])?;
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
    let fields = node.object(&[
        "match_labels",
        "match_list",
        "match_expressions",
        "expression",
    ])?;
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
    let fields = node.object(&["key", "operator", "values"])?;
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
    const VARIANTS: &[&str] = &[
        "not",
        "all",
        "any",
        "label_exists",
        "label_equals",
        "label_matches",
    ];
    let whole = node.clone();
    let fields = node.object(VARIANTS)?;
    let Some((variant, node)) = fields.only(VARIANTS)? else {
        let variants = VARIANTS.join(", ");
        return Err(whole.error(format!("an expression is one of {variants}")));
    };
    Ok(match variant {
        "not" => LabelCondition::Not(Box::new(expression(node)?)),
        "all" => LabelCondition::All(operands(node)?),
        "any" => LabelCondition::Any(operands(node)?),
        "label_exists" => LabelCondition::Exists(node.text()?.into()),
        "label_equals" => {
            let fields = node.object(&["label", "value"])?;
            equals(
                fields.required_text("label")?,
                fields.text("value")?.unwrap_or_default(),
            )
        }
        _ => {
            let fields = node.object(&["label", "regex"])?;
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
    let fields = node.object(&["of"])?;
    let operands = fields.get("of").map(|list| list.list()).transpose()?;
    operands
        .unwrap_or_default()
        .into_iter()
        .map(expression)
        .collect()
}
