//! Checks at an Agent: the requests that the client sends, how it reads answers, and how long it
//! waits.
#![cfg(feature = "remote")]

use std::time::{Duration, Instant};

use crate::support::agent::{FakeAgent, Gate, Reply, answer, give_up};
use tonic::{Code, Status};
use tower_aperture::pb::check::check_response::RejectReason as Reason;
use tower_aperture::{
    ApertureClient, ApertureClientBuilder, Check, ConnectionState, Decider, FlowDecision,
    FlowError, FlowErrorKind, FlowOutcome, FlowParams, FlowStatus, RejectReason, Ticket, Verdict,
};

/// A timeout that only a call that hangs reaches, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn builder(agent: &FakeAgent) -> ApertureClientBuilder {
    ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .connect_timeout(LONG)
        .check_timeout(LONG)
        .end_timeout(LONG)
}

fn client(agent: &FakeAgent) -> ApertureClient {
    builder(agent).build().expect("a client")
}

/// Starts and ends a flow whose decision does not matter.
async fn start_and_end(client: &ApertureClient, params: FlowParams<'_>) {
    client.start_flow("checkout", params).await.end().await;
}

#[tokio::test]
async fn a_check_carries_labels_ramp_mode_and_an_empty_lookup() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let params = FlowParams::new().label("user_id", "42").ramp_mode(true);
    let flow = client.start_flow("checkout", params).await;
    assert_eq!(flow.decision(), FlowDecision::Accepted);
    let checks = agent.checks();
    assert_eq!(checks.len(), 1);
    let check = &checks[0];
    assert_eq!(check.control_point, "checkout");
    assert_eq!(check.labels.len(), 1);
    assert_eq!(check.labels["user_id"], "42");
    assert!(check.ramp_mode);
    assert!(check.expect_end);
    let lookup = check
        .cache_lookup_request
        .as_ref()
        .expect("the client always sends a lookup");
    assert_eq!(*lookup, Default::default());
}

#[tokio::test]
async fn a_check_carries_cache_keys_and_their_lookup_has_no_control_point() {
    let agent = FakeAgent::start();
    let params = FlowParams::new()
        .result_cache_key("k")
        .global_cache_key("g")
        .global_cache_key("h");
    start_and_end(&client(&agent), params).await;
    let checks = agent.checks();
    let lookup = checks[0].cache_lookup_request.as_ref().expect("a lookup");
    assert_eq!(lookup.control_point, "");
    assert_eq!(lookup.result_cache_key, "k");
    assert_eq!(lookup.global_cache_keys, ["g", "h"]);
}

#[tokio::test]
async fn cache_lookups_of_the_agent_are_in_the_flow_and_in_the_ticket() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let ttl = Duration::from_secs(1);
    let stored = client.result_cache("checkout", "k").set("v", ttl).await;
    stored.expect("the agent stores the value");
    let params = || {
        FlowParams::new()
            .result_cache_key("k")
            .global_cache_key("g")
    };

    let flow = client.start_flow("checkout", params()).await;
    assert_eq!(flow.result_cache().get(), Ok(Some("v".into())));
    assert_eq!(flow.global_cache("g").get(), Ok(None));
    flow.end().await;

    let tickets = [params(), FlowParams::new()].map(|params| {
        let Check::Pending(pending) = client.decide("checkout", &params) else {
            panic!("a check at an agent is pending at first");
        };
        pending
    });
    let mut found = Vec::new();
    for pending in tickets {
        let Verdict::Accepted(mut ticket) = pending.await else {
            panic!("the agent accepts every flow");
        };
        found.push(ticket.take_cache_lookup());
        ticket.end(FlowOutcome::new(FlowStatus::Ok));
    }
    let lookup_result = found[0].as_ref().expect("the check had cache keys");
    assert_eq!(
        lookup_result.result_value().map(|value| &value[..]),
        Some(&b"v"[..])
    );
    assert_eq!(lookup_result.global("g"), Some(&Ok(None)));
    assert_eq!(found[1], None, "the check had no cache keys");
}

