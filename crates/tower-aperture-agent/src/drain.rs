//! The switch from serving to graceful shutdown.

use tokio::sync::watch;

/// Records whether shutdown has begun, and notifies those that wait for it.
#[derive(Debug)]
pub(super) struct Drain(watch::Sender<bool>);

impl Drain {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(super) fn begin(&self) {
        self.0.send_replace(true);
    }

    pub(super) fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns a future that completes when shutdown begins.
    pub(super) fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut begun = self.0.subscribe();
        async move {
            // The sender outlives this future, because the agent that owns it is being served.
            let _ = begun.wait_for(|begun| *begun).await;
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}
