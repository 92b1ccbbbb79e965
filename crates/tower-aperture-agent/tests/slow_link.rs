//! Tests a client whose link to the agent is slow.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tower_aperture::{ApertureClient, Engine, FlowDecision, FlowParams};
use tower_aperture_agent::Agent;

/// Time after which a test fails. Only a hanging test takes as long, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Starts a proxy to an Agent that delays each direction by `delay`, like a network. Returns its
/// address.
async fn delayed(to: String, delay: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let agent = TcpStream::connect(&to).await.expect("the agent");
            for stream in [&client, &agent] {
                stream.set_nodelay(true).expect("a socket");
            }
            let (from_client, to_client) = client.into_split();
            let (from_agent, to_agent) = agent.into_split();
            for (mut from, mut to) in [(from_client, to_agent), (from_agent, to_client)] {
                let (sent, mut arriving) = mpsc::unbounded_channel();
                tokio::spawn(async move {
                    let mut bytes = vec![0; 64 * 1024];
                    while let Ok(len @ 1..) = from.read(&mut bytes).await {
                        let _ = sent.send((Instant::now() + delay, bytes[..len].to_vec()));
                    }
                });
                tokio::spawn(async move {
                    while let Some((due, bytes)) = arriving.recv().await {
                        sleep_until(due).await;
                        if to.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    address
}

/// When the budget of a queued flow ends, an Agent answers shortly before the deadline. On a slow
/// link, that answer arrives after the deadline.
#[tokio::test]
async fn a_rejection_at_the_end_of_the_budget_decides_over_a_slow_link() {
    const POLICY: &str = "
circuit:
  components:
  - flow_control:
      concurrency_scheduler:
        in_ports: {max_concurrency: {constant_signal: {value: 3}}}
        concurrency_limiter: {max_inflight_duration: 3600s}
        scheduler: {}
        selectors: [{control_point: queue}]
";
    for delay in [ms(4), ms(20), ms(50)] {
        let engine = Engine::builder().policy_text("queue.yaml", POLICY).build();
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let agent = Agent::builder(engine.expect("a policy")).build();
        tokio::spawn(async move { agent.serve(listener, std::future::pending::<()>()).await });
        let address = delayed(address, delay).await;
        let client = ApertureClient::builder().address(address);
        let client = client
            .insecure(true)
            .check_timeout(ms(200))
            .check_grace(LONG);
        let client = client.build().expect("a client");
        let mut slots = Vec::new();
        for _ in 0..3 {
            let params = FlowParams::new().check_timeout(LONG);
            slots.push(client.start_flow("queue", params).await);
        }
        assert_eq!(client.stats().accepted, 3);
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let client = client.clone();
            waiting.spawn(async move {
                let flow = client.start_flow("queue", FlowParams::new()).await;
                flow.decision()
            });
        }
        let decisions = waiting.join_all().await;
        assert_eq!(
            decisions,
            [FlowDecision::Rejected; 20],
            "{delay:?} each way"
        );
        drop(slots);
    }
}
