//! Reads a policy file in any of its three forms.

use std::sync::Arc;

use super::assemble::{EVALUATION_INTERVAL, assemble};
use super::blueprint;
use super::circuit::CircuitBuilder;
use super::components::{self, positive_duration};
use super::decode::{DocumentNode, Field, FieldValue, Given, LoadContext, Section};
use super::model::Policy;
use super::resources::{RESOURCES, Resources};
use super::yaml::{self, Value, YamlNode, YamlValue};
use super::{DynamicConfigDocument, LoadedPolicy, PolicyError};

/// The fields of a policy as a resource of a cluster.
pub(super) static RESOURCE: Section = Section::new(
    "Policy resource",
    &[&[
        Field::optional(
            "apiVersion",
            FieldValue::Unchecked("text", "fluxninja.com/v1alpha1"),
            "Not read.",
        ),
        Field::optional("kind", FieldValue::Unchecked("text", "Policy"), "Not read."),
        Field::required(
            "metadata",
            FieldValue::Unchecked("a mapping with `name`", "{name: policy}"),
            "`name` is the name of the policy. Other fields are for the cluster.",
        ),
        Field::required("spec", FieldValue::Section(&POLICY), "The policy."),
        Field::optional(
            "dynamicConfig",
            FieldValue::Mapping,
            "Values for the config keys of components.",
        ),
        Field::optional(
            "status",
            FieldValue::Unchecked("any value", "{}"),
            "Not read.",
        ),
    ]],
);

/// The fields of a bare policy.
pub(super) static POLICY: Section = Section::choice(
    "Policy",
    Given::AtLeastOne,
    &[&[
        Field::optional("circuit", FieldValue::Section(&CIRCUIT), "The circuit."),
        RESOURCES,
    ]],
);

static CIRCUIT: Section = Section::new(
    "Circuit",
    &[&[
        Field::with_default(
            "evaluation_interval",
            FieldValue::PositiveDuration,
            "1s",
            "The time between two evaluations of signals that change.",
        ),
        Field::optional(
            "components",
            FieldValue::Components,
            "The components, with the ids `root.0`, `root.1` and so on.",
        ),
    ]],
);

/// Reads a text in any of the forms: a `kind: Policy` resource, a bare policy, or the values of a
/// blueprint.
pub(super) fn load(
    source: &str,
    text: &str,
    dynamic: &dyn Fn(&str) -> Vec<DynamicConfigDocument>,
) -> Result<LoadedPolicy, PolicyError> {
    let file: Arc<str> = Arc::from(source);
    let root = yaml::read(&file, text)?;
    read_tree(&file, &root, text, dynamic)
}

/// Reads a policy that was built in code: a `kind: Policy` resource, by the rules of files.
pub(super) fn load_value(
    source: &str,
    document: &Value,
    dynamic: &dyn Fn(&str) -> Vec<DynamicConfigDocument>,
) -> Result<LoadedPolicy, PolicyError> {
    let file: Arc<str> = Arc::from(source);
    let root = document.to_node();
    if root.size() > yaml::MAX_NODES {
        let message = format!("more than {} values in one policy", yaml::MAX_NODES);
        return Err(PolicyError::new(file, message));
    }
    let mut loaded = read_tree(&file, &root, "", dynamic)?;
    // A control loop must have an alerter. The author of the code did not write it.
    loaded
        .warnings
        .retain(|warning| !warning.field().ends_with(".alerter"));
    Ok(loaded)
}

