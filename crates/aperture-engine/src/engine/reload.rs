//! Replaces the policies of a running engine.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use super::EngineMode;
use super::clock::nanos;
use super::in_process::{Engine, EngineShared};
use super::loader::LoadedSnapshot;
use super::snapshot::Snapshot;
use super::source::{self, PolicySources, SourceContents};
use super::sync::{MutexGuard, lock};
use crate::policy::PolicyError;

impl<M: EngineMode> Engine<M> {
    /// Reads the files, folders and texts that the engine was built from again, and puts their
    /// content in force. Policies from code stay in force.
    ///
    /// Either all of it is put in force, or none. A component of the same policy name, ID, kind and
    /// `limit_by_label_key` keeps its state, whatever else of it changed: buckets, slots, queues,
    /// and the state of its control loop. A capacity that is raised from 5 to 6 gives each key one
    /// more token; a lower capacity takes effect as tokens are spent and slots are returned. Any
    /// other component starts fresh, with the limit that its control loop last set. Flows that run
    /// or wait end in the components where they began.
    ///
    /// Applies the content immediately, whereas a [watcher](Self::watch) waits until files have
    /// settled. Reads files, so call it where blocking is allowed. Concurrent calls run one after
    /// the other.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`build`](super::EngineBuilder::build). The policies in force do not
    /// change then.
    ///
    /// ```
    /// # use tower_aperture::{Engine, policy};
    /// # let folder = std::env::temp_dir().join(format!("reload-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let policy = |capacity| format!("
    /// # circuit:
    /// #   components:
    /// #   - flow_control:
    /// #       rate_limiter:
    /// #         selectors: [{{control_point: checkout}}]
    /// #         in_ports:
    /// #           bucket_capacity: {{constant_signal: {{value: {capacity}}}}}
    /// #           fill_amount: {{constant_signal: {{value: 1}}}}
    /// #         parameters: {{interval: 1s}}
    /// # ");
    /// let file = folder.join("limit.yaml");
    /// std::fs::write(&file, policy("10"))?;
    /// let engine = Engine::builder().policy_folder(&folder).build()?;
    ///
    /// std::fs::write(&file, policy("20"))?;
    /// engine.reload()?;
    ///
    /// std::fs::write(&file, policy("many"))?;
    /// let error = engine.reload().unwrap_err();
    /// assert!(error.to_string().contains("limit.yaml:8"), "{error}");
    /// # std::fs::remove_dir_all(&folder)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reload(&self) -> Result<(), PolicyError> {
        self.shared.reload()
    }

    /// Like [`reload`](Self::reload), but with the given policies: pairs of a name, as in
    /// [`policy_text`](super::EngineBuilder::policy_text), and a text. They replace all policies, also
    /// those from code. A later `reload` still reads the sources that the engine was built from.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`build`](super::EngineBuilder::build). The policies in force do not
    /// change then.
    ///
    /// ```
    /// use tower_aperture::Engine;
    ///
    /// let engine = Engine::builder().build()?;
    /// let error = engine.reload_with([("checkout.yaml", "circuit: none")]).unwrap_err();
    /// assert_eq!(error.file(), "checkout.yaml");
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    pub fn reload_with<N, T>(
        &self,
        policies: impl IntoIterator<Item = (N, T)>,
    ) -> Result<(), PolicyError>
    where
        N: Into<String>,
        T: Into<String>,
    {
        let texts = policies
            .into_iter()
            .map(|(name, text)| (name.into(), text.into()));
        let contents = SourceContents::of_texts(texts);
        let mut sources = self.shared.lock_sources();
        let result = self.shared.put_in_force(&mut sources, contents, None);
        self.shared.reloads.count(result.is_ok());
        result
    }

    /// Sets the dynamic configuration of a policy in force: a YAML or JSON mapping from
    /// `config_key`s to values, as `dynamicConfig` of a resource. It takes effect immediately and
    /// keeps all state.
    ///
    /// The mapping replaces that of an earlier call, and takes precedence over the policy's own
    /// `dynamicConfig` and a file `<policy>.dynamic.yaml`. It applies as long as the policy is in
    /// force; an empty mapping, `{}`, removes it. A key that no component of the policy has
    /// produces a [warning](Self::warnings). Returns false if no policy of this name is in force.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is not such a mapping, or if a value does not fit its
    /// component. Nothing changes then.
    ///
    /// ```
    /// use tower_aperture::engine::{CheckInput, Engine};
    /// use tower_aperture::FlowParams;
    ///
    /// let engine = Engine::builder()
    ///     .policy_text("rollout.yaml", "
    /// circuit:
    ///   components:
    ///   - variable:
    ///       constant_output: {value: 0}
    ///       config_key: share
    ///       out_ports: {output: {signal_name: SHARE}}
    ///   - flow_control:
    ///       sampler:
    ///         in_ports: {accept_percentage: {signal_name: SHARE}}
    ///         parameters: {selectors: [{control_point: checkout}]}
    /// ")
    ///     .build()?;
    /// let params = FlowParams::new();
    /// assert!(!engine.check(&CheckInput::new("checkout", &params)).accepted());
    ///
    /// assert!(engine.set_dynamic_config("rollout", "share: {value: 100}")?);
    /// assert!(engine.check(&CheckInput::new("checkout", &params)).accepted());
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    pub fn set_dynamic_config(
        &self,
        policy: &str,
        values: impl Into<String>,
    ) -> Result<bool, PolicyError> {
        let values: String = values.into();
        let mut sources = self.shared.lock_sources();
        if !self.shared.live.load().has_policy(policy) {
            return Ok(false);
        }
        let values = match values.trim() {
            "" | "{}" => None,
            _ => Some(Arc::from(values)),
        };
        let contents = sources.in_force.clone();
        let result = self
            .shared
            .put_in_force(&mut sources, contents, Some((policy, values)));
        self.shared.reloads.count(result.is_ok());
        result.map(|()| true)
    }
}

