//! Reads `scheduler`: the priorities and parameters of queued flows.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{DENIED_STATUS, DocumentNode, PolicyError, non_empty, non_negative};
use crate::policy::decode::{Bounds, Field, FieldValue, Object, Section};
use crate::policy::model::{Scheduler, Workload, WorkloadParameters};
use crate::policy::yaml::shortened;
use crate::policy::{selector, status_code};

/// The `scheduler` of a component.
pub(super) const SCHEDULER: Field = Field::optional(
    "scheduler",
    FieldValue::Section(&FIELDS),
    "The queue. Without it, all flows have the same priority.",
);

static FIELDS: Section = Section::new(
    "Scheduler",
    &[&[
        Field::optional(
            "workloads",
            FieldValue::List(&WORKLOAD),
            "The workloads. The first one that matches a flow applies.",
        ),
        Field::optional(
            "default_workload_parameters",
            FieldValue::Section(&WORKLOAD_PARAMETERS),
            "The parameters of flows that match no workload.",
        ),
        Field::with_default(
            "decision_deadline_margin",
            FieldValue::Duration,
            "0.01s",
            "How long before its deadline a flow leaves the queue.",
        ),
        Field::optional(
            "tokens_label_key",
            FieldValue::Text,
            "The label with the number of tokens that a flow takes, in place of `tokens` of the \
             workload.",
        ),
        Field::optional(
            "priority_label_key",
            FieldValue::Text,
            "The label with the priority, in place of that of the workload.",
        ),
        Field::optional(
            "workload_label_key",
            FieldValue::Text,
            "The label whose value is the name of the workload.",
        ),
        Field::optional(
            "fairness_label_key",
            FieldValue::Text,
            "The label whose values get equal shares of a workload, such as the user.",
        ),
        DENIED_STATUS,
    ]],
);

static WORKLOAD: Section = Section::new(
    "Workload",
    &[&[
        Field::required(
            "label_matcher",
            FieldValue::Section(&selector::MATCHER),
            "The condition on the labels of its flows.",
        ),
        Field::optional(
            "name",
            FieldValue::Text,
            "The name, unique among the workloads; the index in the list without it.",
        ),
        Field::optional(
            "parameters",
            FieldValue::Section(&WORKLOAD_PARAMETERS),
            "The parameters of its flows.",
        ),
    ]],
);

static WORKLOAD_PARAMETERS: Section = Section::new(
    "Workload parameters",
    &[&[
        Field::with_default(
            "priority",
            FieldValue::Number(Bounds::MoreThan(0.0)),
            "1",
            "The share of the workload among the workloads with waiting flows.",
        ),
        Field::with_default(
            "tokens",
            FieldValue::Number(Bounds::AtLeast(0.0)),
            "1",
            "The tokens that a flow takes. Zero counts as one.",
        ),
        Field::optional(
            "queue_timeout",
            FieldValue::Duration,
            "The longest time in the queue. Without it, a flow waits as long as its check may take.",
        ),
    ]],
);

/// The resource for which flows queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueResource {
    /// A bucket or slots, which reject a flow with 10 ms or less until its deadline.
    TokensOrSlots,
    /// A load multiplier, which ignores deadlines while the queue is empty.
    LoadMultiplier,
}

/// The minimum time of a lookup in a bucket or in slots.
const MIN_LOOKUP_TIME: Duration = Duration::from_millis(10);

/// Reads the `scheduler` of a component; all defaults if it is absent.
pub(super) fn read(parent: &Object<'_>, resource: QueueResource) -> Result<Scheduler, PolicyError> {
    let mut scheduler = Scheduler {
        workloads: Vec::new(),
        default_workload: default_parameters(),
        decision_deadline_margin: MIN_LOOKUP_TIME,
        tokens_label_key: None,
        priority_label_key: None,
        workload_label_key: None,
        fairness_label_key: None,
        denied_response_status_code: 0,
    };
    let Some(fields) = parent.object("scheduler", &FIELDS)? else {
        return Ok(scheduler);
    };
    if let Some(list) = fields.get("workloads") {
        scheduler.workloads = workloads(&list, resource)?;
    }
    scheduler.default_workload = parameters(&fields, "default_workload_parameters", resource)?;
    if let Some(node) = fields.scalar("decision_deadline_margin") {
        scheduler.decision_deadline_margin = non_negative(node.duration()?);
    }
    for (key, target) in [
        ("tokens_label_key", &mut scheduler.tokens_label_key),
        ("priority_label_key", &mut scheduler.priority_label_key),
        ("workload_label_key", &mut scheduler.workload_label_key),
        ("fairness_label_key", &mut scheduler.fairness_label_key),
    ] {
        *target = fields.text(key)?.and_then(non_empty);
    }
    if let Some(node) = fields.scalar("denied_response_status_code") {
        scheduler.denied_response_status_code = status_code::decode(&node)?;
    }
    Ok(scheduler)
}

fn workloads(
    list: &DocumentNode<'_>,
    resource: QueueResource,
) -> Result<Vec<Workload>, PolicyError> {
    let mut taken: HashSet<String> = HashSet::from(["default".to_owned()]);
    let mut workloads = Vec::new();
    for (index, node) in list.list()?.into_iter().enumerate() {
        let fields = node.object(&WORKLOAD)?;
        let matcher = selector::matcher(fields.required("label_matcher")?)?;
        let index = index.to_string();
        taken.insert(index.clone());
        let name = fields.text("name")?.and_then(non_empty);
        if let Some(name) = &name
            && !taken.insert((**name).to_owned())
        {
            let shown = shortened(name);
            return Err(fields.node.error(format!(
                "the name `{shown}` is taken by another workload, by `default`, or by the index of \
                 this or an earlier workload"
            )));
        }
        workloads.push(Workload {
            matcher,
            label: name.unwrap_or_else(|| Arc::from(index)),
            parameters: parameters(&fields, "parameters", resource)?,
        });
    }
    Ok(workloads)
}

fn default_parameters() -> WorkloadParameters {
    WorkloadParameters {
        priority: 1.0,
        tokens: 1.0,
        queue_timeout: None,
    }
}

fn parameters(
    parent: &Object<'_>,
    key: &'static str,
    resource: QueueResource,
) -> Result<WorkloadParameters, PolicyError> {
    let mut parameters = default_parameters();
    let Some(fields) = parent.object(key, &WORKLOAD_PARAMETERS)? else {
        return Ok(parameters);
    };
    if let Some(node) = fields.scalar("priority") {
        parameters.priority = node.number()?;
        if parameters.priority.is_nan() || parameters.priority <= 0.0 {
            return Err(node.error("must be more than zero"));
        }
    }
    if let Some(node) = fields.scalar("tokens") {
        parameters.tokens = node.number()?;
        if parameters.tokens.is_nan() || parameters.tokens < 0.0 {
            return Err(node.error("must not be negative"));
        }
        if parameters.tokens == 0.0 {
            parameters.tokens = 1.0;
        } else if parameters.tokens.is_infinite() {
            node.warn("rejects every flow of this workload: the number of tokens is infinite");
        }
    }
    if let Some(node) = fields.scalar("queue_timeout") {
        let timeout = non_negative(node.duration()?);
        if timeout <= MIN_LOOKUP_TIME && resource == QueueResource::TokensOrSlots {
            node.warn(
                "rejects every flow of this workload: a lookup needs more than 10 ms; leave \
                 `queue_timeout` out to wait as long as the caller does",
            );
        }
        parameters.queue_timeout = Some(timeout);
    }
    Ok(parameters)
}
