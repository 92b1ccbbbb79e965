//! Concurrency limits that find themselves: per key, through reloads, and within bounds of memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use proptest::prelude::*;
use tower_aperture::engine::{Engine, EngineBuilder, EngineTicket, ManualClock, SlotRef};
use tower_aperture::policy::AdaptiveConcurrency;
use tower_aperture::{FlowOutcome, FlowStatus, RejectReason, Ticket};

use crate::queues::*;
use crate::support::{at_most_cases, secs};

const BY_USER: &str = ", limit_by_label_key: user";

fn builder(parameters: &str, settings: AdaptiveConcurrency) -> EngineBuilder {
    Engine::builder()
        .policy_text("test.yaml", policy_of(&[limiter(20.0, parameters)]))
        .adaptive_limit("test", "root.0", settings)
}

fn engine_with(parameters: &str, settings: AdaptiveConcurrency) -> (Engine, ManualClock) {
    let clock = ManualClock::new();
    let engine = builder(parameters, settings).clock(clock.clone()).build();
    (engine.expect("the policy is valid"), clock)
}

fn ok() -> FlowOutcome {
    FlowOutcome::new(FlowStatus::Ok)
}

/// Starts a flow. Returns `None` if it is rejected.
fn take(engine: &Engine, user: &str) -> Option<EngineTicket> {
    let (report, ticket) = decided(start(engine, &[("user", user)]));
    if !report.accepted() {
        assert_eq!(report.reject_reason, Some(RejectReason::RateLimited));
        return None;
    }
    Some(ticket)
}

/// Returns the limit of a user, and the flows in flight.
fn limit_and_in_flight(engine: &Engine, user: &str) -> (f64, f64) {
    let (report, _ticket) = decided(start(engine, &[("user", user), ("tokens", "0")]));
    let (tokens, _) = tokens_and_slot(&report, "root.0");
    (tokens.remaining + tokens.current, tokens.current)
}

fn limit(engine: &Engine, user: &str) -> f64 {
    limit_and_in_flight(engine, user).0
}

/// Serves as many flows of a user as the limit lets in, again and again, each in `latency`.
fn serve(engine: &Engine, clock: &ManualClock, user: &str, latency: f64, rounds: u32) {
    for _ in 0..rounds {
        let flows: Vec<EngineTicket> = std::iter::from_fn(|| take(engine, user)).collect();
        clock.advance(secs(latency));
        flows.into_iter().for_each(|ticket| ticket.end(ok()));
    }
}

fn algorithms() -> [AdaptiveConcurrency; 2] {
    [
        AdaptiveConcurrency::gradient(),
        AdaptiveConcurrency::vegas(),
    ]
}

#[test]
fn each_key_finds_its_own_limit() {
    for settings in algorithms() {
        let (engine, clock) = engine_with(BY_USER, settings);
        serve(&engine, &clock, "slow", 0.05, 40);
        for _ in 0..30 {
            serve(&engine, &clock, "quick", 0.05, 2);
            serve(&engine, &clock, "slow", 0.5, 2);
        }
        assert!(
            limit(&engine, "quick") > 24.0,
            "{}",
            limit(&engine, "quick")
        );
        assert!(limit(&engine, "slow") < 16.0, "{}", limit(&engine, "slow"));
        assert_eq!(limit(&engine, "new"), 20.0);

        let found = &engine.adaptive_limits()[0];
        assert_eq!(
            (&*found.policy_name, &*found.component_id),
            ("test", "root.0")
        );
        assert_eq!(found.keys, 3);
        assert_eq!(found.lowest, limit(&engine, "slow"));
        assert_eq!(found.highest, limit(&engine, "quick"));
        assert_eq!(found.mean, (found.lowest + found.highest + 20.0) / 3.0);
    }
}

