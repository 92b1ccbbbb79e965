//! Turns a policy into the document of a policy file.

use std::collections::BTreeSet;

use super::{Component, Policy};
use crate::policy::PolicyError;
use crate::policy::build::code_settings::CodeSettings;
use crate::policy::build::document::PolicyDocument;
use crate::policy::build::field::FieldPath;
use crate::policy::build::lower::{Lowering, Target};
use crate::policy::yaml::{Mapping, Value};

impl Policy {
    pub(super) fn document(&self, target: Target) -> Result<PolicyDocument, PolicyError> {
        let path = FieldPath::policy(&self.name);
        path.name("name").text_value(&self.name)?;
        let mut meters = BTreeSet::new();
        for (index, meter) in self.meters.iter().enumerate() {
            let path = path.name("meters");
            let path = path.index(index);
            path.name("name").check_key(&meter.name)?;
            if !meters.insert(&*meter.name) {
                return Err(path.error("an earlier flux meter has the same name; rename one"));
            }
        }
        let mut lowering = Lowering {
            policy: &self.name,
            target,
            selectors: &self.selectors,
            agent_group: self.agent_group.as_deref(),
            meters: meters.into_iter().collect(),
            signals: Vec::new(),
            nodes: Vec::new(),
            component_id: String::new(),
            code_settings: CodeSettings::default(),
        };
        if self.dry_run {
            let instead = format!(
                "leave it out, and call `EngineBuilder::dry_run({:?})` where the file is loaded",
                self.name
            );
            lowering.only_in_code(&path.name("dry_run"), &instead)?;
        }
        let mut spec = Mapping::new().with_some("circuit", self.circuit(&path, &mut lowering)?);
        spec = spec.with_some("resources", self.resources(&path, &lowering)?);
        let Some(spec) = spec.unless_empty() else {
            return Err(path.error("the policy has no part; add one by `limit` or `schedule`"));
        };
        let metadata = Mapping::new().with("name", self.name.as_str());
        let document = Mapping::new()
            .with("apiVersion", "fluxninja.com/v1alpha1")
            .with("kind", "Policy")
            .with("metadata", metadata)
            .with("spec", spec);
        Ok(PolicyDocument::new(
            &self.name,
            document,
            lowering.code_settings,
        ))
    }

    fn circuit<'p>(
        &'p self,
        path: &FieldPath<'_>,
        lowering: &mut Lowering<'p>,
    ) -> Result<Option<Mapping>, PolicyError> {
        let components_path = path.name("components");
        let mut components = Vec::new();
        for (index, component) in self.components.iter().enumerate() {
            let path = components_path.index(index);
            lowering.component_id = format!("root.{index}");
            components.push(component.lower(&path, lowering)?);
        }
        components.append(&mut lowering.nodes);
        let interval = self.evaluation_interval;
        let interval = interval.map(|interval| {
            let path = path.name("evaluation_interval");
            path.positive_duration(interval)
        });
        let circuit = Mapping::new()
            .with_some("evaluation_interval", interval.transpose()?)
            .with_some("components", (!components.is_empty()).then_some(components));
        Ok(circuit.unless_empty())
    }

    fn resources(
        &self,
        path: &FieldPath<'_>,
        lowering: &Lowering<'_>,
    ) -> Result<Option<Mapping>, PolicyError> {
        let classifiers_path = path.name("classifiers");
        let mut classifiers = Vec::new();
        for (index, classifier) in self.classifiers.iter().enumerate() {
            classifiers.push(classifier.lower(&classifiers_path.index(index), lowering)?);
        }
        let meters_path = path.name("meters");
        let mut meters = Mapping::new();
        for (index, meter) in self.meters.iter().enumerate() {
            let fields = meter.lower(&meters_path.index(index), lowering)?;
            meters = meters.with(meter.name.clone(), fields);
        }
        let flow_control = Mapping::new()
            .with_some(
                "classifiers",
                (!classifiers.is_empty()).then_some(classifiers),
            )
            .with_some("flux_meters", meters.unless_empty());
        let flow_control = flow_control.unless_empty();
        Ok(flow_control.map(|flow_control| Mapping::new().with("flow_control", flow_control)))
    }
}

impl Component {
    fn lower<'p>(
        &'p self,
        path: &FieldPath<'_>,
        lowering: &mut Lowering<'p>,
    ) -> Result<Value, PolicyError> {
        match self {
            Self::Limit(limit) => limit.lower(path, lowering),
            Self::Schedule(scheduler) => scheduler.lower(path, lowering),
            Self::Sample(sampler) => sampler.lower(path, lowering),
            Self::Ramp(ramp) => ramp.lower(path, lowering),
        }
    }
}
