//! The policies in force, which a reload swaps as a whole.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::classify::Classifiers;
use super::clock::nanos;
use super::control::{Control, Loop, SignalSource};
use super::dry_run::DryRun;
use super::flux_meter::{FluxMeters, Matched};
use super::index::Index;
use super::limiters::{Component, Surroundings};
use super::placed::Placed;
use super::queries::{self, PolicyQuery};
use super::source::Read;
use super::stages::Flow;
use crate::policy::{self, ComparedValues, ComponentKind, PolicyError, PolicyWarning, Selector};

/// What an absent `agent_group` of a selector means.
const ABSENT_GROUP: &str = "aperture-cloud";
/// The group of an Agent that is given none.
pub(super) const DEFAULT_GROUP: &str = "default";

/// What holds for all policies, now and after a reload.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) agent_group: Option<String>,
    pub(super) surroundings: Surroundings,
    pub(super) signal_source: Option<Arc<dyn SignalSource>>,
    pub(super) dry_run: DryRun,
}

/// All that follows from the texts of the policies. Flows that began under an older one keep what
/// they use of it alive.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) index: Index,
    pub(super) classifiers: Classifiers,
    pub(super) flux_meters: FluxMeters,
    pub(super) control: Control<Component>,
    /// What labels are compared with.
    pub(super) compared: ComparedValues,
    /// Some load scheduler measures what its workloads take.
    pub(super) times_workloads: bool,
    pub(super) warnings: Vec<PolicyWarning>,
    /// What the signal source is asked.
    pub(super) queries: Vec<PolicyQuery>,
    /// What is in force, in plain words, policy by policy.
    pub(super) description: String,
}

impl Snapshot {
    /// Loads all policies, or none: the first error ends it.
    ///
    /// A component that `before` has too, by policy, id and parameters, goes on with its state.
    pub(super) fn load(
        settings: &Settings,
        read: Read,
        before: Option<&Self>,
    ) -> Result<Self, PolicyError> {
        let Read {
            texts,
            mut warnings,
        } = read;
        let mut index = Index::default();
        let mut classifiers = Classifiers::default();
        let mut flux_meters = FluxMeters::default();
        let mut compared = ComparedValues::default();
        let mut policies = Vec::new();
        let mut times_workloads = false;
        let mut names: HashSet<Arc<str>> = HashSet::new();
        let mut description = String::new();
        let mut asked = Vec::new();
        for (name, text) in texts {
            let loaded = policy::load(&name, &text)?;
            let policy = loaded.policy;
            if !names.insert(Arc::clone(&policy.name)) {
                let message = format!(
                    "another policy is named `{}` already: each needs a name of its own",
                    policy.name
                );
                return Err(PolicyError::new(&*name, message));
            }
            warnings.extend(loaded.warnings);
            let answers = settings.signal_source.is_some() || settings.surroundings.by_hand;
            if let (false, Some(error)) = (answers, policy.unanswered.first()) {
                return Err(error.clone());
            }

            let group = settings.agent_group.as_deref();
            let dry_run = settings.dry_run.of(&policy.name);
            if dry_run.is_some() {
                log_event!(warn, "policy `{}` turns nothing away: dry run", policy.name);
            }
            let here = |selector: &Selector| applies(selector, group);
            description.push_str(&policy.describe(&here, dry_run.is_some()));
            compared.add_policy(&policy);
            let mut others = BTreeSet::new();
            let mut in_force = Vec::new();
            for component in &policy.components {
                let (here, elsewhere) = split(&component.selectors, group);
                others.extend(elsewhere);
                if here.is_empty() {
                    continue;
                }
                let parameters = parameters(&component.kind);
                let known = before
                    .and_then(|before| before.index.find(&policy.name, &component.id, &parameters));
                let limiter = match known {
                    Some(known) => Arc::clone(&known.limiter),
                    None => Arc::new(Component::new(&component.kind, &settings.surroundings)),
                };
                times_workloads |= limiter.times_workloads();
                let placed = Placed::new(
                    &policy,
                    &component.id,
                    Arc::clone(&limiter),
                    parameters,
                    known,
                );
                index.add(placed.dry_run(dry_run.clone()), &here);
                in_force.push((component.id.clone(), limiter));
            }
            for classifier in &policy.classifiers {
                let (here, elsewhere) = split(&classifier.selectors, group);
                others.extend(elsewhere);
                if !here.is_empty() {
                    classifiers.add(&policy, classifier, &here);
                }
            }
            for meter in &policy.flux_meters {
                let (here, elsewhere) = split(&meter.selectors, group);
                others.extend(elsewhere);
                let before = before.map(|before| &before.flux_meters);
                let measured = flux_meters
                    .add(&policy.name, meter, &here, before)
                    .map_err(|flaw| {
                        PolicyError::new(&*name, format!("flux meter `{}`: {flaw}", meter.name))
                    })?;
                if !measured {
                    let message = format!(
                        "flux meter `{}` stays empty: its attribute `{}` is not measured in \
                         process",
                        meter.name, meter.attribute_key
                    );
                    warnings.push(PolicyWarning::new(&*name, message));
                }
            }
            if !others.is_empty() {
                warnings.push(left_out(&name, &policy.name, group, &others));
            }
            if !in_force.is_empty() {
                queries::add(&mut asked, &policy);
            }
            policies.push((policy, in_force));
        }
        settings.dry_run.check(&names)?;
        // When all flux meters are known.
        let now = nanos(settings.surroundings.clock.now());
        let loops = policies.iter().filter_map(|(policy, in_force)| {
            if settings.surroundings.by_hand {
                return None;
            }
            let parameters = Loop::<Component>::parameters(policy);
            let known = before.and_then(|before| before.control.find(&policy.name, &parameters));
            known.or_else(|| {
                Loop::new(policy, in_force, &flux_meters, parameters, now).map(Arc::new)
            })
        });
        let control = Control::new(loops.collect(), settings.signal_source.clone());
        for warning in &warnings {
            tell(warning);
        }
        Ok(Self {
            index,
            classifiers,
            flux_meters,
            control,
            compared,
            times_workloads,
            warnings,
            queries: asked,
            description,
        })
    }
}

