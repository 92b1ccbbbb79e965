//! Loads policies: from their texts to a snapshot, with what is kept of the one before.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::clock::{Nanos, nanos};
use super::control::{Control, Loop};
use super::limiters::{Component, Surroundings};
use super::placed::Placed;
use super::queries::Queries;
use super::snapshot::{DEFAULT_GROUP, Known, Settings, Snapshot};
use super::source::{Document, Read, folder_and_file};
use crate::policy::{self, ComponentKind, LoadedPolicy, PolicyError, PolicyWarning, Selector};

/// What an absent `agent_group` of a selector means.
const ABSENT_GROUP: &str = "aperture-cloud";

/// A loaded snapshot, with the handovers that put it in force.
pub(super) struct Loading {
    pub(super) snapshot: Snapshot,
    pub(super) handovers: Vec<Handover>,
}

/// A component of a changed policy that takes over the state of the one before.
pub(super) struct Handover {
    from: Arc<Component>,
    to: Arc<Component>,
    known: Arc<Known>,
    /// The position of the component in its policy.
    at: usize,
}

impl Handover {
    pub(super) fn carry_out(&self, around: &Surroundings, now: Nanos) {
        let component = &self.known.loaded.policy.components[self.at];
        self.to.take_over(&self.from, &component.kind, around, now);
    }
}

/// The documents of dynamic configuration by folder and policy, each with a flag that a policy uses
/// it.
type DynamicFiles<'a> = HashMap<(&'a str, &'a str), (&'a Document, Cell<bool>)>;

impl Snapshot {
    /// Loads all policies, or none: the first error ends it. `before` stays as it is.
    ///
    /// A component that `before` has too keeps its state. A policy whose text is as before is not
    /// read again. `by_hand` holds dynamic configuration by policy.
    pub(super) fn load(
        settings: &Settings,
        read: &mut Read,
        by_hand: &HashMap<Arc<str>, Arc<str>>,
        before: Option<&Self>,
    ) -> Result<Loading, PolicyError> {
        let mut loader = Loader {
            settings,
            before,
            now: nanos(settings.surroundings.clock.now()),
            snapshot: Self::empty(settings),
            handovers: Vec::new(),
            queries: Queries::default(),
            fresh_warnings: read.warnings.clone(),
        };
        loader.snapshot.warnings.clone_from(&read.warnings);
        let dynamic: DynamicFiles<'_> = read
            .documents
            .iter()
            .filter_map(|document| Some((document.configures()?, (document, Cell::new(false)))))
            .collect();
        let mut policies = Vec::new();
        let documents = read.documents.iter();
        for document in documents.filter(|document| document.configures().is_none()) {
            let known = loader.read(document, &dynamic, by_hand)?;
            let in_force = loader.add(document, &known)?;
            policies.push((known, in_force));
        }
        for (document, used) in dynamic.values() {
            if !used.get() && !document.is_beside {
                let message = "has no effect: no policy beside it has this name";
                loader.warn(PolicyWarning::new(Arc::clone(&document.name), message));
            }
        }
        drop(dynamic);
        settings.dry_run.check(&loader.snapshot.policies)?;
        // Loops read flux meters of all policies.
        let loops = policies.iter().filter_map(|(known, in_force)| {
            let changed = loader.is_changed(known);
            loader.control_loop(known, in_force, changed)
        });
        let control = Control::new(loops.collect(), settings.signal_source.clone());
        loader.snapshot.control = control;
        // One copy of each text is enough.
        for document in &mut read.documents {
            if let Some(known) = loader.snapshot.known.get(&document.name)
                && known.text == document.text
            {
                document.text = Arc::clone(&known.text);
            }
        }
        for warning in &loader.fresh_warnings {
            tell(warning);
        }
        loader.snapshot.queries = loader.queries.into_vec();
        Ok(Loading {
            snapshot: loader.snapshot,
            handovers: loader.handovers,
        })
    }
}