impl EngineShared {
    pub(super) fn lock_sources(&self) -> MutexGuard<'_, PolicySources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the sources and puts their contents in force.
    fn reload(&self) -> Result<(), PolicyError> {
        let _serialized = lock(&self.reload_lock);
        let list = Arc::clone(&self.lock_sources().list);
        // The sources are not locked meanwhile, because a file system may be slow.
        let contents = source::read(&list, true);
        let mut sources = self.lock_sources();
        match contents {
            Ok(contents) => self.apply_contents(&mut sources, contents),
            Err(error) => {
                sources.read_error = Some(error.clone());
                self.reloads.count(false);
                Err(error)
            }
        }
    }

    /// Reads the sources, and puts a change in force once enough consecutive polls have found the
    /// same contents. Returns true if a change was put in force.
    pub(super) fn poll(&self, pending: &mut PendingChange) -> Result<bool, PolicyError> {
        let _serialized = lock(&self.reload_lock);
        let list = Arc::clone(&self.lock_sources().list);
        let contents = source::read(&list, true);
        let mut sources = self.lock_sources();
        let polls = contents
            .and_then(|contents| Ok((contents.polls_needed_after(&sources.last_tried)?, contents)));
        let (needed_polls, contents) = match polls {
            Ok(polls) => polls,
            Err(error) => {
                *pending = PendingChange::default();
                // Count an error once, rather than at each poll that meets it.
                if sources.read_error.as_ref() != Some(&error) {
                    self.reloads.count(false);
                    sources.read_error = Some(error.clone());
                }
                return Err(error);
            }
        };
        sources.read_error = None;
        if needed_polls == 0 {
            *pending = PendingChange::default();
            return Ok(false);
        }
        pending.equal_polls = match pending.contents.as_ref() == Some(&contents) {
            true => pending.equal_polls + 1,
            false => 1,
        };
        if pending.equal_polls < needed_polls {
            pending.contents = Some(contents);
            return Ok(false);
        }
        *pending = PendingChange::default();
        self.apply_contents(&mut sources, contents).map(|()| true)
    }

    fn apply_contents(
        &self,
        sources: &mut PolicySources,
        contents: SourceContents,
    ) -> Result<(), PolicyError> {
        let result = self.put_in_force(sources, contents.clone(), None);
        sources.last_tried = contents;
        sources.read_error = None;
        sources.refusal = result.as_ref().err().cloned();
        self.reloads.count(result.is_ok());
        result
    }

    /// Puts policies in force. The caller holds the lock of the sources, so that reloads do not
    /// overlap. `override_change` sets, or removes, the dynamic configuration of a policy.
    fn put_in_force(
        &self,
        sources: &mut PolicySources,
        mut contents: SourceContents,
        override_change: Option<(&str, Option<Arc<str>>)>,
    ) -> Result<(), PolicyError> {
        let before = self.live.load_full();
        let mut overrides = sources.dynamic_overrides.clone();
        match override_change {
            Some((policy, Some(text))) => {
                overrides.insert(policy.into(), text);
            }
            Some((policy, None)) => {
                overrides.remove(policy);
            }
            None => {}
        }
        let loaded = Snapshot::load(&self.settings, &mut contents, &overrides, Some(&before))?;
        let LoadedSnapshot {
            snapshot,
            handovers,
        } = loaded;
        let now = nanos(self.settings.component_context.clock.now());
        for handover in handovers {
            handover.run(&self.settings.component_context, now);
        }
        overrides.retain(|policy, _| snapshot.has_policy(policy));
        let version = snapshot.index.selectors().version();
        self.live.store(snapshot.into());
        // Until here, flows may pass by the policies that were in force. Relaxed suffices: a flow
        // that passes reads nothing of the policies.
        self.version.store(version, Relaxed);
        sources.dynamic_overrides = overrides;
        sources.in_force = contents;
        Ok(())
    }
}

/// A change that a watcher has found and that has not settled yet.
#[derive(Debug, Default)]
pub(super) struct PendingChange {
    contents: Option<SourceContents>,
    /// The number of consecutive polls that found these contents.
    equal_polls: u32,
}