#[tokio::test]
async fn a_rejection_carries_its_reason_status_code_and_wait() {
    let agent = FakeAgent::start();
    agent.on_check(|request| {
        let mut rejection = answer::rejected(request, Reason::RateLimited);
        rejection.denied_response_status_code = 418;
        rejection.wait_time = Some(prost_types::Duration {
            seconds: 1,
            nanos: 750_000_000,
        });
        Reply::Now(rejection)
    });
    let flow = client(&agent)
        .start_flow("checkout", FlowParams::new())
        .await;
    let rejection = flow.rejection().expect("rejected");
    assert_eq!(rejection.reason(), RejectReason::RateLimited);
    assert_eq!(rejection.status().as_u16(), 418);
    assert_eq!(rejection.retry_after(), Some(Duration::from_millis(1750)));
}

#[tokio::test]
async fn the_client_refuses_an_empty_control_point_without_a_call() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let flow = client.start_flow("", FlowParams::new()).await;
    let error = flow.error().expect("unreachable");
    assert_eq!(error.kind(), FlowErrorKind::InvalidRequest);
    assert!(agent.calls().is_empty());
}

#[tokio::test]
async fn each_status_code_has_its_kind_of_flow_error() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    for (code, kind) in [
        (Code::DeadlineExceeded, FlowErrorKind::Timeout),
        (Code::Unavailable, FlowErrorKind::Unavailable),
        (Code::Unauthenticated, FlowErrorKind::Unauthenticated),
        (Code::PermissionDenied, FlowErrorKind::Unauthenticated),
        (Code::InvalidArgument, FlowErrorKind::InvalidRequest),
        (Code::Unknown, FlowErrorKind::Other),
        (Code::Internal, FlowErrorKind::Other),
    ] {
        agent.on_check(move |_| Reply::Status(Status::new(code, "because")));
        let flow = client.start_flow("checkout", FlowParams::new()).await;
        assert_eq!(flow.decision(), FlowDecision::Unreachable, "{code:?}");
        assert_eq!(flow.error().map(FlowError::kind), Some(kind), "{code:?}");
    }
}

#[tokio::test]
async fn the_check_timeout_is_sent_as_grpc_timeout_and_zero_sends_none() {
    let agent = FakeAgent::start();
    let client = builder(&agent)
        .check_timeout(Duration::from_millis(7500))
        .build()
        .expect("a client");
    // Connect first: the time for connecting would be subtracted from the budget.
    assert!(client.wait_ready(LONG).await);
    start_and_end(&client, FlowParams::new()).await;
    start_and_end(
        &client,
        FlowParams::new().check_timeout(Duration::from_secs(15)),
    )
    .await;
    start_and_end(&client, FlowParams::new().check_timeout(Duration::ZERO)).await;
    start_and_end(&client, FlowParams::new().check_timeout(Duration::MAX)).await;
    let checks = agent.calls().into_iter().skip(1);
    let sent: Vec<_> = checks.map(|call| call.timeout).collect();
    assert_eq!(sent[0].as_deref(), Some("7500000u"));
    assert_eq!(sent[1].as_deref(), Some("15000000u"));
    assert_eq!(sent[2], None);
    assert!(
        sent[3].is_some(),
        "the longest timeout that grpc-timeout can express"
    );
}

#[tokio::test]
async fn a_check_at_an_agent_that_hangs_ends_at_its_timeout() {
    let agent = FakeAgent::start();
    agent.on_check(|_| Reply::Hang);
    let client = client(&agent);
    let begin = Instant::now();
    let params = FlowParams::new().check_timeout(Duration::from_millis(50));
    let flow = client.start_flow("checkout", params).await;
    assert_eq!(
        flow.error().map(FlowError::kind),
        Some(FlowErrorKind::Timeout)
    );
    assert!(begin.elapsed() < LONG);
    assert!(flow.should_run());
}

