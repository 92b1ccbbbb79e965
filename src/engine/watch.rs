//! A thread that reloads policies when their files change.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use super::reload::Poll;
use super::{Engine, Shared};
use crate::policy::PolicyError;

/// Reloads an [`Engine`] when its policy files change; dropping it ends that.
///
/// It looks at the files now and then, in a thread of its own: that works on every file system,
/// in containers whose files are links that are swapped, and with every runtime.
///
/// A change counts when polls in a row find the same: the second one for a file or link that was
/// replaced, that is new or gone; the fourth for a file that was rewritten in place, which might be
/// half written. An entry that cannot be read, a folder that is suddenly empty and a policy that
/// is wrong change nothing; each is logged once and returned by [`last_error`](Self::last_error).
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
    engine: Weak<Shared>,
    common: Arc<Common>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Common {
    over: Mutex<bool>,
    ended: Condvar,
    /// The thread has ended.
    done: Mutex<bool>,
    done_now: Condvar,
}

impl Engine {
    /// Looks at the engine's files and folders each time so much time has passed, at least a
    /// millisecond, and puts their content in force when it has changed and settled, see
    /// [`PolicyWatcher`].
    ///
    /// The watcher does not keep the engine alive.
    ///
    /// # Errors
    ///
    /// When the system gives us no thread.
    pub fn watch(&self, every: Duration) -> io::Result<PolicyWatcher> {
        let common = Arc::new(Common::default());
        let (engine, own) = (Arc::downgrade(&self.shared), Arc::clone(&common));
        let every = every.max(Duration::from_millis(1));
        let thread = thread::Builder::new()
            .name("aperture-policies".into())
            .spawn(move || {
                let _done = SetOnDrop(&own);
                watch(&engine, &own, every);
            })?;
        Ok(PolicyWatcher {
            engine: Arc::downgrade(&self.shared),
            common,
            thread: Some(thread),
        })
    }
}

/// How long dropping a watcher waits for its thread: a file system may hang.
const PATIENCE: Duration = Duration::from_secs(1);

struct SetOnDrop<'a>(&'a Common);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        *lock(&self.0.done) = true;
        self.0.done_now.notify_all();
    }
}

fn lock(flag: &Mutex<bool>) -> MutexGuard<'_, bool> {
    flag.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch(engine: &Weak<Shared>, common: &Common, every: Duration) {
    let mut told = None;
    let mut poll = Poll::default();
    loop {
        let over = common.over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = common.ended.wait_timeout_while(over, every, |over| !*over);
        let (over, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *over {
            return;
        }
        // Reading files takes its time, and dropping the watcher must not wait for it.
        drop(over);
        let Some(shared) = engine.upgrade() else {
            return;
        };
        match shared.poll(&mut poll) {
            Ok(false) => {
                // What could not be read can be read again.
                if shared.lock_sources().unreadable.is_none() {
                    told = told.filter(|_| shared.lock_sources().refused.is_some());
                }
            }
            Ok(true) => {
                log_event!(info, "policies were reloaded");
                told = None;
            }
            Err(error) => {
                if told.as_ref() != Some(&error) {
                    log_event!(
                        warn,
                        "policies were not reloaded: {}",
                        crate::flow::WithCauses(&error)
                    );
                }
                told = Some(error);
            }
        }
    }
}

impl PolicyWatcher {
    /// Why what the files hold is not in force; `None` when it is.
    #[must_use]
    pub fn last_error(&self) -> Option<PolicyError> {
        let engine = self.engine.upgrade()?;
        let sources = engine.lock_sources();
        sources
            .unreadable
            .clone()
            .or_else(|| sources.refused.clone())
    }
}

impl Drop for PolicyWatcher {
    fn drop(&mut self) {
        let over = self.common.over.lock();
        *over.unwrap_or_else(PoisonError::into_inner) = true;
        self.common.ended.notify_all();
        let Some(thread) = self.thread.take() else {
            return;
        };
        let done = lock(&self.common.done);
        let waited = self
            .common
            .done_now
            .wait_timeout_while(done, PATIENCE, |done| !*done);
        let (done, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let ends = *done;
        drop(done);
        if ends {
            // A panic of it was reported by then.
            let _ = thread.join();
        } else {
            log_event!(
                warn,
                "policy files take long to read: their watcher is left to itself"
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
