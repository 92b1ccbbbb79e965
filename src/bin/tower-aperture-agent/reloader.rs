//! Reads files again on SIGHUP.

use std::io;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

use crate::output::Problem;

/// Reads one kind of files again, in a thread of its own, as often as it is asked to.
///
/// The caller does not wait: reading takes its time, and a pipe or a network file system may take
/// for ever. The thread ends with the process.
pub(crate) struct Reloader {
    what: &'static str,
    asked: SyncSender<()>,
}

impl Reloader {
    /// Starts the thread. An error of `read` is logged.
    pub(crate) fn new(
        what: &'static str,
        read: impl Fn() -> Result<(), Problem> + Send + 'static,
    ) -> io::Result<Self> {
        // A reload requested while another is under way comes after it; more requests add nothing.
        let (asked, asks) = sync_channel(1);
        thread::Builder::new()
            .name("aperture-reload".to_owned())
            .spawn(move || {
                for () in asks {
                    match read() {
                        Ok(()) => tracing::info!("{what} were reloaded"),
                        Err(error) => tracing::error!("{what} were not reloaded: {error}"),
                    }
                }
            })?;
        Ok(Self { what, asked })
    }

    pub(crate) fn reload(&self) {
        if let Err(TrySendError::Full(())) = self.asked.try_send(()) {
            let what = self.what;
            tracing::warn!("{what} are still being read: the reload asked for before goes on");
        }
    }
}