#[tokio::test]
async fn a_check_at_a_port_that_sends_no_bytes_ends_at_its_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let client = ApertureClient::builder()
        .address(listener.local_addr().expect("an address").to_string())
        .insecure(true)
        .check_timeout(Duration::from_millis(50))
        .build()
        .expect("a client");
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    assert_eq!(
        flow.error().map(FlowError::kind),
        Some(FlowErrorKind::Timeout)
    );
    assert_ne!(client.state(), ConnectionState::Ready);
    assert!(!client.wait_ready(Duration::from_millis(50)).await);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_attempt_to_connect_that_gets_no_reply_ends_at_its_timeout() {
    // The listener never accepts. Once its backlog is full, the kernel ignores attempts to connect.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let listener = socket.listen(0).expect("listening");
    let address = listener.local_addr().expect("an address");
    let (mut held, mut unanswered) = (Vec::new(), 0);
    while unanswered < 2 {
        let connecting = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(300), connecting).await {
            Ok(stream) => held.push(stream.expect("no connection is refused")),
            Err(_) => unanswered += 1,
        }
        assert!(held.len() < 64, "the backlog does not fill");
    }
    let client = ApertureClient::builder()
        .address(address.to_string())
        .insecure(true)
        .connect_timeout(Duration::from_millis(50))
        .check_timeout(LONG)
        .build()
        .expect("a client");
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    let error = flow.error().expect("unreachable");
    assert_eq!(error.kind(), FlowErrorKind::Unavailable, "{error}");
    assert_eq!(client.state(), ConnectionState::TransientFailure);
    let params = FlowParams::new().check_timeout(Duration::from_millis(20));
    let flow = client.start_flow("checkout", params).await;
    assert_eq!(flow.decision(), FlowDecision::Unreachable);
}

#[tokio::test]
async fn every_call_carries_the_api_key() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    let client = builder(&agent).api_key("sesame").build().expect("a client");
    assert!(client.wait_ready(LONG).await);
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    flow.end().await;
    let ttl = Duration::from_secs(1);
    client.global_cache("k").set("v", ttl).await.expect("set");
    client.global_cache("k").get().await.expect("looked up");
    client.global_cache("k").delete().await.expect("deleted");
    assert!(client.shutdown(LONG).await);
    let mut paths: Vec<_> = agent.calls().into_iter().map(|call| call.path).collect();
    paths.dedup();
    let methods = [
        "Check",
        "FlowEnd",
        "CacheLookup",
        "CacheUpsert",
        "CacheDelete",
    ];
    for method in methods {
        let path = format!("/aperture.flowcontrol.check.v1.FlowControlService/{method}");
        assert!(paths.contains(&path), "{path}");
    }
    if cfg!(feature = "telemetry") {
        let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        assert!(paths.iter().any(|known| known == path));
    }
    for call in agent.calls() {
        assert_eq!(call.api_key.as_deref(), Some("sesame"), "{}", call.path);
    }
}

#[tokio::test]
async fn an_empty_api_key_is_not_sent() {
    let agent = FakeAgent::start();
    let client = builder(&agent).api_key("").build().expect("a client");
    start_and_end(&client, FlowParams::new()).await;
    assert_eq!(agent.calls()[0].api_key, None);
}

#[tokio::test]
async fn the_client_returns_grants_that_arrive_after_their_caller_left() {
    let agent = FakeAgent::start();
    let gate = Gate::new();
    let closed = gate.clone();
    agent.on_check(move |request| Reply::When(closed.clone(), answer::granted(request)));
    let client = client(&agent);
    for left in 1..=5 {
        let flow = client.start_flow("checkout", FlowParams::new());
        give_up(flow, "the check", || agent.checks().len() == left).await;
    }
    assert_eq!(agent.tokens_in_flight(), 5);
    gate.open();
    agent
        .until("all tokens are returned", |agent| {
            agent.tokens_in_flight() == 0
        })
        .await;
    assert!(client.shutdown(LONG).await);
    let stats = client.stats();
    assert_eq!((stats.checks_handed_over, stats.checks_cancelled), (5, 0));
    assert_eq!(stats.ends_delivered, 5);
    assert!(agent.spans().is_empty(), "no flow ran, so there is no span");
}

#[tokio::test]
async fn a_check_whose_caller_left_ends_at_its_timeout() {
    let agent = FakeAgent::start();
    agent.on_check(|_| Reply::Hang);
    let client = client(&agent);
    let params = FlowParams::new().check_timeout(Duration::from_secs(3));
    let pending = async {
        // The decider's future: `start_flow` would return at the timeout.
        match client.decide("checkout", &params) {
            Check::Pending(pending) => drop(pending.await),
            Check::Ready(_) => unreachable!("a check at an Agent is pending at first"),
        }
    };
    give_up(pending, "the check", || agent.checks().len() == 1).await;
    assert!(
        client.shutdown(LONG).await,
        "shutdown ends once the check has timed out"
    );
    assert_eq!(client.stats().checks_handed_over, 1);
}

