//! Expands `auto-scaling/pod-auto-scaler`. Scaling has no effect here; the other components of the
//! file do.

use super::{BASE, BlueprintValues};
use crate::policy::PolicyError;
use crate::policy::components;
use crate::policy::decode::{DocumentNode, Field, FieldValue, Section};
use crate::policy::model::Policy;

/// The fields under `policy`.
pub(super) static FIELDS: Section = Section::new(
    "Pod auto scaler",
    &[
        BASE,
        &[
            Field::optional(
                "evaluation_interval",
                FieldValue::Unchecked("a duration", "1s"),
                "Not read.",
            ),
            Field::required("scaling_backend", FieldValue::Mapping, "What is scaled."),
            Field::optional(
                "scaling_parameters",
                FieldValue::Unchecked("a mapping", "{}"),
                "Not read.",
            ),
            Field::optional(
                "promql_scale_in_controllers",
                FieldValue::List(&CONTROLLER),
                "The controllers that remove.",
            ),
            Field::optional(
                "promql_scale_out_controllers",
                FieldValue::List(&CONTROLLER),
                "The controllers that add.",
            ),
            Field::with_default("dry_run", FieldValue::Boolean, "false", "Has no effect."),
        ],
    ],
);

static CONTROLLER: Section = Section::new(
    "Query controller",
    &[&[
        Field::required("query_string", FieldValue::Text, "A query in PromQL."),
        Field::optional(
            "setpoint",
            FieldValue::Unchecked("a number", "1"),
            "Not read.",
        ),
        Field::optional(
            "gradient",
            FieldValue::Unchecked("a mapping", "{}"),
            "Not read.",
        ),
        Field::optional(
            "alerter",
            FieldValue::Unchecked("a mapping", "{}"),
            "Not read.",
        ),
    ]],
);

pub(super) fn expand<'t>(
    node: DocumentNode<'t>,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    const CONTROLLERS: [&str; 2] = [
        "promql_scale_in_controllers",
        "promql_scale_out_controllers",
    ];
    let fields = node.object(&FIELDS)?;
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
            let controller = node.object(&CONTROLLER)?;
            controller.required("query_string")?.text()?;
            // Skips the index of its query, which is never sent here.
            values.next_location();
        }
    }
    values.add_components(&fields)?;
    values.finish()
}