#[test]
fn a_flow_is_measured_to_the_head_of_its_response_unless_to_its_end_is_set() {
    let change_with = |settings: AdaptiveConcurrency| {
        let (engine, clock) = engine_with("", settings);
        serve(&engine, &clock, "ann", 0.05, 40);
        let before = limit(&engine, "ann");
        for _ in 0..40 {
            let mut flows: Vec<EngineTicket> =
                std::iter::from_fn(|| take(&engine, "ann")).collect();
            clock.advance(secs(0.05));
            for ticket in &mut flows {
                ticket.response_started(ok());
                ticket.response_started(ok());
            }
            // Slow readers: their flows hold their slots, and fail at last.
            clock.advance(secs(5.0));
            let failed = FlowOutcome::new(FlowStatus::Error);
            for (at, ticket) in flows.into_iter().enumerate() {
                ticket.end(if at % 2 == 0 { ok() } else { failed });
            }
        }
        limit(&engine, "ann") / before
    };
    for settings in algorithms() {
        let to_head = change_with(settings.clone());
        assert!(to_head > 1.2, "{to_head}: {settings:?}");
        let to_end = change_with(settings.until_end());
        assert!(to_end < 0.5, "{to_end}");
    }
}

#[test]
fn failures_that_say_nothing_about_the_load_leave_the_limit_as_it_is() {
    for settings in algorithms() {
        let (engine, clock) = engine_with("", settings);
        serve(&engine, &clock, "ann", 0.05, 4);
        let before = limit(&engine, "ann");
        let fail = |after: f64, outcome: FlowOutcome, rounds: u32| {
            for _ in 0..rounds {
                let flows: Vec<_> = std::iter::from_fn(|| take(&engine, "ann")).collect();
                clock.advance(secs(after));
                flows.into_iter().for_each(|ticket| ticket.end(outcome));
            }
        };
        let error = FlowOutcome::new(FlowStatus::Error);
        fail(0.01, error, 20);
        fail(
            0.01,
            error.with_http_status(http::StatusCode::INTERNAL_SERVER_ERROR),
            20,
        );
        fail(9.0, FlowOutcome::new(FlowStatus::Unset), 20);
        assert_eq!(limit(&engine, "ann"), before);
        // A caller who waited for too long, and a service that says that it is overloaded.
        fail(1.0, error, 12);
        let after_timeouts = limit(&engine, "ann");
        assert!(after_timeouts < before);
        fail(
            0.06,
            error.with_http_status(http::StatusCode::SERVICE_UNAVAILABLE),
            20,
        );
        assert!(limit(&engine, "ann") < after_timeouts);
    }
}

#[test]
fn a_reload_keeps_the_limit_that_was_found_unless_the_label_changes() {
    let (engine, clock) = engine_with(BY_USER, AdaptiveConcurrency::vegas());
    serve(&engine, &clock, "ann", 0.05, 20);
    let found = limit(&engine, "ann");
    assert!(found > 24.0);
    let held = take(&engine, "ann");
    let reload = |parameters: &str| {
        let text = policy_of(&[limiter(7.0, parameters)]);
        engine.reload_with([("test.yaml", text)])
    };
    reload(&format!("{BY_USER}, max_idle_time: 90s")).expect("the policy is valid");
    assert_eq!(limit_and_in_flight(&engine, "ann"), (found, 1.0));
    serve(&engine, &clock, "ann", 0.05, 4);
    assert!(limit(&engine, "ann") > found, "it goes on from there");
    drop(held);

    reload(", limit_by_label_key: tenant").expect("the policy is valid");
    assert_eq!(engine.adaptive_limits()[0].keys, 0);
    reload(BY_USER).expect("the policy is valid");
    assert_eq!(limit(&engine, "ann"), 20.0);
    let gone = engine.reload_with([("other.yaml", policy_of(&[limiter(7.0, "")]))]);
    let gone = gone
        .expect_err("the policy of the adaptive limit is gone")
        .to_string();
    assert!(gone.contains("no policy is named `test`"), "{gone}");
}

