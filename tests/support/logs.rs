//! The log lines of one test.

use std::io;
use std::sync::{Arc, LazyLock, Mutex};

use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing::{Dispatch, Level};
use tracing_subscriber::fmt::format::FmtSpan;

/// A subscriber beside those of the tests, which stays.
///
/// While `tracing` knows one subscriber only, the first thread that reaches an event decides for
/// all threads whether anybody wants it, and asks its own subscriber alone. In a test executable
/// that is often a thread without one, and then the subscriber of another test never sees the
/// event. With two subscribers `tracing` asks all of them.
static SECOND_SUBSCRIBER: LazyLock<Dispatch> =
    LazyLock::new(|| Dispatch::new(NoSubscriber::default()));

/// Makes every event reach the subscriber of its thread, whichever thread reaches the event first.
pub fn ask_every_subscriber() {
    LazyLock::force(&SECOND_SUBSCRIBER);
}

/// The log lines of a test's thread.
#[derive(Clone, Default)]
pub struct LogLines(Arc<Mutex<Vec<u8>>>);

impl LogLines {
    /// Collects the lines of this thread, those of dependencies included, until the guard is
    /// dropped.
    pub fn collect(max_level: Level) -> (Self, DefaultGuard) {
        ask_every_subscriber();
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(max_level)
            .with_span_events(FmtSpan::CLOSE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    /// Returns all lines.
    pub fn all(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().expect("no panic").clone());
        text.expect("text").lines().map(str::to_owned).collect()
    }

    /// Returns the lines that contain all of these parts.
    pub fn with(&self, parts: &[&str]) -> Vec<String> {
        let all = self.all().into_iter();
        all.filter(|line| parts.iter().all(|part| line.contains(part)))
            .collect()
    }

    /// Counts the lines that contain all of these parts.
    pub fn count(&self, parts: &[&str]) -> usize {
        self.with(parts).len()
    }
}

impl io::Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