#[tokio::test]
async fn the_client_keeps_at_most_1024_checks_whose_callers_left_and_cancels_the_rest() {
    let agent = FakeAgent::start();
    agent.on_check(|_| Reply::Hang);
    let client = builder(&agent).build().expect("a client");
    let params = FlowParams::new();
    let mut pending: Vec<_> = (0..1100)
        .map(|_| client.decide("checkout", &params))
        .collect();
    std::future::poll_fn(|cx| {
        for check in &mut pending {
            let Check::Pending(pending) = check else {
                unreachable!("a check at an Agent is pending at first")
            };
            assert!(std::pin::Pin::new(pending).poll(cx).is_pending());
        }
        std::task::Poll::Ready(())
    })
    .await;
    drop(pending);
    let stats = client.stats();
    assert_eq!(
        (stats.checks_handed_over, stats.checks_cancelled),
        (1024, 76)
    );
    assert!(!client.shutdown(Duration::ZERO).await);
}

#[tokio::test]
async fn a_check_that_was_never_polled_is_never_sent() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    drop(client.decide("checkout", &FlowParams::new()));
    start_and_end(&client, FlowParams::new()).await;
    assert_eq!(agent.checks().len(), 1);
    assert_eq!(client.stats().checks_handed_over, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_callers_that_leave_at_random_are_returned() {
    let agent = FakeAgent::start();
    agent.on_check(|request| {
        let id: u64 = request.labels["id"].parse().expect("a number");
        let delay = Duration::from_millis(id * 7919 % 5);
        Reply::After(delay, answer::granted(request))
    });
    let client = builder(&agent)
        .connections(2)
        // On a busy machine, so many answers take long.
        .check_grace(LONG)
        .build()
        .expect("a client");
    assert!(client.wait_ready(LONG).await);
    let mut tasks = tokio::task::JoinSet::new();
    for id in 0..1000_u64 {
        let client = client.clone();
        tasks.spawn(async move {
            let stay = Duration::from_micros(id * 104_729 % 20_000);
            let use_flow = async {
                let params = FlowParams::new().label("id", id.to_string());
                let flow = client.start_flow("checkout", params).await;
                tokio::time::sleep(Duration::from_micros(id % 3000)).await;
                flow.end().await;
            };
            let _ = tokio::time::timeout(stay, use_flow).await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic");
    }
    let done = client.shutdown(LONG).await;
    assert!(done, "{:?}", client.stats());
    assert_eq!(agent.tokens_in_flight(), 0);
    let stats = client.stats();
    assert_eq!(stats.checks_cancelled, 0);
    assert_eq!(stats.ends_failed + stats.ends_dropped, 0);
}

#[tokio::test]
async fn hundreds_of_checks_in_flight_on_one_connection_all_get_their_answers() {
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    let client = client(&agent);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..512 {
        let client = client.clone();
        tasks.spawn(async move {
            for round in 0..8 {
                let id = format!("{task}-{round}");
                let params = FlowParams::new().label("id", id);
                let flow = client.start_flow("checkout", params).await;
                assert_eq!(flow.error(), None);
                assert_eq!(flow.end().await.error(), None);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no call fails");
    }
    assert_eq!(agent.tokens_in_flight(), 0);
    let mut peers: Vec<_> = agent.calls().iter().map(|call| call.peer).collect();
    peers.dedup();
    assert_eq!(peers.len(), 1, "the connection was never replaced");
}

#[tokio::test]
async fn calls_are_spread_over_the_connections() {
    let agent = FakeAgent::start();
    let client = builder(&agent).connections(3).build().expect("a client");
    for _ in 0..9 {
        start_and_end(&client, FlowParams::new()).await;
    }
    let calls = agent.calls();
    let peers: std::collections::HashSet<_> = calls.iter().map(|call| call.peer).collect();
    assert_eq!(peers.len(), 3);
}

#[cfg(feature = "gzip")]
#[tokio::test]
async fn gzip_compresses_requests() {
    let agent = FakeAgent::start();
    let client = builder(&agent).gzip(true).build().expect("a client");
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    assert_eq!(flow.decision(), FlowDecision::Accepted);
    assert_eq!(agent.calls()[0].encoding.as_deref(), Some("gzip"));
}
