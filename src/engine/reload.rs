//! Changing the policies of an engine that runs.

use std::sync::PoisonError;

use super::snapshot::Snapshot;
use super::source::{self, Read, Sources};
use super::sync::MutexGuard;
use super::{Engine, Shared};
use crate::policy::PolicyError;

impl Engine {
    /// Reads the files, folders and texts that the engine was built from once more, and puts what
    /// they say now in force.
    ///
    /// The change is atomic: a flow is decided by the old policies or by the new ones. A component
    /// whose policy name, id and parameters are as before goes on with its state, whatever happened
    /// to its selectors; any other starts fresh. Flows that run or wait end where they began.
    ///
    /// Reads files, so call it where blocking is fine. Calls from several threads follow each
    /// other.
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
        self.shared.reload(true).map(|_| ())
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
            .map(|(name, text)| (name.into(), text.into()))
            .collect();
        let _in_turn = self.shared.lock_sources();
        let result = self.shared.put_in_force(Read {
            texts,
            warnings: Vec::new(),
        });
        self.shared.reloads.count(result.is_ok());
        result
    }
}

impl Shared {
    pub(super) fn lock_sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reloads when the sources are other than when they were tried last, or anyway.
    pub(super) fn reload(&self, anyway: bool) -> Result<bool, PolicyError> {
        let mut sources = self.lock_sources();
        let result = self.try_to_reload(&mut sources, anyway);
        match &result {
            Ok(false) => return result,
            Ok(true) => sources.problem = None,
            Err(error) => sources.problem = Some(error.clone()),
        }
        self.reloads.count(result.is_ok());
        result
    }

    fn try_to_reload(&self, sources: &mut Sources, anyway: bool) -> Result<bool, PolicyError> {
        let tried = sources.tried.take();
        let read = source::read(&sources.list)?;
        sources.tried = Some(read.fingerprint());
        if sources.tried == tried && !anyway {
            return Ok(false);
        }
        self.put_in_force(read)?;
        Ok(true)
    }

    /// The sources are locked meanwhile, so that one reload follows another.
    fn put_in_force(&self, read: Read) -> Result<(), PolicyError> {
        let before = self.live.load_full();
        let snapshot = Snapshot::load(&self.settings, read, Some(&before))?;
        self.live.store(snapshot.into());
        Ok(())
    }
}
