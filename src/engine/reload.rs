//! Changing the policies of an engine that runs.

use std::sync::{Arc, PoisonError};

use super::clock::nanos;
use super::loader::Loading;
use super::snapshot::Snapshot;
use super::source::{self, Read, Sources};
use super::store::lock;
use super::sync::MutexGuard;
use super::{Engine, Shared};
use crate::policy::PolicyError;

impl Engine {
    /// Reads the files, folders and texts that the engine was built from once more, and puts what
    /// they say now in force.
    ///
    /// All of it is put in force, or nothing. A component of the same policy name, id, kind and
    /// `limit_by_label_key` goes on with its state, whatever else of it changed: buckets, slots,
    /// queues, and what its control loop has come to. A capacity that is raised from 5 to 6 gives
    /// each key one more token; one that is lowered takes effect as tokens are spent and slots come
    /// free. Any other component starts fresh, with the limit that its control loop last drove. Flows
    /// that run or wait end where they began.
    ///
    /// Takes what is there, at once; a [watcher](Self::watch) waits until files have settled. Reads
    /// files, so call it where blocking is fine. Calls from several threads follow each other.
    ///
    /// # Errors
    ///
    /// As [`build`](super::EngineBuilder::build). Nothing changes then.
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

    /// Like [`reload`](Self::reload), with these policies instead: names, as
    /// [`policy_text`](super::EngineBuilder::policy_text) has them, and texts. What the engine was
    /// built from stays what `reload` reads.
    ///
    /// # Errors
    ///
    /// As [`build`](super::EngineBuilder::build). Nothing changes then.
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
        let read = Read::of_texts(texts);
        let mut sources = self.shared.lock_sources();
        let result = self.shared.put_in_force(&mut sources, read, None);
        self.shared.reloads.count(result.is_ok());
        result
    }

    /// Sets the dynamic configuration of a policy in force: a YAML or JSON mapping from
    /// `config_key`s to values, as `dynamicConfig` of a resource has it. It takes effect at once
    /// and touches no state.
    ///
    /// It stands in the place of what was set so before, and goes before the policy's own
    /// `dynamicConfig` and a file `<policy>.dynamic.yaml`. It holds for as long as the policy is
    /// in force; an empty mapping, `{}`, removes it. A key that no component of the policy has is
    /// told by [`warnings`](Self::warnings). Returns false when no such policy is in force.
    ///
    /// # Errors
    ///
    /// When the text is no such mapping, or a value does not fit its component. Nothing changes
    /// then.
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
        let read = sources.in_force.clone();
        let result = self
            .shared
            .put_in_force(&mut sources, read, Some((policy, values)));
        self.shared.reloads.count(result.is_ok());
        result.map(|()| true)
    }
}

impl Shared {
    pub(super) fn lock_sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the sources and puts them in force.
    fn reload(&self) -> Result<(), PolicyError> {
        let _in_turn = lock(&self.reading);
        let list = Arc::clone(&self.lock_sources().list);
        // Not locked meanwhile: a file system may take its time.
        let read = source::read(&list, true);
        let mut sources = self.lock_sources();
        match read {
            Ok(read) => self.try_read(&mut sources, read),
            Err(error) => {
                sources.unreadable = Some(error.clone());
                self.reloads.count(false);
                Err(error)
            }
        }
    }

    /// Reads the sources, and puts a change in force once enough polls have found the same.
    pub(super) fn poll(&self, poll: &mut Poll) -> Result<bool, PolicyError> {
        let _in_turn = lock(&self.reading);
        let list = Arc::clone(&self.lock_sources().list);
        let read = source::read(&list, true);
        let mut sources = self.lock_sources();
        let polls = read.and_then(|read| Ok((read.polls_after(&sources.tried)?, read)));
        let (needed, read) = match polls {
            Ok(polls) => polls,
            Err(error) => {
                *poll = Poll::default();
                // Counts an error once, not at each poll that meets it.
                if sources.unreadable.as_ref() != Some(&error) {
                    self.reloads.count(false);
                    sources.unreadable = Some(error.clone());
                }
                return Err(error);
            }
        };
        sources.unreadable = None;
        if needed == 0 {
            *poll = Poll::default();
            return Ok(false);
        }
        poll.equal = match poll.seen.as_ref() == Some(&read) {
            true => poll.equal + 1,
            false => 1,
        };
        if poll.equal < needed {
            poll.seen = Some(read);
            return Ok(false);
        }
        *poll = Poll::default();
        self.try_read(&mut sources, read).map(|()| true)
    }

    fn try_read(&self, sources: &mut Sources, read: Read) -> Result<(), PolicyError> {
        let result = self.put_in_force(sources, read.clone(), None);
        sources.tried = read;
        sources.unreadable = None;
        sources.refused = result.as_ref().err().cloned();
        self.reloads.count(result.is_ok());
        result
    }

    /// Puts policies in force. The caller holds the lock of the sources, so that reloads follow each
    /// other. `configured` sets, or removes, dynamic configuration of a policy by hand.
    fn put_in_force(
        &self,
        sources: &mut Sources,
        mut read: Read,
        configured: Option<(&str, Option<Arc<str>>)>,
    ) -> Result<(), PolicyError> {
        let before = self.live.load_full();
        let mut by_hand = sources.by_hand.clone();
        match configured {
            Some((policy, Some(text))) => {
                by_hand.insert(policy.into(), text);
            }
            Some((policy, None)) => {
                by_hand.remove(policy);
            }
            None => {}
        }
        let loaded = Snapshot::load(&self.settings, &mut read, &by_hand, Some(&before))?;
        let Loading {
            snapshot,
            handovers,
        } = loaded;
        let now = nanos(self.settings.component_context.clock.now());
        for handover in handovers {
            handover.carry_out(&self.settings.component_context, now);
        }
        by_hand.retain(|policy, _| snapshot.has_policy(policy));
        self.live.store(snapshot.into());
        sources.by_hand = by_hand;
        sources.in_force = read;
        Ok(())
    }
}

/// A change that a watcher has seen and that does not count yet.
#[derive(Debug, Default)]
pub(super) struct Poll {
    seen: Option<Read>,
    /// The polls in a row that have found it.
    equal: u32,
}
