//! `auto-scaling/pod-auto-scaler`: scaling, which has no effect here, and what stands beside it.

use super::Values;
use crate::policy::PolicyError;
use crate::policy::components;
use crate::policy::decode::At;
use crate::policy::model::Policy;

pub(super) fn expand<'t>(at: At<'t>, dynamic: &[At<'t>]) -> Result<Policy, PolicyError> {
    const CONTROLLERS: [&str; 2] = [
        "promql_scale_in_controllers",
        "promql_scale_out_controllers",
    ];
    let fields = at.object(&[
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
    let mut values = Values::new(&fields, dynamic)?;
    fields.required("scaling_backend")?.free_map()?;
    let dry_run = fields.boolean("dry_run", false)?;
    components::DryRun::new(dry_run, Some("dry_run"), &values.circuit)?;
    let place = values.place();
    components::auto_scale(
        &fields.at,
        &place,
        Vec::new(),
        Vec::new(),
        &mut values.circuit,
    );
    for key in CONTROLLERS {
        let Some(list) = fields.get(key) else {
            continue;
        };
        for at in list.list()? {
            let controller = at.object(&["query_string", "setpoint", "gradient", "alerter"])?;
            controller.required("query_string")?.text()?;
            // Where its query stands, which nothing asks here.
            values.place();
        }
    }
    values.components(&fields)?;
    values.finish()
}
