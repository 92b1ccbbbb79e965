//! Selectors and label matchers, from the tree.

use std::sync::Arc;

use super::PolicyError;
use super::decode::{At, Object};
use super::matcher::{LabelMatcher, Test};
use super::model::Selector;
use super::re2::Pattern;

/// The list of a required field: one selector at least.
pub(super) fn selectors(parent: &Object<'_>, key: &str) -> Result<Vec<Selector>, PolicyError> {
    let at = parent.required(key)?;
    let selectors = at.list()?;
    if selectors.is_empty() {
        return Err(at.error("at least one selector is required"));
    }
    selectors.into_iter().map(selector).collect()
}

fn selector(at: At<'_>) -> Result<Selector, PolicyError> {
    let fields = at.object(&["control_point", "service", "agent_group", "label_matcher"])?;
    let label_matcher = fields.get("label_matcher").map(matcher).transpose()?;
    Ok(Selector {
        control_point: Arc::from(fields.required_text("control_point")?),
        service: Arc::from(fields.text("service")?.unwrap_or("any")),
        agent_group: fields.text("agent_group")?.map(Arc::from),
        matcher: label_matcher.unwrap_or_default(),
    })
}

/// A label matcher: everything given must hold.
pub(super) fn matcher(at: At<'_>) -> Result<LabelMatcher, PolicyError> {
    let fields = at.object(&[
        "match_labels",
        "match_list",
        "match_expressions",
        "expression",
    ])?;
    let mut tests = Vec::new();
    if let Some(labels) = fields.get("match_labels") {
        for (label, value) in labels.free_map()? {
            tests.push(equals(label, value.text()?));
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
                old.warn("ignored beside `match_list`, whose old name it is");
            }
            tests.extend(list);
        }
        (_, _, old_list) => tests.extend(old_list.unwrap_or_default()),
    }
    if let Some(at) = fields.get("expression") {
        tests.push(expression(at)?);
    }
    Ok(LabelMatcher::new(tests))
}

fn equals(label: &str, value: &str) -> Test {
    Test::Equals {
        label: label.into(),
        value: value.into(),
    }
}

fn requirements(at: &At<'_>) -> Result<Vec<Test>, PolicyError> {
    at.list()?.into_iter().map(requirement).collect()
}

fn requirement(at: At<'_>) -> Result<Test, PolicyError> {
    let fields = at.object(&["key", "operator", "values"])?;
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
        // The Agent builds an alternation of the values; one of nothing matches the empty text.
        values.push("".into());
    }
    let one_of = |label, values: Vec<Box<str>>| Test::OneOf {
        label,
        values: values.into(),
    };
    Ok(match operator {
        "In" => one_of(label, values),
        "NotIn" => Test::Not(Box::new(one_of(label, values))),
        "Exists" => Test::Exists(label),
        _ => Test::Not(Box::new(Test::Exists(label))),
    })
}

fn expression(at: At<'_>) -> Result<Test, PolicyError> {
    const VARIANTS: &[&str] = &[
        "not",
        "all",
        "any",
        "label_exists",
        "label_equals",
        "label_matches",
    ];
    let place = at.clone();
    let fields = at.object(VARIANTS)?;
    let Some((variant, at)) = fields.only(VARIANTS)? else {
        let variants = VARIANTS.join(", ");
        return Err(place.error(format!("an expression is one of {variants}")));
    };
    Ok(match variant {
        "not" => Test::Not(Box::new(expression(at)?)),
        "all" => Test::All(operands(at)?),
        "any" => Test::Any(operands(at)?),
        "label_exists" => Test::Exists(at.text()?.into()),
        "label_equals" => {
            let fields = at.object(&["label", "value"])?;
            equals(
                fields.required_text("label")?,
                fields.text("value")?.unwrap_or_default(),
            )
        }
        _ => {
            let fields = at.object(&["label", "regex"])?;
            let label = fields.required_text("label")?.into();
            let source = fields.required_text("regex")?;
            let at = fields.required("regex")?;
            at.count_regex()?;
            let pattern = Pattern::new(source)
                .map_err(|reason| at.error(format!("not a valid regular expression: {reason}")))?;
            Test::Matches { label, pattern }
        }
    })
}

fn operands(at: At<'_>) -> Result<Box<[Test]>, PolicyError> {
    let fields = at.object(&["of"])?;
    let operands = fields.get("of").map(|list| list.list()).transpose()?;
    operands
        .unwrap_or_default()
        .into_iter()
        .map(expression)
        .collect()
}
