//! `serve --shared`: agents that share their limits in Redis.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::program::{Folder, LONG, Serving};
use crate::redis_server::Server;
use crate::serving::client;
use tower_aperture::{ApertureClient, Flow, FlowDecision, FlowParams};

/// Tokens that the bucket holds, and that are filled in each second.
const CAPACITY: f64 = 1000.0;
const FILL: f64 = 100.0;

/// One bucket for all flows at `checkout`, and two slots at `render`.
const POLICY: &str = "
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{control_point: checkout}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 1000}}
          fill_amount: {constant_signal: {value: 100}}
        parameters: {interval: 1s, continuous_fill: true}
  - flow_control:
      concurrency_limiter:
        selectors: [{control_point: render}]
        in_ports: {max_concurrency: {constant_signal: {value: 2}}}
        parameters: {max_inflight_duration: 3600s}
";

/// Serves the policy with limits in the server. The deadline is so long that even on a busy machine a
/// flow is decided without the server only if the server is away.
fn serve(folder: &Folder, server: &Server) -> Serving {
    serve_with(folder, server, &[])
}

fn serve_with(folder: &Folder, server: &Server, more: &[&str]) -> Serving {
    let policies = folder.write("limits.yaml", POLICY);
    let url = server.url();
    let mut args = vec![
        "--shared",
        &url,
        "--shared-deadline",
        "10s",
        "--watch-interval",
        "0",
    ];
    args.extend(more);
    Serving::start(&policies, &args)
}

/// Returns how many flows the agent has decided without the server.
fn decided_without(agent: &Serving) -> u64 {
    let (_, metrics) = agent.get("/metrics");
    let name = "tower_aperture_agent_shared_store_decided_without_total";
    let line = metrics.lines().find(|line| line.starts_with(name));
    let (_, value) = line
        .and_then(|line| line.rsplit_once(' '))
        .expect("the metric exists");
    value.parse().expect("a count")
}

async fn start(client: &ApertureClient, control_point: &str) -> Flow {
    client.start_flow(control_point, FlowParams::new()).await
}

/// Starts flows, one after the other, until `done`. Returns how many were accepted.
async fn count_accepted(client: &ApertureClient, done: &AtomicBool) -> u64 {
    let mut accepted = 0;
    while !done.load(Ordering::Relaxed) {
        match start(client, "checkout").await.decision() {
            FlowDecision::Accepted => accepted += 1,
            // Let the bucket fill, and the other processes run.
            FlowDecision::Rejected => tokio::time::sleep(Duration::from_millis(5)).await,
            // The agent was killed.
            _ => return accepted,
        }
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_agents_grant_what_one_bucket_holds_even_if_one_of_them_is_killed() {
    const WORKERS: u64 = 8;
    let Some(server) = Server::start() else {
        return;
    };
    let folder = Folder::new();
    let agents = [0; 3].map(|_| serve(&folder, &server));
    let clients = [0, 1, 2].map(|at: usize| client(&agents[at]));
    let done = AtomicBool::new(false);
    let accepted = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|threads| {
        for client in &clients {
            threads.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                let workers = (0..WORKERS).map(|_| count_accepted(client, &done));
                let counts = runtime.block_on(futures_util::future::join_all(workers));
                accepted.fetch_add(counts.iter().sum(), Ordering::Relaxed);
            });
        }
        std::thread::sleep(Duration::from_secs(5));
        agents[0].signal("KILL");
        std::thread::sleep(Duration::from_secs(5));
        done.store(true, Ordering::Relaxed);
    });
    // Empty the bucket.
    let mut accepted = accepted.into_inner();
    let empty_after = loop {
        let asked_after = began.elapsed();
        match start(&clients[1], "checkout").await.decision() {
            FlowDecision::Accepted => accepted += 1,
            FlowDecision::Rejected => break asked_after,
            other => panic!("{other:?}"),
        }
    };
    let filled = |time: Duration| CAPACITY + FILL * time.as_secs_f64();
    let most = filled(began.elapsed());
    assert!(accepted as f64 <= most, "{accepted}, more than {most}");
    // Each worker of the killed agent may have lost a token, and less than one is left.
    let least = filled(empty_after) - WORKERS as f64 - 1.0;
    assert!(accepted as f64 >= least, "{accepted}, fewer than {least}");
}

