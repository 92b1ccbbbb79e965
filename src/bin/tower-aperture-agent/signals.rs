//! What the system tells a process.

#[cfg(unix)]
mod system {
    use std::io;

    use tokio::signal::unix::{Signal, SignalKind, signal};

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

        /// SIGTERM or SIGINT.
        pub(crate) async fn end(&mut self) {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        }

        /// Until [`end`](Self::end), each SIGHUP is a reload.
        pub(crate) async fn until_the_end(&mut self, reload: impl Fn()) {
            loop {
                tokio::select! {
                    _ = self.terminate.recv() => return,
                    _ = self.interrupt.recv() => return,
                    // Files take their time, but other threads go on.
                    _ = self.reload.recv() => tokio::task::block_in_place(&reload),
                }
            }
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;

    pub(crate) struct Signals;

    impl Signals {
        #[allow(clippy::unnecessary_wraps)]
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        /// Ctrl-C.
        pub(crate) async fn end(&mut self) {
            if tokio::signal::ctrl_c().await.is_err() {
                // Nobody can tell us any more.
                std::future::pending::<()>().await;
            }
        }

        /// Until [`end`](Self::end): there is no signal for a reload here.
        pub(crate) async fn until_the_end(&mut self, _reload: impl Fn()) {
            self.end().await;
        }
    }
}

pub(crate) use self::system::Signals;
