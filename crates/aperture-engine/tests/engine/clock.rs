//! The engine reads its clock at most once for a decision, and only if a component needs the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tower_aperture::engine::{CheckInput, Clock, Engine};
use tower_aperture::{FlowOutcome, FlowParams, FlowStatus, Ticket};

use crate::queues::*;
use crate::support::{HERE, params};

/// A clock that stands still and counts how often it is read.
#[derive(Clone, Debug, Default)]
struct CountingClock(Arc<AtomicU64>);

impl CountingClock {
    /// Returns how often the clock is read while `act` runs.
    fn reads(&self, act: impl FnOnce()) -> u64 {
        let before = self.0.load(Ordering::Relaxed);
        act();
        self.0.load(Ordering::Relaxed) - before
    }
}

impl Clock for CountingClock {
    fn now(&self) -> Duration {
        self.0.fetch_add(1, Ordering::Relaxed);
        Duration::ZERO
    }
}

/// Returns an engine that has decided about a first flow.
fn engine_of(text: String) -> (Engine, CountingClock) {
    let clock = CountingClock::default();
    let builder = Engine::builder().clock(clock.clone());
    let engine = builder.policy_text("test.yaml", text).build();
    let engine = engine.expect("the policy is valid");
    drop(decided(start(&engine, &[("user", "a")])));
    (engine, clock)
}

fn sampler() -> String {
    format!(
        "sampler: {{in_ports: {{accept_percentage: {{constant_signal: {{value: 100}}}}}}, \
         parameters: {{session_label_key: user, selectors: [{{control_point: {HERE}}}]}}}}"
    )
}

/// Returns how often the clock is read for the decision on a flow, and for its end.
fn reads(text: String, flow: &FlowParams<'_>) -> (u64, u64) {
    let (engine, clock) = engine_of(text);
    let mut ticket = None;
    let decision = clock.reads(|| {
        let (report, held) = decided(engine.start(&CheckInput::new(HERE, flow)));
        assert!(report.accepted());
        ticket = Some(held);
    });
    let ticket = ticket.expect("the flow is decided");
    let end = clock.reads(|| ticket.end(FlowOutcome::new(FlowStatus::Ok)));
    (decision, end)
}

#[test]
fn the_clock_is_not_read_for_a_flow_that_no_component_needs_the_time_for() {
    let by_user = ", limit_by_label_key: user";
    let without_label = params(&[]);
    for components in [
        vec![],
        vec![sampler()],
        vec![limiter(9.0, by_user)],
        vec![slots(9.0, by_user, "")],
        vec![sampler(), limiter(9.0, by_user)],
    ] {
        let text = policy_of(&components);
        assert_eq!(reads(text, &without_label), (0, 0), "{components:?}");
    }
}

#[test]
fn the_clock_is_read_once_for_a_decision_and_not_for_the_return_of_a_slot() {
    let flow = params(&[("user", "a")]);
    for components in [
        vec![limiter(9.0, "")],
        vec![slots(9.0, "", "")],
        vec![quota(9.0, 1.0, "")],
        vec![sampler(), limiter(9.0, ""), slots(9.0, "", "")],
        vec![slots(9.0, "", ""), quota(9.0, 1.0, ""), quota(9.0, 1.0, "")],
    ] {
        let text = policy_of(&components);
        assert_eq!(reads(text, &flow), (1, 0), "{components:?}");
    }
}

#[test]
fn a_cache_lookup_and_a_flux_meter_use_the_time_of_the_decision() {
    let meter = format!(
        "resources: {{flow_control: {{flux_meters: {{latency: {{selectors: [{{control_point: \
         {HERE}}}]}}}}}}}}\n"
    );
    let text = meter + &policy_of(&[quota(9.0, 1.0, "")]);
    let flow = params(&[]).result_cache_key("unknown");
    // The end of the flow is measured.
    assert_eq!(reads(text, &flow), (1, 1));
}