#[tokio::test]
async fn slots_of_a_killed_agent_are_free_before_they_expire() {
    let Some(server) = Server::start() else {
        return;
    };
    let folder = Folder::new();
    let agents = [0; 2].map(|_| serve(&folder, &server));
    let clients = [client(&agents[0]), client(&agents[1])];
    let held = [
        start(&clients[0], "render").await,
        start(&clients[0], "render").await,
    ];
    assert!(held.iter().all(Flow::should_run));
    assert!(!start(&clients[1], "render").await.should_run());
    agents[0].signal("KILL");
    let began = Instant::now();
    while !start(&clients[1], "render").await.should_run() {
        assert!(began.elapsed() < LONG, "the slots are still held");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(held);
}

#[tokio::test]
async fn agents_decide_by_their_share_while_the_server_is_away_and_share_again_afterwards() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let folder = Folder::new();
    let agents = [0; 2].map(|_| serve(&folder, &server));
    let clients = [client(&agents[0]), client(&agents[1])];
    for client in &clients {
        assert!(start(client, "checkout").await.should_run());
    }
    server.kill();
    for (agent, client) in agents.iter().zip(&clients) {
        let before = decided_without(agent);
        for _ in 0..20 {
            assert!(start(client, "checkout").await.should_run());
        }
        assert!(decided_without(agent) > before);
    }
    server.restart();
    for (agent, client) in agents.iter().zip(&clients) {
        let began = Instant::now();
        loop {
            let before = decided_without(agent);
            assert!(start(client, "checkout").await.should_run());
            if decided_without(agent) == before {
                break;
            }
            assert!(began.elapsed() < LONG, "the server is not used again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // The slots are one set again.
    let held = [
        start(&clients[0], "render").await,
        start(&clients[1], "render").await,
    ];
    assert!(held.iter().all(Flow::should_run));
    assert!(!start(&clients[0], "render").await.should_run());
}

#[tokio::test]
async fn agents_find_the_values_of_each_other_if_they_share_their_caches() {
    let Some(server) = Server::start() else {
        return;
    };
    let folder = Folder::new();
    let agents = [0; 2].map(|_| serve_with(&folder, &server, &["--shared-caches"]));
    let [writer, reader] = [0, 1].map(|at: usize| client(&agents[at]));
    let settings = writer.global_cache("settings");
    let stored = settings.set("dark", Duration::from_secs(60)).await;
    assert_eq!(stored, Ok(()));
    let params = FlowParams::new().global_cache_key("settings");
    let flow = reader.start_flow("elsewhere", params).await;
    let found = flow.global_cache("settings").get();
    assert_eq!(found, Ok(Some("dark".into())));
    let deleted = reader.global_cache("settings").delete().await;
    assert_eq!(deleted, Ok(()));
    assert_eq!(settings.get().await, Ok(None));

    let served = serve(&folder, &server);
    let alone = client(&served);
    let stored = alone.global_cache("settings");
    let stored = stored.set("bright", Duration::from_secs(60)).await;
    assert_eq!((stored, settings.get().await), (Ok(()), Ok(None)));
}

#[test]
fn a_wrong_setting_is_refused_with_its_option_and_no_password() {
    let folder = Folder::new();
    let policies = folder.write("limits.yaml", POLICY);
    for (args, option) in [
        (&["--shared", "http://:secret@host"][..], "--shared:"),
        (
            &["--shared", "redis://:secret@host", "--shared-prefix", "a b"],
            "--shared-prefix:",
        ),
        (
            &[
                "--shared",
                "redis://:secret@host",
                "--shared-deadline",
                "0s",
            ],
            "--shared-deadline:",
        ),
    ] {
        let mut all = vec!["serve", "--policies", &policies];
        all.extend(args);
        let run = crate::program::run(&all);
        assert_eq!(run.code, 1, "{}", run.err);
        assert!(run.err.contains(option), "{}", run.err);
        assert!(!run.err.contains("secret"), "{}", run.err);
    }
}
