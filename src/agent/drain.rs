use tokio::sync::watch;

/// Whether the end has begun.
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

    /// Ready when the end begins.
    pub(super) fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut told = self.0.subscribe();
        async move {
            // It cannot be dropped before: its agent waits here.
            let _ = told.wait_for(|begun| *begun).await;
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}
