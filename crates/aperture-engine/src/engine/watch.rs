//! A thread that reloads policies when their files change.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use super::EngineMode;
use super::in_process::{Engine, EngineShared};
use super::reload::PendingChange;
use crate::policy::PolicyError;

/// Reloads an [`Engine`] when its policy files change, until it is dropped.
///
/// The watcher polls the files in its own thread: that works on every file system, in containers
/// whose files are links that are swapped, and with every runtime.
///
/// A change is put in force when consecutive polls find the same content: two polls for a file or
/// link that was replaced, added or removed; four for a file that was rewritten in place, which may
/// be half written. An entry that cannot be read, a folder that is suddenly empty and an invalid
/// policy change nothing; each of these errors is logged once and returned by
/// [`last_error`](Self::last_error).
///
/// ```
/// use std::time::Duration;
/// use tower_aperture::Engine;
///
/// # let folder = std::env::temp_dir().join(format!("watch-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let engine = Engine::builder().policy_folder(&folder).build()?;
/// let watcher = engine.watch(Duration::from_secs(5))?;
/// assert!(watcher.last_error().is_none());
/// # drop(watcher);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PolicyWatcher {
    engine: Weak<EngineShared>,
    state: Arc<WatcherState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct WatcherState {
    stop: Mutex<bool>,
    stop_changed: Condvar,
    /// True when the thread has ended.
    finished: Mutex<bool>,
    finished_changed: Condvar,
}

impl<M: EngineMode> Engine<M> {
    /// Starts a watcher that polls the files and folders of the engine at this interval, at least a
    /// millisecond, and puts their content in force when it has changed and settled; see
    /// [`PolicyWatcher`].
    ///
    /// The watcher does not keep the engine alive.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system cannot start a thread.
    pub fn watch(&self, every: Duration) -> io::Result<PolicyWatcher> {
        let state = Arc::new(WatcherState::default());
        let (engine, thread_state) = (Arc::downgrade(&self.shared), Arc::clone(&state));
        let every = every.max(Duration::from_millis(1));
        let thread = thread::Builder::new()
            .name("aperture-policies".into())
            .spawn(move || {
                let _set_finished = SetFinishedOnDrop(&thread_state);
                watch(&engine, &thread_state, every);
            })?;
        Ok(PolicyWatcher {
            engine: Arc::downgrade(&self.shared),
            state,
            thread: Some(thread),
        })
    }
}

/// The time that dropping a watcher waits for its thread: a file system may hang.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

struct SetFinishedOnDrop<'a>(&'a WatcherState);

impl Drop for SetFinishedOnDrop<'_> {
    fn drop(&mut self) {
        *lock(&self.0.finished) = true;
        self.0.finished_changed.notify_all();
    }
}

fn lock(flag: &Mutex<bool>) -> MutexGuard<'_, bool> {
    flag.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch(engine: &Weak<EngineShared>, state: &WatcherState, every: Duration) {
    let mut last_logged = None;
    let mut pending = PendingChange::default();
    loop {
        let stop = state.stop.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = state
            .stop_changed
            .wait_timeout_while(stop, every, |stop| !*stop);
        let (stop, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *stop {
            return;
        }
        // Unlocked, because reading files may be slow and dropping the watcher must not wait for
        // it.
        drop(stop);
        let Some(shared) = engine.upgrade() else {
            return;
        };
        match shared.poll(&mut pending) {
            Ok(false) => {
                // The read error is over, so it is logged again if it recurs.
                if shared.lock_sources().read_error.is_none() {
                    last_logged = last_logged.filter(|_| shared.lock_sources().refusal.is_some());
                }
            }
            Ok(true) => {
                log_event!(info, "policies were reloaded");
                last_logged = None;
            }
            Err(error) => {
                if last_logged.as_ref() != Some(&error) {
                    log_event!(
                        warn,
                        "policies were not reloaded: {}",
                        aperture_core::WithCauses(&error)
                    );
                }
                last_logged = Some(error);
            }
        }
    }
}

impl PolicyWatcher {
    /// Returns the error that keeps the content of the files from being in force; `None` when it is
    /// in force.
    #[must_use]
    pub fn last_error(&self) -> Option<PolicyError> {
        let engine = self.engine.upgrade()?;
        let sources = engine.lock_sources();
        sources
            .read_error
            .clone()
            .or_else(|| sources.refusal.clone())
    }
}

impl Drop for PolicyWatcher {
    fn drop(&mut self) {
        let stop = self.state.stop.lock();
        *stop.unwrap_or_else(PoisonError::into_inner) = true;
        self.state.stop_changed.notify_all();
        let Some(thread) = self.thread.take() else {
            return;
        };
        let finished = lock(&self.state.finished);
        let waited =
            self.state
                .finished_changed
                .wait_timeout_while(finished, JOIN_TIMEOUT, |finished| !*finished);
        let (finished, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let has_finished = *finished;
        drop(finished);
        if has_finished {
            // The panic hook has already reported a panic of the thread.
            let _ = thread.join();
        } else {
            log_event!(
                warn,
                "reading policy files takes too long: the thread of the watcher is left running"
            );
        }
    }
}

impl fmt::Debug for PolicyWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyWatcher")
            .field("last_error", &self.last_error())
            .finish_non_exhaustive()
    }
}