#[test]
fn made_up_keys_neither_exceed_the_memory_bound_nor_evict_what_was_learned() {
    let clock = ManualClock::new();
    let engine = builder(BY_USER, AdaptiveConcurrency::vegas())
        .clock(clock.clone())
        .max_keys(500)
        .build()
        .expect("the policy is valid");
    serve(&engine, &clock, "ann", 0.05, 20);
    let found = limit(&engine, "ann");
    let held = take(&engine, "bob");
    for user in 0..5000 {
        let ticket = take(&engine, &format!("user-{user}"));
        ticket.expect("a new key has free slots").end(ok());
        assert!(engine.stats().keys <= 500);
    }
    assert!(engine.stats().evicted >= 4500);
    assert_eq!(limit(&engine, "ann"), found);
    assert_eq!(limit_and_in_flight(&engine, "bob").1, 1.0);
    drop(held);
    // An idle key expires, with its limit.
    clock.advance(secs(3.0 * 3600.0));
    assert_eq!(limit(&engine, "ann"), 20.0);
}

#[test]
fn it_is_a_concurrency_limiter_in_reports_and_descriptions() {
    let (engine, _) = engine_with(BY_USER, AdaptiveConcurrency::gradient().initial(1));
    let first = take(&engine, "ann");
    let (report, _ticket) = decided(start(&engine, &[("user", "ann")]));
    let (tokens, has_slot_id) = tokens_and_slot(&report, "root.0");
    assert_eq!(
        (tokens.remaining, tokens.current, has_slot_id),
        (0.0, 1.0, true)
    );
    drop(first);
    assert_eq!(engine.components()[0].kind, "concurrency_limiter");
    let text = engine.describe();
    let expected = "root.0 concurrency_limiter: finds its limit: 1 to 1000 in flight, 1 at first, by \
                    gradient, each for at most 10s, for each value of the label `user`";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn what_cannot_work_is_refused_with_policy_component_setting_and_fix() {
    let gradient = AdaptiveConcurrency::gradient;
    let refusal = |policy: &str, id: &str, component: &str, settings| {
        let built = Engine::builder()
            .policy_text("test.yaml", policy_of(&[component.to_owned()]))
            .adaptive_limit(policy, id, settings)
            .build();
        built.expect_err("it is refused").to_string()
    };
    let slots_20 = limiter(20.0, "");
    for (error, parts) in [
        (
            refusal("test", "root.0", &slots_20, gradient().min(30).max(20)),
            [
                "test.yaml: ",
                "`root.0`: `max` must be at least `min`, which is 30",
            ],
        ),
        (
            refusal("test", "root.0", &slots_20, gradient().tolerance(f64::NAN)),
            [
                "`tolerance` must be a finite number",
                "not NaN; 1.5 is usual",
            ],
        ),
        (
            refusal("test", "root.7", &slots_20, gradient()),
            ["no such component", "its concurrency limiters are `root.0`"],
        ),
        (
            refusal("tset", "root.0", &slots_20, gradient()),
            ["adaptive_limit", "no policy is named `tset`"],
        ),
        (
            refusal("test", "root.0", &slots(3.0, "", ""), gradient()),
            [
                "only a `concurrency_limiter`",
                "not a `concurrency_scheduler`",
            ],
        ),
    ] {
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    }
    let text = "
circuit:
  components:
  - integrator: {in_ports: {input: {constant_signal: {value: 1}}}, out_ports: {output: {signal_name: M}}}
  - flow_control:
      concurrency_limiter:
        selectors: [{control_point: here}]
        in_ports: {max_concurrency: {signal_name: M}}
        parameters: {max_inflight_duration: 10s}
";
    let built = Engine::builder()
        .policy_text("test.yaml", text)
        .adaptive_limit("test", "root.1", gradient())
        .build();
    let error = built.expect_err("two sources of one limit").to_string();
    assert!(error.contains("`max_concurrency` is a signal"), "{error}");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Take,
    End(usize, bool),
    Drop(usize),
    Panic(usize),
    Respond(usize),
    EndByReference(usize),
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Take),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, well)| Step::End(at, well)),
        1 => any::<usize>().prop_map(Step::Drop),
        1 => any::<usize>().prop_map(Step::Panic),
        1 => any::<usize>().prop_map(Step::Respond),
        1 => any::<usize>().prop_map(Step::EndByReference),
        1 => (0..4000_u64).prop_map(Step::Advance),
    ]
}