/// One load.
struct Loader<'a> {
    settings: &'a Settings,
    before: Option<&'a Snapshot>,
    now: Nanos,
    snapshot: Snapshot,
    handovers: Vec<Handover>,
    queries: Queries,
    /// Warnings that the load before did not log.
    fresh_warnings: Vec<PolicyWarning>,
}

/// The components of a policy in force, by their ids.
type InForce = Vec<(Arc<str>, Arc<Component>)>;

impl Loader<'_> {
    fn warn(&mut self, warning: PolicyWarning) {
        self.fresh_warnings.push(warning.clone());
        self.snapshot.warnings.push(warning);
    }

    /// Returns true unless the same policy was in force before.
    fn is_changed(&self, known: &Arc<Known>) -> bool {
        let file = &known.file;
        let before = self.before.and_then(|before| before.known.get(file));
        !before.is_some_and(|before| Arc::ptr_eq(before, known))
    }

    /// Reads a policy, unless its text and its dynamic configuration are as before.
    fn read(
        &self,
        document: &Document,
        files: &DynamicFiles<'_>,
        by_hand: &HashMap<Arc<str>, Arc<str>>,
    ) -> Result<Arc<Known>, PolicyError> {
        let (folder, _) = folder_and_file(&document.name);
        let dynamic_of = |name: &str| {
            let file = files.get(&(folder, name));
            let file = file.or_else(|| files.get(&(folder, policy::stem(&document.name))));
            let mut dynamic = Vec::new();
            if let Some((file, used)) = file {
                used.set(true);
                dynamic.push((Arc::clone(&file.name), Arc::clone(&file.text)));
            }
            if let Some(text) = by_hand.get(name) {
                let source = format!("dynamic configuration of `{name}`");
                dynamic.push((Arc::from(source), Arc::clone(text)));
            }
            dynamic
        };
        let before = self
            .before
            .and_then(|before| before.known.get(&document.name));
        if let Some(before) = before
            && before.text == document.text
            && before.dynamic == dynamic_of(&before.loaded.policy.name)
        {
            return Ok(Arc::clone(before));
        }
        let loaded = policy::load_configured(&document.name, &document.text, &dynamic_of)?;
        let policy = &loaded.policy;
        let dry_run = self.settings.dry_run.of(&policy.name);
        let group = self.settings.agent_group.as_deref();
        let here = |selector: &Selector| applies(selector, group);
        Ok(Arc::new(Known {
            file: Arc::clone(&document.name),
            text: Arc::clone(&document.text),
            dynamic: dynamic_of(&policy.name),
            description: policy.describe(&here, dry_run.is_some()),
            circuit: Loop::<Component>::parameters(policy),
            loaded,
        }))
    }

    /// Adds a policy to the snapshot, and returns its components that are in force.
    fn add(&mut self, document: &Document, known: &Arc<Known>) -> Result<InForce, PolicyError> {
        let source = &document.name;
        let LoadedPolicy { policy, warnings } = &known.loaded;
        if !self.snapshot.policies.insert(Arc::clone(&policy.name)) {
            let message = format!(
                "another policy is named `{}` already: each needs a name of its own",
                policy.name
            );
            return Err(PolicyError::new(Arc::clone(source), message));
        }
        let settings = self.settings;
        let answers = settings.signal_source.is_some() || settings.surroundings.by_hand;
        if let (false, Some(error)) = (answers, policy.unanswered_queries.first()) {
            return Err(error.clone());
        }
        let changed = self.is_changed(known);
        let mut notes = warnings.clone();
        let group = settings.agent_group.as_deref();
        let dry_run = settings.dry_run.of(&policy.name);
        if changed && dry_run.is_some() {
            log_event!(warn, "policy `{}` turns nothing away: dry run", policy.name);
        }
        self.snapshot.description.push_str(&known.description);
        self.snapshot.compared.add_policy(policy);
        let mut others = BTreeSet::new();
        let mut in_force = Vec::new();
        for (at, component) in policy.components.iter().enumerate() {
            let (here, elsewhere) = split(&component.selectors, group);
            others.extend(elsewhere);
            if here.is_empty() {
                continue;
            }
            let before = self.before;
            let placed = before.and_then(|before| before.index.find(&policy.name, &component.id));
            let parameters = match placed {
                Some(placed) if !changed => Arc::clone(&placed.parameters),
                _ => parameters(&component.kind),
            };
            let state = placed.and_then(|placed| {
                if *placed.parameters == *parameters {
                    return Some(Arc::clone(&placed.limiter));
                }
                let around = &settings.surroundings;
                let next = Arc::new(placed.limiter.successor(&component.kind, around)?);
                self.handovers.push(Handover {
                    from: Arc::clone(&placed.limiter),
                    to: Arc::clone(&next),
                    known: Arc::clone(known),
                    at,
                });
                Some(next)
            });
            let placed = placed.filter(|_| state.is_some());
            let limiter = state.unwrap_or_else(|| {
                Arc::new(Component::new(&component.kind, &settings.surroundings))
            });
            self.snapshot.times_workloads |= limiter.times_workloads();
            let id = &component.id;
            let placed = Placed::new(policy, id, Arc::clone(&limiter), parameters, placed);
            let placed = placed.dry_run(dry_run.clone());
            self.snapshot.index.add(placed, &here);
            in_force.push((Arc::clone(id), limiter));
        }
        for classifier in &policy.classifiers {
            let (here, elsewhere) = split(&classifier.selectors, group);
            others.extend(elsewhere);
            if !here.is_empty() {
                self.snapshot.classifiers.add(policy, classifier, &here);
            }
        }
        for meter in &policy.flux_meters {
            let (here, elsewhere) = split(&meter.selectors, group);
            others.extend(elsewhere);
            let before = self.before.map(|before| &before.flux_meters);
            let meters = &mut self.snapshot.flux_meters;
            let measured = meters.add(&policy.name, meter, &here, before);
            let measured = measured.map_err(|flaw| {
                let message = format!("flux meter `{}`: {flaw}", meter.name);
                PolicyError::new(Arc::clone(source), message)
            })?;
            if !measured {
                let message = format!(
                    "flux meter `{}` stays empty: its attribute `{}` is not measured in process",
                    meter.name, meter.attribute_key
                );
                notes.push(PolicyWarning::new(Arc::clone(source), message));
            }
        }
        if !others.is_empty() {
            notes.push(left_out(source, &policy.name, group, &others));
        }
        if !in_force.is_empty() {
            self.queries.add(policy);
        }
        if changed {
            self.fresh_warnings.extend(notes.iter().cloned());
        }
        self.snapshot.warnings.extend(notes);
        let known = Arc::clone(known);
        self.snapshot.known.insert(Arc::clone(source), known);
        Ok(in_force)
    }

    /// Returns the loop of a policy, which continues the one before.
    fn control_loop(
        &self,
        known: &Known,
        in_force: &InForce,
        changed: bool,
    ) -> Option<Arc<Loop<Component>>> {
        if self.settings.surroundings.by_hand {
            return None;
        }
        let policy = &known.loaded.policy;
        let before = self
            .before
            .and_then(|before| before.control.of(&policy.name));
        if let Some(before) = before
            && !changed
            && before.drives(policy, in_force)
        {
            return Some(Arc::clone(before));
        }
        let meters = &self.snapshot.flux_meters;
        let circuit = known.circuit.clone();
        let before = before.map(|before| &**before);
        Loop::new(policy, in_force, meters, circuit, self.now, before).map(Arc::new)
    }
}

/// Returns a text that is equal for equal parameters, and only then.
///
/// `==` would not do: an invalid signal, NaN, does not equal itself.
fn parameters(kind: &ComponentKind) -> Arc<str> {
    Arc::from(format!("{kind:?}"))
}

/// Returns the selectors that apply, and the agent groups of the others.
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
