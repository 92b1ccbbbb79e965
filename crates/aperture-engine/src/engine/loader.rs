//! Loads policies from their texts into a snapshot, reusing state of the snapshot before.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::clock::{Nanos, nanos};
use super::component::ComponentContext;
use super::component_entry::ComponentEntry;
use super::control::{Control, PolicyLoop};
use super::queries::QueryCollector;
use super::registry::Component;
use super::snapshot::{CachedPolicy, DEFAULT_GROUP, EngineSettings, Snapshot};
use super::source::{Document, SourceContents, folder_and_file};
use crate::policy::{self, ComponentKind, LoadedPolicy, PolicyError, PolicyWarning, Selector};

/// The agent group of a selector without `agent_group`.
const ABSENT_GROUP: &str = "aperture-cloud";

/// A loaded snapshot, with the handovers to run before it is put in force.
pub(super) struct LoadedSnapshot {
    pub(super) snapshot: Snapshot,
    pub(super) handovers: Vec<Handover>,
}

/// A component of a changed policy that takes over the state of its predecessor.
pub(super) struct Handover {
    from: Arc<Component>,
    to: Arc<Component>,
    cached: Arc<CachedPolicy>,
    /// The index of the component in its policy.
    component_index: usize,
}

impl Handover {
    pub(super) fn run(&self, around: &ComponentContext, now: Nanos) {
        let component = &self.cached.loaded.policy.components[self.component_index];
        self.to.take_over(&self.from, &component.kind, around, now);
    }
}

/// The documents of dynamic configuration by folder and policy, each with a flag that is set when a
/// policy uses it.
type DynamicFiles<'a> = HashMap<(&'a str, &'a str), (&'a Document, Cell<bool>)>;

impl Snapshot {
    /// Loads all policies, or none: the first error ends the load. Does not change `before`.
    ///
    /// A component that also exists in `before` keeps its state. A policy whose text is unchanged
    /// is not parsed again. `overrides` holds dynamic configuration by policy name.
    pub(super) fn load(
        settings: &EngineSettings,
        contents: &mut SourceContents,
        overrides: &HashMap<Arc<str>, Arc<str>>,
        before: Option<&Self>,
    ) -> Result<LoadedSnapshot, PolicyError> {
        let mut loader = Loader {
            settings,
            before,
            now: nanos(settings.component_context.clock.now()),
            snapshot: Self::empty(settings),
            handovers: Vec::new(),
            queries: QueryCollector::default(),
            new_warnings: contents.warnings.clone(),
        };
        loader.snapshot.warnings.clone_from(&contents.warnings);
        let dynamic: DynamicFiles<'_> = contents
            .documents
            .iter()
            .filter_map(|document| Some((document.configures()?, (document, Cell::new(false)))))
            .collect();
        let mut policies = Vec::new();
        let documents = contents.documents.iter();
        for document in documents.filter(|document| document.configures().is_none()) {
            let cached = loader.parse(document, &dynamic, overrides)?;
            let in_force = loader.add(document, &cached)?;
            policies.push((cached, in_force));
        }
        for (document, used) in dynamic.values() {
            if !used.get() && !document.is_beside {
                let message = "has no effect: no policy in its folder has this name";
                loader.warn(PolicyWarning::new(Arc::clone(&document.name), message));
            }
        }
        drop(dynamic);
        settings
            .dry_run
            .check_names(&loader.snapshot.policy_names)?;
        settings
            .adaptive
            .check_names(&loader.snapshot.policy_names)?;
        settings
            .counted_outcomes
            .check_names(&loader.snapshot.policy_names)?;
        // After all policies were added, because loops read flux meters of all policies.
        let loops = policies.iter().filter_map(|(cached, in_force)| {
            let changed = loader.is_changed(cached);
            loader.control_loop(cached, in_force, changed)
        });
        let control = Control::new(loops.collect(), settings.signal_source.clone());
        loader.snapshot.control = control;
        // Shares the text with the cached policy, so that only one copy stays in memory.
        for document in &mut contents.documents {
            if let Some(cached) = loader.snapshot.by_file.get(&document.name)
                && cached.text == document.text
            {
                document.text = Arc::clone(&cached.text);
            }
        }
        for warning in &loader.new_warnings {
            log_warning(warning);
        }
        loader.snapshot.queries = loader.queries.into_vec();
        Ok(LoadedSnapshot {
            snapshot: loader.snapshot,
            handovers: loader.handovers,
        })
    }
}

/// The state of one load.
struct Loader<'a> {
    settings: &'a EngineSettings,
    before: Option<&'a Snapshot>,
    now: Nanos,
    snapshot: Snapshot,
    handovers: Vec<Handover>,
    queries: QueryCollector,
    /// Warnings that the previous load did not log.
    new_warnings: Vec<PolicyWarning>,
}

/// The components of a policy that are in force, with their IDs.
type ComponentsInForce = Vec<(Arc<str>, Arc<Component>)>;

