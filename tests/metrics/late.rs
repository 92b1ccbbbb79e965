//! Flows that ran because their answer was late are counted separately and logged once a minute.

use std::time::Duration;

use tower_aperture::{ApertureClient, FlowParams};

use super::Recorded;
use super::support::agent::{FakeAgent, Reply, answer};
use super::support::logs::LogLines;

/// A timeout that only a call that hangs reaches, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

const LINE: &str = "WARN tower_aperture: answers of the Aperture agent came later than";

async fn start_flows(client: &ApertureClient, control_point: &str, count: usize) {
    for _ in 0..count {
        drop(client.start_flow(control_point, FlowParams::new()).await);
    }
}

#[tokio::test]
async fn late_answers_are_counted_and_their_number_is_logged_once_a_minute() {
    let recorded = Recorded::here();
    let (lines, _guard) = LogLines::collect(tracing::Level::INFO);
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
    let answered = || client.start_flow("well", FlowParams::new().check_timeout(LONG));
    assert!(answered().await.should_run());
    let late_flows =
        |point| recorded.value(&format!("flows_late_total{{control_point=\"{point}\"}}"));
    assert_eq!(late_flows("well"), Some(0.0));

    // The paused clock advances only for the timeout of each flow, by 100 ms.
    tokio::time::pause();
    start_flows(&client, "hangs", 30).await;
    assert_eq!((client.stats().late, client.stats().timeouts), (30, 30));
    assert_eq!(late_flows("hangs"), Some(30.0));
    assert_eq!(late_flows("well"), Some(0.0));
    let warnings = lines.with(&[LINE]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("flows=1 "), "{warnings:?}");
    assert!(
        warnings[0].contains("no answer within 40ms and a grace of 60ms"),
        "{warnings:?}"
    );

    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
    // Any later flow, also an accepted one, makes the client log the pending number.
    assert!(answered().await.should_run());
    let warnings = lines.with(&[LINE]);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[1].ends_with("flows=29"), "{warnings:?}");
    assert!(answered().await.should_run());
    assert_eq!(lines.with(&[LINE]).len(), 2, "no further flow was late");

    tokio::time::pause();
    start_flows(&client, "hangs", 3).await;
    tokio::time::resume();
    assert_eq!(lines.with(&[LINE]).len(), 2, "a minute has not passed");
    drop(client);
    let warnings = lines.with(&[LINE]);
    assert!(
        warnings.len() == 3 && warnings[2].contains("flows=3"),
        "{warnings:?}"
    );
}
