//! Time grows linearly with the number of keys, slots and policies. The bounds are wide: with
//! quadratic growth, a test would take a hundred times as long. They are bounds of processor time,
//! where the system tells it, so that a busy machine does not exceed them.

use std::fs;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tower_aperture::engine::{CheckInput, Engine, ManualClock};

use crate::queues::{engine_of, limiter};
use crate::support::*;

const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Returns the time for which this thread has run, or the time of day where the system does not
/// tell it.
fn thread_time() -> Duration {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let begun = *BEGUN;
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = statistics.and_then(|text| text.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| begun.elapsed(), Duration::from_nanos)
}

#[test]
fn the_time_of_a_cache_lookup_grows_linearly_with_its_keys() {
    let (engine, _) = engine_of(&[]);
    let keys: Vec<String> = (0..300_000).map(|key| format!("{key:06x}")).collect();
    let begun = thread_time();
    let twice = keys.iter().chain(&keys).map(String::as_str);
    let found = engine.cache_lookup(HERE, "", twice);
    assert!(thread_time() - begun < TIME_LIMIT);
    assert_eq!(found.global.len(), keys.len(), "each key is found once");
}

#[test]
fn the_time_to_expire_and_return_slots_of_mixed_costs_grows_linearly() {
    let (engine, clock) = engine_of(&[limiter(1e9, "")]);
    let costs = ["-1e9", "1e9", "0.1", "1e15", "-1e15", "1e300", "-1e300"];
    let take = |at: usize| check(&engine, &[("tokens", costs[at % costs.len()])]);
    let begun = thread_time();
    for at in 0..100_000 {
        take(at);
    }
    clock.advance(secs(11.0));
    // All slots expire at once.
    assert!(check(&engine, &[]).accepted());
    let slots: Vec<_> = (0..50_000).map(|at| take(at).slots()).collect();
    for slots in slots.iter().rev() {
        engine.flow_end(slots, None);
    }
    assert!(thread_time() - begun < TIME_LIMIT);
}

#[test]
fn the_time_of_checks_and_reloads_grows_linearly_with_the_policies() {
    const MANY: usize = 3000;
    let matcher = "label_matcher: {match_list: [{key: nobody, operator: DoesNotExist}]}";
    let text = |at: usize| {
        let selectors = match at % 3 {
            0 => format!("[{{control_point: {HERE}}}]"),
            1 => format!("[{{control_point: {HERE}, {matcher}}}]"),
            _ => format!("[{{control_point: {HERE}, service: shop, {matcher}}}]"),
        };
        let limiter = Limiter::new(1e6, 1.0).selectors(&selectors);
        policy(&format!("policy {at}"), &[limiter])
    };
    let texts: Vec<(String, String)> = (0..MANY).map(|at| (format!("{at}"), text(at))).collect();
    let engine = Engine::builder().clock(ManualClock::new()).build();
    let engine = engine.expect("an engine without policies is valid");
    engine
        .reload_with(texts.clone())
        .expect("the policies are valid");
    let params = params(&[]);
    let services = vec!["shop"; 1000];
    let input = CheckInput::new(HERE, &params).services(&services);
    let begun = thread_time();
    for used in 1..=3 {
        let report = engine.check(&input);
        assert_eq!(
            report.limiter_decisions.len(),
            MANY,
            "each limiter decides once"
        );
        engine
            .reload_with(texts.clone())
            .expect("the policies are valid");
        let kept = tokens(&engine.check(&input), "root.0").remaining;
        assert!(kept <= 1e6 - f64::from(used), "the state is kept");
    }
    assert!(thread_time() - begun < TIME_LIMIT);
}
