//! The forms a policy file may have.

use std::sync::Arc;
use std::time::Duration;

use super::blueprint;
use super::circuit::Circuit;
use super::components::{SCALES_NOTHING, more_than_zero};
use super::decode::{At, Context};
use super::model::Policy;
use super::resources::Resources;
use super::yaml::{self, Node, Value};
use super::{Dynamic, Loaded, PolicyError};

/// How often signals are evaluated where a policy does not say.
pub(super) const EVALUATION_INTERVAL: Duration = Duration::from_secs(1);

/// Reads a text in any of the forms: a `kind: Policy` resource, a bare policy, or a blueprint's
/// values.
pub(super) fn load(
    source: &str,
    text: &str,
    dynamic: &dyn Fn(&str) -> Vec<Dynamic>,
) -> Result<Loaded, PolicyError> {
    let file: Arc<str> = Arc::from(source);
    let root = yaml::read(&file, text)?;
    let strict = root.get("blueprint").is_some();
    let context = Context::new(file, strict);
    let documents = name_of(&root, source).map(dynamic).unwrap_or_default();
    let trees = documents.iter().map(|(name, text)| {
        let context = Context::new(Arc::clone(name), false);
        Ok((context, yaml::read(name, text)?))
    });
    let trees = trees.collect::<Result<Vec<_>, PolicyError>>()?;
    let policy = {
        let dynamic: Vec<At<'_>> = trees
            .iter()
            .map(|(context, root)| At::root(context, root))
            .collect();
        let at = At::root(&context, &root);
        if strict {
            blueprint::expand(at, text, &dynamic)?
        } else if ["spec", "metadata", "apiVersion", "kind"]
            .iter()
            .any(|key| root.get(key).is_some())
        {
            resource(at, &dynamic)?
        } else if root.get("circuit").is_some() || root.get("resources").is_some() {
            let mut circuit = Circuit::new(stem(source));
            for at in &dynamic {
                circuit.configure(at)?;
            }
            bare(at, stem(source), circuit)?
        } else if root.get("policy").is_some() {
            return Err(at.missing("blueprint"));
        } else {
            return Err(at.error(
                "expected a resource with `metadata` and `spec`, a policy with `circuit` or \
                 `resources`, or a blueprint's values with `blueprint` and `policy`",
            ));
        }
    };
    let mut warnings = context.into_warnings();
    for (context, _) in trees {
        warnings.extend(context.into_warnings());
    }
    Ok(Loaded { policy, warnings })
}

/// The policy's name, where it is easy to find; whether the policy is right is seen later.
fn name_of<'n>(root: &'n Node, source: &'n str) -> Option<&'n str> {
    let below = |node: &'n Node, key: &str| Some(&node.get(key)?.value);
    let name = if root.get("blueprint").is_some() {
        below(below(root, "policy")?, "policy_name")?
    } else if root.get("metadata").is_some() {
        below(below(root, "metadata")?, "name")?
    } else {
        return Some(stem(source));
    };
    match &name.value {
        Value::Scalar { raw, .. } => Some(raw),
        _ => None,
    }
}

/// The name of a bare policy: the file's without folder and extension.
pub(super) fn stem(source: &str) -> &str {
    let name = source.rsplit(['/', '\\']).next().unwrap_or(source);
    match name.rfind('.') {
        Some(dot) if dot > 0 => &name[..dot],
        _ => name,
    }
}

fn resource<'t>(at: At<'t>, configured: &[At<'t>]) -> Result<Policy, PolicyError> {
    // What else stands in metadata is the cluster's business.
    let metadata = at.peek("metadata").filter(|at| !at.is_null());
    let fields = at.object(&[
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        "dynamicConfig",
        "status",
    ])?;
    let metadata = metadata.ok_or_else(|| fields.at.missing("metadata"))?;
    let name = metadata
        .peek("name")
        .ok_or_else(|| metadata.missing("name"))?;
    let text = name.text()?;
    if text.is_empty() {
        return Err(name.error("must not be empty"));
    }
    let mut circuit = Circuit::new(text);
    let own = fields.get("dynamicConfig");
    for at in own.iter().chain(configured) {
        circuit.configure(at)?;
    }
    bare(fields.required("spec")?, text, circuit)
}

fn bare<'t>(at: At<'t>, name: &str, mut circuit: Circuit<'t>) -> Result<Policy, PolicyError> {
    let digest = at.clone();
    let fields = at.object(&["circuit", "resources"])?;
    if fields.get("circuit").is_none() && fields.get("resources").is_none() {
        return Err(fields
            .at
            .error("at least one of `circuit` and `resources` is required"));
    }
    let mut interval = EVALUATION_INTERVAL;
    if let Some(fields) = fields.object("circuit", &["evaluation_interval", "components"])? {
        if let Some(at) = fields.scalar("evaluation_interval") {
            interval = more_than_zero(&at)?;
        }
        if let Some(components) = fields.get("components") {
            circuit.read_list(&components, Circuit::ROOT, 0)?;
        }
    }
    let resources = Resources::read(&fields)?;
    finish(name, &digest, circuit, interval, resources)
}

/// Folds the circuit and gives the policy its identity.
pub(super) fn finish(
    name: &str,
    content: &At<'_>,
    circuit: Circuit<'_>,
    evaluation_interval: Duration,
    resources: Resources,
) -> Result<Policy, PolicyError> {
    let scaling = circuit.scaling();
    let folded = circuit.fold(evaluation_interval)?;
    let Resources {
        classifiers,
        flux_meters,
    } = &resources;
    if let Some(at) = scaling
        && folded.deciding.is_empty()
        && classifiers.is_empty()
        && flux_meters.is_empty()
    {
        return Err(at.error(format!(
            "{SCALES_NOTHING}, and the policy does nothing else"
        )));
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
        unanswered: folded.unanswered,
        signals: folded.signals,
    })
}

/// Identifies the content, whatever its layout; guards against nothing (128-bit FNV-1a).
fn hash(name: &str, content: &At<'_>) -> String {
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

/// What a values file must not hold anywhere, comments included, as `(line, column)`.
pub(super) fn find(text: &str, needle: &str) -> Option<(u32, u32)> {
    let at = text.find(needle)?;
    let before = &text[..at];
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
    fn a_bare_policy_is_named_after_its_file() {
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
