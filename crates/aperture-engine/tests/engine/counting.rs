//! A rate limiter that counts only some outcomes returns the tokens of the other flows at their end.

use http::StatusCode;
use tower_aperture::engine::{Engine, EngineTicket, ManualClock};
use tower_aperture::{Check, Decider, FlowOutcome, FlowStatus, Ticket, Verdict};

use crate::support::*;

/// Three failures an hour for each user.
fn failures(parameters: &str) -> Limiter {
    let mut limiter = Limiter::new(3.0, 3.0).interval(secs(3600.0));
    parameters.clone_into(&mut limiter.parameters);
    limiter.tokens_label = false;
    limiter
}

fn engine_counting(
    limiter: &Limiter,
    predicate: impl Fn(&FlowOutcome) -> bool + Send + Sync + 'static,
) -> (Engine, ManualClock) {
    let clock = ManualClock::new();
    let builder = builder(std::slice::from_ref(limiter)).clock(clock.clone());
    let engine = builder.count_only("test", "root.0", predicate).build();
    (engine.expect("the policy is valid"), clock)
}

/// Failed logins count.
fn logins() -> Engine {
    engine_counting(&failures(""), |outcome| outcome.http_status() == Some(401)).0
}

fn ask(engine: &Engine) -> Option<EngineTicket> {
    match engine.decide(HERE, &params(&[("user", "ann"), ("tokens", "2")])) {
        Check::Ready(Verdict::Accepted(ticket)) => Some(ticket),
        Check::Ready(Verdict::Rejected(_, ticket)) => {
            ticket.end(status(FlowStatus::Unset, StatusCode::TOO_MANY_REQUESTS));
            None
        }
        other => panic!("the flow is decided at once: {other:?}"),
    }
}

fn accepted(engine: &Engine) -> EngineTicket {
    ask(engine).expect("a token is available")
}

fn status(status: FlowStatus, http_status: StatusCode) -> FlowOutcome {
    FlowOutcome::new(status).with_http_status(http_status)
}

/// Returns how many flows can fail before one is rejected.
fn failures_left(engine: &Engine) -> usize {
    let fail = |_: &usize| match ask(engine) {
        None => false,
        Some(ticket) => {
            ticket.end(status(FlowStatus::Ok, StatusCode::UNAUTHORIZED));
            true
        }
    };
    (0..100).take_while(fail).count()
}

#[test]
fn failed_logins_count_and_successful_ones_do_not() {
    for kind in [
        "",
        ", limit_by_label_key: user",
        ", lazy_sync: {enabled: true, num_sync: 4}",
    ] {
        let predicate = |outcome: &FlowOutcome| outcome.http_status() == Some(401);
        let (engine, _) = engine_counting(&failures(kind), predicate);
        for _ in 0..20 {
            accepted(&engine).end(status(FlowStatus::Ok, StatusCode::OK));
        }
        assert_eq!(failures_left(&engine), 3, "{kind}");
    }
}

#[test]
fn logins_that_run_cannot_exceed_the_limit() {
    let engine = logins();
    let running: Vec<_> = (0..3).map(|_| accepted(&engine)).collect();
    assert!(ask(&engine).is_none(), "each of the three may still fail");
    for ticket in running {
        ticket.end(status(FlowStatus::Ok, StatusCode::OK));
    }
    assert_eq!(failures_left(&engine), 3);
}

#[test]
fn a_flow_without_an_outcome_counts() {
    let engine = logins();
    drop(accepted(&engine));
    let abandoned = FlowOutcome::new(FlowStatus::Error).with_abandoned(true);
    accepted(&engine).end(abandoned);
    assert_eq!(failures_left(&engine), 1);
}

#[test]
fn a_returned_token_clears_a_remembered_rejection() {
    let engine = logins();
    let running = accepted(&engine);
    let _others = [accepted(&engine), accepted(&engine)];
    assert!(ask(&engine).is_none());
    running.end(status(FlowStatus::Ok, StatusCode::OK));
    assert!(ask(&engine).is_some());
}

#[test]
fn a_predicate_that_panics_counts_the_flow() {
    let predicate = |_: &FlowOutcome| -> bool { panic!("the predicate of the test panics") };
    let (engine, _) = engine_counting(&failures(""), predicate);
    accepted(&engine).end(status(FlowStatus::Ok, StatusCode::OK));
    let _others = [accepted(&engine), accepted(&engine)];
    assert!(ask(&engine).is_none());
}

#[test]
fn grpc_statuses_can_be_counted() {
    let unauthenticated = |outcome: &FlowOutcome| outcome.grpc_status() == Some(16);
    let (engine, _) = engine_counting(&failures(""), unauthenticated);
    for code in [0, 5, 16] {
        accepted(&engine).end(FlowOutcome::new(FlowStatus::Ok).with_grpc_status(code));
    }
    let _two = [accepted(&engine), accepted(&engine)];
    assert!(ask(&engine).is_none());
}

#[test]
fn a_settled_flow_returns_what_it_was_settled_for() {
    let mut limiter = failures("");
    limiter.capacity = 10.0;
    limiter.tokens_label = true;
    let failed = |outcome: &FlowOutcome| outcome.status == FlowStatus::Error;
    let (engine, _) = engine_counting(&limiter, failed);
    let mut fine = accepted(&engine);
    fine.settle(7.0).expect("the engine settles flows");
    fine.end(FlowOutcome::new(FlowStatus::Ok));
    let mut failing = accepted(&engine);
    failing.settle(6.0).expect("the engine settles flows");
    failing.end(FlowOutcome::new(FlowStatus::Error));
    assert_eq!(tokens(&take(&engine, "0"), "root.0").remaining, 4.0);
}

#[test]
fn a_reload_keeps_the_buckets_and_what_they_count() {
    let folder = std::env::temp_dir();
    let file = folder.join(format!("counting-{}.yaml", std::process::id()));
    let write = |capacity| {
        let mut limiter = failures("");
        limiter.capacity = capacity;
        std::fs::write(&file, policy("test", &[limiter])).expect("the file is written");
    };
    write(3.0);
    let predicate = |outcome: &FlowOutcome| outcome.http_status() == Some(401);
    let engine = Engine::builder()
        .policy_file(&file)
        .clock(ManualClock::new())
        .count_only("test", "root.0", predicate);
    let engine = engine.build().expect("the policy is valid");
    accepted(&engine).end(status(FlowStatus::Ok, StatusCode::UNAUTHORIZED));
    let running = accepted(&engine);
    write(5.0);
    engine.reload().expect("the policy is valid");
    std::fs::remove_file(&file).expect("the file is removed");
    running.end(status(FlowStatus::Ok, StatusCode::OK));
    for _ in 0..20 {
        accepted(&engine).end(status(FlowStatus::Ok, StatusCode::OK));
    }
    assert_eq!(failures_left(&engine), 4);
}

#[test]
fn a_limiter_that_does_not_exist_is_refused_by_name() {
    for (policy, component, expected) in [
        ("absent", "root.0", "no policy is named `absent`"),
        (
            "test",
            "root.7",
            "policy `test` has no rate limiter `root.7`",
        ),
    ] {
        let builder = builder(&[failures("")]).count_only(policy, component, |_| true);
        let error = builder.build().expect_err("the limiter does not exist");
        assert!(error.message().contains(expected), "{error}");
    }
}