/// A flow that the test holds, and when its slot expires at the latest.
struct Held {
    ticket: EngineTicket,
    slots: Vec<SlotRef>,
    expires: Duration,
}

proptest! {
    // Each case is a long sequence.
    #![proptest_config(at_most_cases(1000))]

    #[test]
    fn each_slot_is_returned_exactly_once_whatever_happens(
        vegas in any::<bool>(),
        until_end in any::<bool>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut settings = match vegas {
            true => AdaptiveConcurrency::vegas(),
            false => AdaptiveConcurrency::gradient(),
        };
        if until_end {
            settings = settings.until_end();
        }
        let (engine, clock) = engine_with("", settings.max(30));
        let mut flows: Vec<Held> = Vec::new();
        let mut time = Duration::ZERO;
        for step in steps {
            let pick = |flows: &mut Vec<Held>, at: usize| {
                (!flows.is_empty()).then(|| flows.swap_remove(at % flows.len()))
            };
            match step {
                Step::Take => {
                    let (report, ticket) = decided(start(&engine, &[]));
                    if report.accepted() {
                        let expires = time + secs(10.0);
                        flows.push(Held { ticket, slots: report.slots(), expires });
                    }
                }
                Step::End(at, well) => {
                    let status = if well { FlowStatus::Ok } else { FlowStatus::Error };
                    if let Some(flow) = pick(&mut flows, at) {
                        flow.ticket.end(FlowOutcome::new(status));
                        prop_assert!(!engine.flow_end(&flow.slots, None)[0].returned);
                    }
                }
                Step::Drop(at) => drop(pick(&mut flows, at)),
                Step::Panic(at) => {
                    let flow = pick(&mut flows, at);
                    let panicked = catch_unwind(AssertUnwindSafe(move || {
                        let _flow = flow;
                        std::panic::resume_unwind(Box::new("on purpose"));
                    }));
                    prop_assert!(panicked.is_err());
                }
                Step::Respond(at) => {
                    let count = flows.len().max(1);
                    if let Some(flow) = flows.get_mut(at % count) {
                        flow.ticket.response_started(ok());
                    }
                }
                Step::EndByReference(at) => {
                    if let Some(flow) = pick(&mut flows, at) {
                        let held = flow.expires >= time;
                        flow.ticket.leave_open();
                        prop_assert_eq!(engine.flow_end(&flow.slots, None)[0].returned, held);
                        prop_assert!(!engine.flow_end(&flow.slots, None)[0].returned);
                    }
                }
                Step::Advance(millis) => {
                    time += Duration::from_millis(millis);
                    clock.advance(Duration::from_millis(millis));
                }
            }
            let held = flows.iter().filter(|flow| flow.expires >= time).count();
            let (limit, in_flight) = limit_and_in_flight(&engine, "");
            prop_assert_eq!(in_flight, held as f64);
            prop_assert!((1.0..=30.0).contains(&limit));
        }
        drop(flows);
        prop_assert_eq!(limit_and_in_flight(&engine, "").1, 0.0);
    }

    #[test]
    fn no_tokens_and_no_latency_take_a_limit_out_of_its_bounds(
        vegas in any::<bool>(),
        flows in prop::collection::vec((prop::sample::select(vec![
            "0", "-5", "1", "1e308", "-1e308", "NaN", "inf", "7.5", "",
        ]), 0..20_000_u64, any::<bool>()), 1..120),
    ) {
        let settings = match vegas {
            true => AdaptiveConcurrency::vegas(),
            false => AdaptiveConcurrency::gradient(),
        };
        let settings = settings.min(4).max(40).window(Duration::from_millis(1));
        let (engine, clock) = engine_with("", settings);
        for (tokens, millis, well) in flows {
            let (_, ticket) = decided(start(&engine, &[("tokens", tokens)]));
            clock.advance(Duration::from_millis(millis));
            let status = if well { FlowStatus::Ok } else { FlowStatus::Error };
            ticket.end(FlowOutcome::new(status));
            let found = engine.adaptive_limits();
            prop_assert!((4.0..=40.0).contains(&found[0].lowest));
            prop_assert!((4.0..=40.0).contains(&found[0].highest));
        }
    }
}
