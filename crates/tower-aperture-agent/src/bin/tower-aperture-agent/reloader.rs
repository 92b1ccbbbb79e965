//! Reloads files on SIGHUP.

use std::io;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

use crate::output::CommandError;

/// Reloads one kind of files in a thread of its own, each time it is requested.
///
/// The caller does not wait, because reading takes time, and a pipe or a network file system may
/// block forever. The thread ends with the process.
pub(crate) struct Reloader {
    files: &'static str,
    requests: SyncSender<()>,
}

impl Reloader {
    /// Starts the thread. An error of `read` is logged.
    pub(crate) fn new(
        files: &'static str,
        read: impl Fn() -> Result<(), CommandError> + Send + 'static,
    ) -> io::Result<Self> {
        // A reload requested while another runs starts after it; further requests have no effect.
        let (requests, queue) = sync_channel(1);
        thread::Builder::new()
            .name("aperture-reload".to_owned())
            .spawn(move || {
                for () in queue {
                    match read() {
                        Ok(()) => tracing::info!("{files} were reloaded"),
                        Err(error) => tracing::error!("{files} were not reloaded: {error}"),
                    }
                }
            })?;
        Ok(Self { files, requests })
    }

    /// Requests a reload.
    pub(crate) fn reload(&self) {
        if let Err(TrySendError::Full(())) = self.requests.try_send(()) {
            let files = self.files;
            tracing::warn!(
                "{files} are still being read: the reload that was requested before continues"
            );
        }
    }
}
