//! Reads a policy file in any of its three forms and assembles the policy.

use std::sync::Arc;
use std::time::Duration;

use super::blueprint;
use super::circuit::CircuitBuilder;
use super::components::{NO_SCALING, positive_duration};
use super::decode::{DocumentNode, Field, FieldValue, Given, LoadContext, Section};
use super::model::Policy;
use super::resources::{RESOURCES, Resources};
use super::yaml::{self, Value, YamlNode, YamlValue};
use super::{DynamicConfigDocument, LoadedPolicy, PolicyError};

/// The evaluation interval of a policy that does not set one.
pub(super) const EVALUATION_INTERVAL: Duration = Duration::from_secs(1);

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
        if let Some(components) = fields.get("components") {
            circuit.read_list(&components, CircuitBuilder::ROOT, 0)?;
        }
    }
    let resources = Resources::read(&fields)?;
    finish(name, &content, circuit, interval, resources)
}

/// Folds the circuit and assembles the policy with its content hash.
pub(super) fn finish(
    name: &str,
    content: &DocumentNode<'_>,
    circuit: CircuitBuilder<'_>,
    evaluation_interval: Duration,
    resources: Resources,
) -> Result<Policy, PolicyError> {
    let scaling = circuit.scaling();
    let folded = circuit.fold(evaluation_interval)?;
    let Resources {
        classifiers,
        flux_meters,
    } = &resources;
    if let Some(node) = scaling
        && folded.deciding.is_empty()
        && classifiers.is_empty()
        && flux_meters.is_empty()
    {
        return Err(node.error(format!("{NO_SCALING}, and the policy does nothing else")));
    }
    #[cfg(not(feature = "rego"))]
    super::unset_labels::check(content, &folded.deciding, &resources)?;
    Ok(Policy {
        name: Arc::from(name),
        hash: Arc::from(hash(name, content)),
        components: folded.deciding,
        circuit: folded.circuit,
        classifiers: resources.classifiers,
        flux_meters: resources.flux_meters,
        unanswered_queries: folded.unanswered_queries,
        signals: folded.signals,
    })
}

/// Returns a hash of the decoded content, independent of its layout (128-bit FNV-1a). It identifies
/// the content and is no protection against forgery.
fn hash(name: &str, content: &DocumentNode<'_>) -> String {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let mut sink = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u128::from(byte)).wrapping_mul(PRIME);
        }
    };
    sink(&name.len().to_le_bytes());
    sink(name.as_bytes());
    content.digest(&mut sink);
    format!("{hash:032x}")
}

/// Returns the line and column of the first occurrence of `needle` in the text, comments included.
pub(super) fn find(text: &str, needle: &str) -> Option<(u32, u32)> {
    let offset = text.find(needle)?;
    let before = &text[..offset];
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    Some((u32::try_from(line).ok()?, u32::try_from(column).ok()?))
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
