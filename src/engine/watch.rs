use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use super::{Engine, Shared};
use crate::policy::PolicyError;

/// Reloads an [`Engine`] when its policy files change; dropping it ends that.
///
/// It looks at the files now and then, in a thread of its own: that works on every file system,
/// in containers whose files are links that are swapped, and with every runtime. A file that is
/// half written is an error like any other: nothing changes, the error is logged once and told by
/// [`last_error`](Self::last_error), and the next look finds the rest.
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
}

impl Engine {
    /// Looks at the engine's files and folders each time so much time has passed, at least a
    /// millisecond, and [reloads](Self::reload) when their content changed.
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
            .spawn(move || watch(&engine, &own, every))?;
        Ok(PolicyWatcher {
            engine: Arc::downgrade(&self.shared),
            common,
            thread: Some(thread),
        })
    }
}

fn watch(engine: &Weak<Shared>, common: &Common, every: Duration) {
    let mut told = None;
    loop {
        let over = common.over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = common.ended.wait_timeout_while(over, every, |over| !*over);
        let (over, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *over {
            return;
        }
        // Files take their time, and whoever drops the watcher should not.
        drop(over);
        let Some(shared) = engine.upgrade() else {
            return;
        };
        match shared.reload(false) {
            Ok(false) => {}
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
        self.engine.upgrade()?.lock_sources().problem.clone()
    }
}

impl Drop for PolicyWatcher {
    fn drop(&mut self) {
        let over = self.common.over.lock();
        *over.unwrap_or_else(PoisonError::into_inner) = true;
        self.common.ended.notify_all();
        if let Some(thread) = self.thread.take() {
            // It ends after at most one reload; a panic of it was reported by then.
            let _ = thread.join();
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