impl Loader<'_> {
    fn warn(&mut self, warning: PolicyWarning) {
        self.new_warnings.push(warning.clone());
        self.snapshot.warnings.push(warning);
    }

    /// Returns true unless the same policy was in force before.
    fn is_changed(&self, cached: &Arc<CachedPolicy>) -> bool {
        let file = &cached.file;
        let before = self.before.and_then(|before| before.by_file.get(file));
        !before.is_some_and(|before| Arc::ptr_eq(before, cached))
    }

    /// Parses a policy, unless its text and its dynamic configuration are unchanged.
    fn parse(
        &self,
        document: &Document,
        files: &DynamicFiles<'_>,
        overrides: &HashMap<Arc<str>, Arc<str>>,
    ) -> Result<Arc<CachedPolicy>, PolicyError> {
        let (folder, _) = folder_and_file(&document.name);
        let dynamic_for = |name: &str| {
            let file = files.get(&(folder, name));
            let file = file.or_else(|| files.get(&(folder, policy::stem(&document.name))));
            let mut dynamic = Vec::new();
            if let Some((file, used)) = file {
                used.set(true);
                dynamic.push((Arc::clone(&file.name), Arc::clone(&file.text)));
            }
            if let Some(text) = overrides.get(name) {
                let source = format!("dynamic configuration of `{name}`");
                dynamic.push((Arc::from(source), Arc::clone(text)));
            }
            dynamic
        };
        let before = self
            .before
            .and_then(|before| before.by_file.get(&document.name));
        if let Some(before) = before
            && before.text == document.text
            && before.dynamic == dynamic_for(&before.loaded.policy.name)
        {
            return Ok(Arc::clone(before));
        }
        let mut loaded = match &document.code {
            Some(code) => policy::load_document(code, &dynamic_for)?,
            None => policy::load_configured(&document.name, &document.text, &dynamic_for)?,
        };
        let adaptive = &self.settings.adaptive;
        adaptive.apply(&document.name, &mut loaded.policy)?;
        self.settings.counted_outcomes.set_on(&mut loaded.policy)?;
        let policy = &loaded.policy;
        let dry_run = self.settings.dry_run.counter_for(&policy.name);
        let group = self.settings.agent_group.as_deref();
        let applying = |selector: &Selector| applies(selector, group);
        Ok(Arc::new(CachedPolicy {
            file: Arc::clone(&document.name),
            text: Arc::clone(&document.text),
            dynamic: dynamic_for(&policy.name),
            description: policy.describe(&applying, dry_run.is_some()),
            circuit_text: PolicyLoop::<Component>::parameters(policy),
            loaded,
        }))
    }

    /// Adds a policy to the snapshot, and returns its components that are in force.
    fn add(
        &mut self,
        document: &Document,
        cached: &Arc<CachedPolicy>,
    ) -> Result<ComponentsInForce, PolicyError> {
        let source = &document.name;
        let LoadedPolicy { policy, warnings } = &cached.loaded;
        if !self.snapshot.policy_names.insert(Arc::clone(&policy.name)) {
            let mut others = self.snapshot.by_file.values();
            let other = others.find(|other| other.loaded.policy.name == policy.name);
            let other = other.map_or("another source", |other| &*other.file);
            let message = format!(
                "the name `{}` is taken by {other}: rename one of them, because names of policies \
                 must be unique",
                policy.name
            );
            return Err(PolicyError::new(Arc::clone(source), message));
        }
        let settings = self.settings;
        let has_answers =
            settings.signal_source.is_some() || settings.component_context.manual_signals;
        if let (false, Some(error)) = (has_answers, policy.unanswered_queries.first()) {
            return Err(error.clone());
        }
        let changed = self.is_changed(cached);
        let mut notes = warnings.clone();
        let group = settings.agent_group.as_deref();
        let dry_run = settings.dry_run.counter_for(&policy.name);
        if changed && dry_run.is_some() {
            log_event!(
                warn,
                "policy `{}` is in a dry run: it rejects no flow",
                policy.name
            );
        }
        self.snapshot.description.push_str(&cached.description);
        self.snapshot.compared.add_policy(policy);
        let mut left_out_groups = BTreeSet::new();
        let mut in_force = Vec::new();
        for (at, component) in policy.components.iter().enumerate() {
            let (applying, other_groups) = split_by_group(&component.selectors, group);
            left_out_groups.extend(other_groups);
            if applying.is_empty() {
                continue;
            }
            let before = self.before;
            let previous = before.and_then(|before| before.index.find(&policy.name, &component.id));
            let parameters = match previous {
                Some(previous) if !changed => Arc::clone(&previous.parameters),
                _ => parameters_text(&component.kind),
            };
            let context = &settings.component_context;
            let around = context.of_component(&policy.name, &component.id);
            let state = previous.and_then(|previous| {
                if *previous.parameters == *parameters {
                    return Some(Arc::clone(&previous.component));
                }
                let next = Arc::new(previous.component.successor(&component.kind, &around)?);
                self.handovers.push(Handover {
                    from: Arc::clone(&previous.component),
                    to: Arc::clone(&next),
                    cached: Arc::clone(cached),
                    component_index: at,
                });
                Some(next)
            });
            let previous = previous.filter(|_| state.is_some());
            let id = &component.id;
            let new = || Component::new(&component.kind, &around).map(Arc::new);
            let Some(placed) = state.or_else(new) else {
                let kind = component.kind.name();
                let message =
                    format!("the engine has no component of the kind `{kind}`, as `{id}`");
                return Err(PolicyError::new(Arc::clone(source), message));
            };
            self.snapshot.times_workloads |= placed.times_workloads();
            in_force.push((Arc::clone(id), Arc::clone(&placed)));
            let entry = ComponentEntry::new(policy, id, placed, parameters, previous);
            let entry = entry.dry_run(dry_run.clone());
            self.snapshot.index.add(entry, &applying);
        }
        for classifier in &policy.classifiers {
            let (applying, other_groups) = split_by_group(&classifier.selectors, group);
            left_out_groups.extend(other_groups);
            if !applying.is_empty() {
                self.snapshot.classifiers.add(policy, classifier, &applying);
            }
        }
        for meter in &policy.flux_meters {
            let (applying, other_groups) = split_by_group(&meter.selectors, group);
            left_out_groups.extend(other_groups);
            let before = self.before.map(|before| &before.flux_meters);
            let meters = &mut self.snapshot.flux_meters;
            let measured = meters.add(&policy.name, meter, &applying, before);
            let measured = measured.map_err(|error| {
                let message = format!("flux meter `{}`: {error}", meter.name);
                PolicyError::new(Arc::clone(source), message)
            })?;
            if !measured {
                let message = format!(
                    "flux meter `{}` stays empty: the engine does not measure its attribute `{}`",
                    meter.name, meter.attribute_key
                );
                notes.push(PolicyWarning::new(Arc::clone(source), message));
            }
        }
        if !left_out_groups.is_empty() {
            notes.push(left_out_warning(
                source,
                &policy.name,
                group,
                &left_out_groups,
            ));
        }
        if !in_force.is_empty() {
            self.queries.add(policy);
        }
        if changed {
            self.new_warnings.extend(notes.iter().cloned());
        }
        self.snapshot.warnings.extend(notes);
        let cached = Arc::clone(cached);
        self.snapshot.by_file.insert(Arc::clone(source), cached);
        Ok(in_force)
    }

    /// Returns the control loop of a policy, which continues the loop of the snapshot before.
    fn control_loop(
        &self,
        cached: &CachedPolicy,
        in_force: &ComponentsInForce,
        changed: bool,
    ) -> Option<Arc<PolicyLoop<Component>>> {
        if self.settings.component_context.manual_signals {
            return None;
        }
        let policy = &cached.loaded.policy;
        let before = self
            .before
            .and_then(|before| before.control.loop_of(&policy.name));
        if let Some(before) = before
            && !changed
            && before.drives(policy, in_force)
        {
            return Some(Arc::clone(before));
        }
        let meters = &self.snapshot.flux_meters;
        let circuit = cached.circuit_text.clone();
        let before = before.map(|before| &**before);
        PolicyLoop::new(policy, in_force, meters, circuit, self.now, before).map(Arc::new)
    }
}

