//! How the client behaves when the network, the Agent or its own process fails: the behaviour that
//! the README describes under "When something goes wrong".
#![cfg(feature = "remote")]

mod durations;
mod handed_over;
#[cfg(feature = "tracing")]
mod logs;
mod readme;
mod runtimes;
mod shutdown;
#[path = "../support/mod.rs"]
mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tower_aperture::{ApertureClient, ApertureClientBuilder, Flow, FlowDecision, FlowParams};

use self::support::agent::FakeAgent;

/// A timeout that only a call that hangs reaches, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn builder(agents: &[&FakeAgent]) -> ApertureClientBuilder {
    ApertureClient::builder()
        .addresses(agents.iter().map(|agent| agent.address()))
        .insecure(true)
        .connect_timeout(LONG)
        .check_timeout(LONG)
        .end_timeout(LONG)
}

async fn accepted(client: &ApertureClient) -> Flow {
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    assert_eq!(flow.decision(), FlowDecision::Accepted);
    flow
}

/// Returns a runtime that makes progress only inside `block_on`.
fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

/// Waits for a future outside any runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    let waker = Arc::new(Unpark(thread::current())).into();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}