/// Reads the tree of a policy in any of the forms. `text` is searched for placeholders.
fn read_tree(
    source: &Arc<str>,
    root: &YamlNode,
    text: &str,
    dynamic: &dyn Fn(&str) -> Vec<DynamicConfigDocument>,
) -> Result<LoadedPolicy, PolicyError> {
    let strict = root.get("blueprint").is_some();
    let context = LoadContext::new(Arc::clone(source), strict);
    let documents = name_of(root, source).map(dynamic).unwrap_or_default();
    let trees = documents.iter().map(|(name, text)| {
        let context = LoadContext::new(Arc::clone(name), false);
        Ok((context, yaml::read(name, text)?))
    });
    let trees = trees.collect::<Result<Vec<_>, PolicyError>>()?;
    let policy = {
        let dynamic: Vec<DocumentNode<'_>> = trees
            .iter()
            .map(|(context, root)| DocumentNode::root(context, root))
            .collect();
        let node = DocumentNode::root(&context, root);
        if strict {
            blueprint::expand(node, text, &dynamic)?
        } else if ["spec", "metadata", "apiVersion", "kind"]
            .iter()
            .any(|key| root.get(key).is_some())
        {
            resource(node, &dynamic)?
        } else if root.get("circuit").is_some() || root.get("resources").is_some() {
            let mut circuit = CircuitBuilder::new(stem(source));
            for node in &dynamic {
                circuit.add_dynamic_config(node)?;
            }
            bare(node, stem(source), circuit)?
        } else if root.get("policy").is_some() {
            return Err(node.missing("blueprint"));
        } else {
            return Err(node.error(
                "expected a resource with `metadata` and `spec`, a policy with `circuit` or \
                 `resources`, or a blueprint's values with `blueprint` and `policy`",
            ));
        }
    };
    let mut warnings = context.into_warnings();
    for (context, _) in trees {
        warnings.extend(context.into_warnings());
    }
    Ok(LoadedPolicy { policy, warnings })
}

/// Returns the name of the policy for the lookup of dynamic configuration, or `None` if it is not
/// where it should be. Errors in the policy are reported later.
fn name_of<'n>(root: &'n YamlNode, source: &'n str) -> Option<&'n str> {
    let below = |node: &'n YamlNode, key: &str| Some(&node.get(key)?.value);
    let name = if root.get("blueprint").is_some() {
        below(below(root, "policy")?, "policy_name")?
    } else if root.get("metadata").is_some() {
        below(below(root, "metadata")?, "name")?
    } else {
        return Some(stem(source));
    };
    match &name.value {
        YamlValue::Scalar { raw, .. } => Some(raw),
        _ => None,
    }
}

/// Returns the file name without folder and extension, which is the name of a bare policy.
pub(super) fn stem(source: &str) -> &str {
    let name = source.rsplit(['/', '\\']).next().unwrap_or(source);
    match name.rfind('.') {
        Some(dot) if dot > 0 => &name[..dot],
        _ => name,
    }
}

fn resource<'t>(
    node: DocumentNode<'t>,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    // The other fields of `metadata` are for the cluster, so unknown keys are not checked here.
    let metadata = node.peek("metadata").filter(|node| !node.is_null());
    let fields = node.object(&RESOURCE)?;
    let metadata = metadata.ok_or_else(|| fields.node.missing("metadata"))?;
    let name = metadata
        .peek("name")
        .ok_or_else(|| metadata.missing("name"))?;
    let text = name.text()?;
    if text.is_empty() {
        return Err(name.error("must not be empty"));
    }
    let mut circuit = CircuitBuilder::new(text);
    let own = fields.get("dynamicConfig");
    for node in own.iter().chain(dynamic) {
        circuit.add_dynamic_config(node)?;
    }
    bare(fields.required("spec")?, text, circuit)
}

fn bare<'t>(
    node: DocumentNode<'t>,
    name: &str,
    mut circuit: CircuitBuilder<'t>,
) -> Result<Policy, PolicyError> {
    let content = node.clone();
    let fields = node.object(&POLICY)?;
    if fields.get("circuit").is_none() && fields.get("resources").is_none() {
        return Err(fields
            .node
            .error("at least one of `circuit` and `resources` is required"));
    }
    let mut interval = EVALUATION_INTERVAL;
    if let Some(fields) = fields.object("circuit", &CIRCUIT)? {
        if let Some(node) = fields.scalar("evaluation_interval") {
            interval = positive_duration(&node)?;
        }
        if let Some(list) = fields.get("components") {
            components::read_list(&list, CircuitBuilder::ROOT, 0, &mut circuit)?;
        }
    }
    let resources = Resources::read(&fields)?;
    assemble(name, &content, circuit, interval, resources)
}

#[cfg(test)]
mod tests {
    use super::stem;

    #[test]
    fn stem_strips_folder_and_extension() {
        for (source, name) in [
            ("policies/shop.yaml", "shop"),
            ("shop", "shop"),
            ("a\\b.v2.yml", "b.v2"),
            (".hidden", ".hidden"),
            ("", ""),
        ] {
            assert_eq!(stem(source), name);
        }
    }
}
