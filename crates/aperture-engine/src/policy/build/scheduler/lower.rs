//! Turns schedulers into components of a policy file.

use std::collections::HashSet;
use std::time::Duration;

use super::{Resource, Scheduler, Workload};
use crate::policy::PolicyError;
use crate::policy::build::field::FieldPath;
use crate::policy::build::flow_settings::text;
use crate::policy::build::limit::LimitKind;
use crate::policy::build::lower::{Lowering, flow_control};
use crate::policy::yaml::{Mapping, Value};

/// The time that a lookup in a bucket or in slots needs.
const MIN_LOOKUP_TIME: Duration = Duration::from_millis(10);

impl Scheduler {
    pub(in crate::policy::build) fn lower<'p>(
        &'p self,
        path: &FieldPath<'_>,
        lowering: &mut Lowering<'p>,
    ) -> Result<Value, PolicyError> {
        let selectors = lowering.selectors(&self.flows.selectors, path)?;
        let scheduler = self.queue(path)?.unless_empty();
        if let (Resource::Limit(_), Some(_)) = (&self.resource, self.tokens_by_latency) {
            return Err(path
                .name("tokens_by_latency")
                .error("is for schedulers by load; use `Scheduler::load`, or leave it out"));
        }
        let limit = match &self.resource {
            Resource::Limit(limit) => limit,
            Resource::Load(control) => {
                self.check_load(path)?;
                let parameters = Mapping::new()
                    .with("selectors", selectors)
                    .with_some("scheduler", scheduler)
                    .with_some("workload_latency_based_tokens", self.tokens_by_latency);
                return control.lower(parameters, path, lowering);
            }
        };
        let (kind, parameters_key, (in_ports, parameters)) = match &limit.0 {
            LimitKind::Rate(limit) => {
                let bucket = limit.bucket(&self.flows, path, true, lowering)?;
                ("quota_scheduler", "rate_limiter", bucket)
            }
            LimitKind::Concurrency(limit) => {
                let slots = limit.slot_fields(&self.flows, path, lowering)?;
                ("concurrency_scheduler", "concurrency_limiter", slots)
            }
        };
        let fields = Mapping::new()
            .with("selectors", selectors)
            .with("in_ports", in_ports)
            .with(parameters_key, parameters)
            .with_some("scheduler", scheduler);
        Ok(flow_control(kind, fields))
    }

    /// Refuses what a scheduler by load does not have.
    fn check_load(&self, path: &FieldPath<'_>) -> Result<(), PolicyError> {
        let flows = &self.flows;
        for (name, is_given) in [
            ("by", flows.key.is_some()),
            ("max_idle_time", flows.max_idle_time.is_some()),
            ("pass_through_while", flows.pass_through.is_some()),
        ] {
            if is_given {
                return Err(path.name(name).error(
                    "a scheduler by load has one queue for all flows; leave this out, or use \
                     `Scheduler::new` or `Scheduler::slots`",
                ));
            }
        }
        Ok(())
    }

    /// Returns the fields of `scheduler`.
    fn queue(&self, path: &FieldPath<'_>) -> Result<Mapping, PolicyError> {
        let mut names = HashSet::new();
        let mut workloads = Vec::new();
        for (index, workload) in self.workloads.iter().enumerate() {
            let path = path.name("workloads");
            let path = path.index(index);
            if !names.insert(workload.name.as_str()) {
                return Err(path.error(
                    "an earlier workload has the same name; give each workload, and each value \
                     of a label, once",
                ));
            }
            workloads.push(self.lower_workload(workload, &path)?);
        }
        let default = self.parameters(self.default_priority, self.default_tokens, None, path)?;
        let margin = self.deadline_margin;
        let margin = margin.map(|margin| path.name("deadline_margin").duration(margin));
        let label = |label: &Option<String>, name| text(label.as_deref(), &path.name(name));
        Ok(Mapping::new()
            .with_some("workloads", (!workloads.is_empty()).then_some(workloads))
            .with_some("default_workload_parameters", default.unless_empty())
            .with_some("decision_deadline_margin", margin.transpose()?)
            .with_some("tokens_label_key", self.flows.tokens_label_key(path)?)
            .with_some(
                "priority_label_key",
                label(&self.priority_label, "priority_label")?,
            )
            .with_some(
                "workload_label_key",
                label(&self.workload_label, "workload_label")?,
            )
            .with_some(
                "fairness_label_key",
                label(&self.fairness_label, "fair_by")?,
            )
            .with_some("denied_response_status_code", self.flows.status()))
    }

    fn lower_workload(
        &self,
        workload: &Workload,
        path: &FieldPath<'_>,
    ) -> Result<Value, PolicyError> {
        let name = path.name("name").text_value(workload.name.as_str())?;
        let matcher = workload.matcher.lower(&path.name("matcher"))?;
        let (priority, tokens) = (workload.priority, workload.tokens);
        let parameters = self.parameters(priority, tokens, workload.queue_for, path)?;
        let workload = Mapping::new()
            .with("name", name)
            .with("label_matcher", matcher)
            .with_some("parameters", parameters.unless_empty());
        Ok(workload.into())
    }

    /// Returns the parameters of a workload.
    fn parameters(
        &self,
        priority: Option<f64>,
        tokens: Option<f64>,
        queue_for: Option<Duration>,
        path: &FieldPath<'_>,
    ) -> Result<Mapping, PolicyError> {
        let priority = priority.map(|priority| {
            let otherwise = "a workload without a share would never be served";
            path.name("priority").positive(priority, otherwise)
        });
        let tokens = tokens.map(|tokens| {
            let otherwise = "a flow takes at least a part of a token";
            path.name("tokens").positive(tokens, otherwise)
        });
        let queue_for = queue_for.or(self.queue_for).map(|time| {
            let path = path.name("queue_for");
            match &self.resource {
                Resource::Limit(_) if time <= MIN_LOOKUP_TIME => Err(path.error(format!(
                    "{time:?} is too short, and every flow would be rejected: give more than 10 ms"
                ))),
                _ => path.duration(time),
            }
        });
        Ok(Mapping::new()
            .with_some("priority", priority.transpose()?)
            .with_some("tokens", tokens.transpose()?)
            .with_some("queue_timeout", queue_for.transpose()?))
    }
}
