//! Pauses of the machine itself, which no one asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::account::Account;

/// A thread that sleeps so much longer than it wanted to did not get a processor.
const PAUSE: Duration = Duration::from_millis(100);

/// Notes when the machine gives this process no time: a check that goes without an answer then
/// failed for a reason, although nobody caused it.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Duration, Duration)>>,
}

impl Watch {
    pub(crate) fn start(account: &Account) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, account) = (Arc::clone(&stop), account.clone());
        let thread = thread::spawn(move || {
            let mut pauses = Vec::new();
            let mut before = account.now();
            while !stopped.load(SeqCst) {
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

    /// Returns the begin and the end of each pause.
    pub(crate) fn stop(self) -> Vec<(Duration, Duration)> {
        self.stop.store(true, SeqCst);
        self.thread.join().expect("no panic")
    }
}
