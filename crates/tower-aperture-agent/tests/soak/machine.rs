//! Detects pauses of the machine itself, which the test does not cause.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::account::Account;

/// Delay of a wake-up that counts as a pause, because the thread got no processor.
const PAUSE: Duration = Duration::from_millis(100);

/// Records when the machine gives this process no time, which can make checks time out without an
/// injected failure.
pub(crate) struct PauseMonitor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Duration, Duration)>>,
}

impl PauseMonitor {
    pub(crate) fn start(account: &Account) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (thread_stop, account) = (Arc::clone(&stop), account.clone());
        let thread = thread::spawn(move || {
            let mut pauses = Vec::new();
            let mut before = account.now();
            while !thread_stop.load(SeqCst) {
                thread::sleep(Duration::from_millis(10));
                let now = account.now();
                if now - before > PAUSE {
                    pauses.push((before, now));
                }
                before = now;
            }
            pauses
        });
        Self { stop, thread }
    }

    /// Stops the monitor, and returns the start and the end of each pause.
    pub(crate) fn stop(self) -> Vec<(Duration, Duration)> {
        self.stop.store(true, SeqCst);
        self.thread.join().expect("no panic")
    }
}
