//! Flows that ran because an answer was late are counted apart and logged once a minute.

use std::time::Duration;

use tower_aperture::{ApertureClient, FlowParams};

use super::Recorded;
use super::logs::collect;
use super::support::agent::{FakeAgent, Reply, answer};

/// Longer than a busy machine takes; only what hangs takes as long.
const LONG: Duration = Duration::from_secs(60);

const LINE: &str = "WARN tower_aperture: answers of the Aperture agent came later than";

async fn flows(client: &ApertureClient, control_point: &str, flows: usize) {
    for _ in 0..flows {
        drop(client.start_flow(control_point, FlowParams::new()).await);
    }
}

#[tokio::test]
async fn late_answers_are_counted_and_logged_once_a_minute_with_their_number() {
    let recorded = Recorded::here();
    let (lines, _guard) = collect(tracing::Level::INFO);
    let agent = FakeAgent::start();
    agent.on_check(|request| match request.control_point.as_str() {
        "hangs" => Reply::Hang,
        _ => Reply::Now(answer::accepted(request)),
    });
    let client = ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .connect_timeout(LONG)
        .check_timeout(Duration::from_millis(40))
        .check_grace(Duration::from_millis(60))
        .breaker(0, LONG)
        .build()
        .expect("a client");
    let well = || client.start_flow("well", FlowParams::new().check_timeout(LONG));
    assert!(well().await.should_run());
    let late = |point| recorded.value(&format!("flows_late_total{{control_point=\"{point}\"}}"));
    assert_eq!(late("well"), Some(0.0));

    // The clock stands still, but for the waits of the flows themselves: 100 ms each.
    tokio::time::pause();
    flows(&client, "hangs", 30).await;
    assert_eq!((client.stats().late, client.stats().timeouts), (30, 30));
    assert_eq!(late("hangs"), Some(30.0));
    assert_eq!(late("well"), Some(0.0));
    let named = lines.with(&[LINE]);
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(named[0].contains("flows=1 "), "{named:?}");
    assert!(
        named[0].contains("no answer within 40ms and a grace of 60ms"),
        "{named:?}"
    );

    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
    // Any flow brings the line about those before it, whatever becomes of it.
    assert!(well().await.should_run());
    let named = lines.with(&[LINE]);
    assert_eq!(named.len(), 2, "{named:?}");
    assert!(named[1].ends_with("flows=29"), "{named:?}");
    assert!(well().await.should_run());
    assert_eq!(lines.with(&[LINE]).len(), 2, "nothing new to say");

    tokio::time::pause();
    flows(&client, "hangs", 3).await;
    tokio::time::resume();
    assert_eq!(lines.with(&[LINE]).len(), 2, "the minute is not over");
    drop(client);
    let named = lines.with(&[LINE]);
    assert!(
        named.len() == 3 && named[2].contains("flows=3"),
        "{named:?}"
    );
}
