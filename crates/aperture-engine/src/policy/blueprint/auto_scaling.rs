//! Expands `auto-scaling/pod-auto-scaler`. Scaling has no effect here; the other components of the
//! file do.

use super::BlueprintValues;
use crate::policy::PolicyError;
use crate::policy::components;
use crate::policy::decode::DocumentNode;
use crate::policy::model::Policy;

pub(super) fn expand<'t>(
    node: DocumentNode<'t>,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    const CONTROLLERS: [&str; 2] = [
        "promql_scale_in_controllers",
        "promql_scale_out_controllers",
    ];
    let fields = node.object(&[
        "policy_name",
        "components",
        "resources",
        "evaluation_interval",
        "scaling_backend",
        "scaling_parameters",
        "promql_scale_in_controllers",
        "promql_scale_out_controllers",
        "dry_run",
    ])?;
    let mut values = BlueprintValues::new(&fields, dynamic)?;
    fields.required("scaling_backend")?.free_map()?;
    let dry_run = fields.boolean("dry_run", false)?;
    components::DryRunSetting::new(dry_run, Some("dry_run"), &values.circuit)?;
    let location = values.next_location();
    components::auto_scale(
        &fields.node,
        &location,
        Vec::new(),
        Vec::new(),
        &mut values.circuit,
    );
    for key in CONTROLLERS {
        let Some(list) = fields.get(key) else {
            continue;
        };
        for node in list.list()? {
            let controller = node.object(&["query_string", "setpoint", "gradient", "alerter"])?;
            controller.required("query_string")?.text()?;
            // Skips the index of its query, which is never sent here.
            values.next_location();
        }
    }
    values.add_components(&fields)?;
    values.finish()
}
