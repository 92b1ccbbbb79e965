//! `scheduler`: who goes first where flows queue.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{At, PolicyError, named, positive};
use crate::policy::decode::Object;
use crate::policy::model::{Scheduler, Workload, WorkloadParameters};
use crate::policy::yaml::shortened;
use crate::policy::{selector, status_code};

/// What the flows queue for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Under {
    /// A bucket or slots, which turn away what has 10 ms or less left.
    Lookups,
    /// A load multiplier, which does not look at deadlines when there is no queue.
    Load,
}

/// Time that a lookup needs at least.
const LOOKUP: Duration = Duration::from_millis(10);

/// The `scheduler` of a component; all defaults when there is none.
pub(super) fn read(parent: &Object<'_>, under: Under) -> Result<Scheduler, PolicyError> {
    let mut scheduler = Scheduler {
        workloads: Vec::new(),
        default_workload: plain(),
        decision_deadline_margin: LOOKUP,
        tokens_label_key: None,
        priority_label_key: None,
        workload_label_key: None,
        fairness_label_key: None,
        denied_response_status_code: 0,
    };
    let known = &[
        "workloads",
        "default_workload_parameters",
        "decision_deadline_margin",
        "tokens_label_key",
        "priority_label_key",
        "workload_label_key",
        "fairness_label_key",
        "denied_response_status_code",
    ];
    let Some(fields) = parent.object("scheduler", known)? else {
        return Ok(scheduler);
    };
    if let Some(list) = fields.get("workloads") {
        scheduler.workloads = workloads(&list, under)?;
    }
    scheduler.default_workload = parameters(&fields, "default_workload_parameters", under)?;
    if let Some(at) = fields.scalar("decision_deadline_margin") {
        scheduler.decision_deadline_margin = positive(at.duration()?);
    }
    for (key, place) in [
        ("tokens_label_key", &mut scheduler.tokens_label_key),
        ("priority_label_key", &mut scheduler.priority_label_key),
        ("workload_label_key", &mut scheduler.workload_label_key),
        ("fairness_label_key", &mut scheduler.fairness_label_key),
    ] {
        *place = fields.text(key)?.and_then(named);
    }
    if let Some(at) = fields.scalar("denied_response_status_code") {
        scheduler.denied_response_status_code = status_code::decode(&at)?;
    }
    Ok(scheduler)
}

fn workloads(list: &At<'_>, under: Under) -> Result<Vec<Workload>, PolicyError> {
    let mut taken: HashSet<String> = HashSet::from(["default".to_owned()]);
    let mut workloads = Vec::new();
    for (index, at) in list.list()?.into_iter().enumerate() {
        let fields = at.object(&["label_matcher", "name", "parameters"])?;
        let matcher = selector::matcher(fields.required("label_matcher")?)?;
        let index = index.to_string();
        taken.insert(index.clone());
        let name = fields.text("name")?.and_then(named);
        if let Some(name) = &name
            && !taken.insert((**name).to_owned())
        {
            let shown = shortened(name);
            return Err(fields.at.error(format!(
                "the name `{shown}` is taken: by another workload, by `default`, or by the index \
                 of a workload up to here"
            )));
        }
        workloads.push(Workload {
            matcher,
            label: name.unwrap_or_else(|| Arc::from(index)),
            parameters: parameters(&fields, "parameters", under)?,
        });
    }
    Ok(workloads)
}

fn plain() -> WorkloadParameters {
    WorkloadParameters {
        priority: 1.0,
        tokens: 1.0,
        queue_timeout: None,
    }
}

fn parameters(
    parent: &Object<'_>,
    key: &'static str,
    under: Under,
) -> Result<WorkloadParameters, PolicyError> {
    let mut parameters = plain();
    let known = &["priority", "tokens", "queue_timeout"];
    let Some(fields) = parent.object(key, known)? else {
        return Ok(parameters);
    };
    if let Some(at) = fields.scalar("priority") {
        parameters.priority = at.number()?;
        if parameters.priority.is_nan() || parameters.priority <= 0.0 {
            return Err(at.error("must be more than zero"));
        }
    }
    if let Some(at) = fields.scalar("tokens") {
        parameters.tokens = at.number()?;
        if parameters.tokens.is_nan() || parameters.tokens < 0.0 {
            return Err(at.error("must not be negative"));
        }
        if parameters.tokens == 0.0 {
            parameters.tokens = 1.0;
        } else if parameters.tokens.is_infinite() {
            at.warn("rejects every flow of this workload: nothing holds as many tokens");
        }
    }
    if let Some(at) = fields.scalar("queue_timeout") {
        let timeout = positive(at.duration()?);
        if timeout <= LOOKUP && under == Under::Lookups {
            at.warn(
                "rejects every flow of this workload: a lookup needs more than 10 ms; leave \
                 `queue_timeout` out to wait as long as the caller does",
            );
        }
        parameters.queue_timeout = Some(timeout);
    }
    Ok(parameters)
}
