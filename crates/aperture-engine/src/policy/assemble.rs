//! Assembles a policy from its circuit and its resources.

use std::sync::Arc;
use std::time::Duration;

use super::PolicyError;
use super::circuit::CircuitBuilder;
use super::components::NO_SCALING;
use super::decode::DocumentNode;
use super::model::Policy;
use super::resources::Resources;

/// The evaluation interval of a policy that does not set one.
pub(super) const EVALUATION_INTERVAL: Duration = Duration::from_secs(1);

/// Folds the circuit and assembles the policy with its content hash.
pub(super) fn assemble(
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
