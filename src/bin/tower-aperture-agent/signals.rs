//! What the system tells a process.

pub(crate) use self::system::Signals;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(unix), allow(dead_code))]
pub(crate) enum Wish {
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT; Ctrl-C elsewhere.
    End,
}

impl Signals {
    /// Leaves out all others.
    pub(crate) async fn end(&mut self) {
        while self.next().await != Wish::End {}
    }
}

#[cfg(unix)]
mod system {
    use std::io;

    use tokio::signal::unix::{Signal, SignalKind, signal};

    use super::Wish;

    pub(crate) struct Signals {
        reload: Signal,
        terminate: Signal,
        interrupt: Signal,
    }

    impl Signals {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self {
                reload: signal(SignalKind::hangup())?,
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            })
        }

        pub(crate) async fn next(&mut self) -> Wish {
            tokio::select! {
                _ = self.terminate.recv() => Wish::End,
                _ = self.interrupt.recv() => Wish::End,
                _ = self.reload.recv() => Wish::Reload,
            }
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;

    use super::Wish;

    pub(crate) struct Signals;

    impl Signals {
        #[allow(clippy::unnecessary_wraps)]
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub(crate) async fn next(&mut self) -> Wish {
            if tokio::signal::ctrl_c().await.is_err() {
                // Nobody can tell us any more.
                std::future::pending::<()>().await;
            }
            Wish::End
        }
    }
}