/// Returns a text that is equal for equal parameters, and only for those.
///
/// `==` is not enough, because an invalid signal, NaN, does not equal itself.
fn parameters_text(kind: &ComponentKind) -> Arc<str> {
    Arc::from(format!("{kind:?}"))
}

/// Returns the selectors that apply, and the agent groups of the others.
fn split_by_group<'a>(
    selectors: &'a [Selector],
    group: Option<&str>,
) -> (Vec<&'a Selector>, impl Iterator<Item = &'a str>) {
    let (applying, other_groups): (Vec<&Selector>, Vec<&Selector>) = selectors
        .iter()
        .partition(|selector| applies(selector, group));
    (applying, other_groups.into_iter().map(effective_group))
}

fn log_warning(warning: &PolicyWarning) {
    log_event!(warn, "{warning}");
    let _ = warning;
}

fn effective_group(selector: &Selector) -> &str {
    selector.agent_group.as_deref().unwrap_or(ABSENT_GROUP)
}

fn applies(selector: &Selector, group: Option<&str>) -> bool {
    match (group, selector.agent_group.as_deref()) {
        (Some(own), _) => effective_group(selector) == own,
        (None, named) => named.is_none_or(|named| named == DEFAULT_GROUP),
    }
}

fn left_out_warning(
    source: &str,
    policy: &str,
    group: Option<&str>,
    left_out_groups: &BTreeSet<&str>,
) -> PolicyWarning {
    let left_out_groups: Vec<String> = left_out_groups
        .iter()
        .map(|other| format!("`{other}`"))
        .collect();
    let left_out_groups = left_out_groups.join(", ");
    let own = match group {
        Some(own) => format!("the engine's agent group is `{own}`"),
        None => format!("the engine has no agent group and stands for `{DEFAULT_GROUP}`"),
    };
    PolicyWarning::new(
        source,
        format!(
            "policy `{policy}`: selectors of agent group {left_out_groups} are left out, because {own}"
        ),
    )
}
