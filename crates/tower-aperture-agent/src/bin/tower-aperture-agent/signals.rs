//! ProcessSignals of the operating system.

pub(crate) use self::system::ProcessSignals;

/// The action that a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(unix), allow(dead_code))]
pub(crate) enum SignalAction {
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT; Ctrl-C on other systems than Unix.
    Shutdown,
}

impl ProcessSignals {
    /// Waits for a signal that requests shutdown and ignores others.
    pub(crate) async fn shutdown(&mut self) {
        while self.next().await != SignalAction::Shutdown {}
    }
}

#[cfg(unix)]
mod system {
    use std::io;

    use tokio::signal::unix::{Signal, SignalKind, signal};

    use super::SignalAction;

    pub(crate) struct ProcessSignals {
        reload: Signal,
        terminate: Signal,
        interrupt: Signal,
    }

    impl ProcessSignals {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self {
                reload: signal(SignalKind::hangup())?,
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            })
        }

        pub(crate) async fn next(&mut self) -> SignalAction {
            tokio::select! {
                _ = self.terminate.recv() => SignalAction::Shutdown,
                _ = self.interrupt.recv() => SignalAction::Shutdown,
                _ = self.reload.recv() => SignalAction::Reload,
            }
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;

    use super::SignalAction;

    pub(crate) struct ProcessSignals;

    impl ProcessSignals {
        #[allow(clippy::unnecessary_wraps)]
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub(crate) async fn next(&mut self) -> SignalAction {
            if tokio::signal::ctrl_c().await.is_err() {
                // Signals cannot be received any more.
                std::future::pending::<()>().await;
            }
            SignalAction::Shutdown
        }
    }
}