impl Snapshot {
    /// Some component, classifier or flux meter of a policy is for the control point.
    pub(super) fn selects(&self, control_point: &str) -> bool {
        self.index.selects(control_point)
            || self.classifiers.selects(control_point)
            || self.flux_meters.selects(control_point)
    }

    /// Somebody wants to know how long some flows take.
    #[inline]
    pub(super) fn times_flows(&self) -> bool {
        self.times_workloads || !self.flux_meters.is_empty()
    }

    /// Who wants to know how long a flow takes.
    #[inline]
    pub(super) fn matched(&self, flow: &Flow<'_, '_>) -> Matched {
        let matched = self.flux_meters.matching(flow);
        if self.times_workloads {
            return matched.with_workloads(self.index.workloads(flow));
        }
        matched
    }
}

/// Equal for equal parameters, and only then.
///
/// Texts instead of `==`, for which a signal that is invalid would never equal itself.
fn parameters(kind: &ComponentKind) -> Box<str> {
    format!("{kind:?}").into_boxed_str()
}

/// The selectors that apply, and the groups of the others.
fn split<'a>(
    selectors: &'a [Selector],
    group: Option<&str>,
) -> (Vec<&'a Selector>, impl Iterator<Item = &'a str>) {
    let (here, elsewhere): (Vec<&Selector>, Vec<&Selector>) = selectors
        .iter()
        .partition(|selector| applies(selector, group));
    (here, elsewhere.into_iter().map(group_of))
}

fn tell(warning: &PolicyWarning) {
    log_event!(warn, "{warning}");
    let _ = warning;
}

fn group_of(selector: &Selector) -> &str {
    selector.agent_group.as_deref().unwrap_or(ABSENT_GROUP)
}

fn applies(selector: &Selector, group: Option<&str>) -> bool {
    match (group, selector.agent_group.as_deref()) {
        (Some(own), _) => group_of(selector) == own,
        (None, named) => named.is_none_or(|named| named == DEFAULT_GROUP),
    }
}

fn left_out(
    source: &str,
    policy: &str,
    group: Option<&str>,
    others: &BTreeSet<&str>,
) -> PolicyWarning {
    let others: Vec<String> = others.iter().map(|other| format!("`{other}`")).collect();
    let others = others.join(", ");
    let own = match group {
        Some(own) => format!("the engine's agent group is `{own}`"),
        None => format!("the engine has no agent group and stands for `{DEFAULT_GROUP}`"),
    };
    PolicyWarning::new(
        source,
        format!("policy `{policy}`: selectors of agent group {others} are left out, because {own}"),
    )
}
