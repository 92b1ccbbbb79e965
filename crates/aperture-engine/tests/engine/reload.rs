//! Reloads: policies change while flows are decided.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use proptest::prelude::*;
use tower_aperture::Engine;
use tower_aperture::engine::{CheckInput, CheckReport, EngineTicket, ManualClock, PendingReport};

use crate::loading::Folder;
use crate::queues::{self, policy_of};
use crate::support::*;

/// Creates an engine with a policy `p` of these limiters.
fn engine_of(limiters: &[Limiter]) -> Engine {
    Engine::builder()
        .policy_text("p.yaml", policy("p", limiters))
        .clock(ManualClock::new())
        .build()
        .expect("the policy is valid")
}

fn reload(engine: &Engine, limiters: &[Limiter]) {
    engine
        .reload_with([("p.yaml", policy("p", limiters))])
        .expect("the policy is valid");
}

#[test]
fn unchanged_components_keep_their_state() {
    let kept = Limiter::new(3.0, 0.0);
    let engine = engine_of(&[kept.clone(), Limiter::new(9.0, 0.0)]);
    assert!(check(&engine, &[]).accepted());
    assert!(check(&engine, &[]).accepted());
    reload(&engine, &[kept.clone(), Limiter::new(8.0, 0.0)]);
    assert!(check(&engine, &[]).accepted());
    assert!(!check(&engine, &[]).accepted());
    // Other selectors keep the state as well.
    reload(
        &engine,
        &[kept.selectors("[{control_point: here}, {control_point: there}]")],
    );
    assert!(!check(&engine, &[]).accepted());
}

#[test]
fn removed_components_lose_their_state() {
    let engine = engine_of(&[Limiter::new(1.0, 0.0)]);
    assert!(check(&engine, &[]).accepted());
    assert!(!check(&engine, &[]).accepted());
    reload(&engine, &[]);
    assert!(check(&engine, &[]).accepted());
    assert_eq!(engine.stats().keys, 0);
}

#[test]
fn an_invalid_file_changes_nothing_and_returns_its_error() {
    let engine = engine_of(&[Limiter::new(1.0, 0.0)]);
    assert!(check(&engine, &[]).accepted());
    let good = policy("q", &[Limiter::new(5.0, 0.0)]);
    let bad = policy("r", &[Limiter::new(5.0, 0.0)]).replace("fill_amount", "fill_amout");
    let error = engine
        .reload_with([("q.yaml", good), ("r.yaml", bad)])
        .expect_err("a port is missing");
    assert!(error.to_string().starts_with("r.yaml:"), "{error}");
    let report = check(&engine, &[]);
    assert!(!report.accepted());
    assert_eq!(&*report.limiter_decisions[0].policy_name, "p");
}

#[test]
fn a_reload_from_the_sources_replaces_policies_from_texts() {
    let engine = engine_of(&[Limiter::new(1.0, 0.0)]);
    engine
        .reload_with([("q.yaml", policy("q", &[]))])
        .expect("the policy is valid");
    assert!(check(&engine, &[]).limiter_decisions.is_empty());
    engine.reload().expect("the sources are unchanged");
    let report = check(&engine, &[]);
    assert_eq!(&*report.limiter_decisions[0].policy_name, "p");
}

#[test]
fn reloads_under_load_neither_lose_nor_create_tokens() {
    const TOKENS: usize = 20_000;
    let kept = Limiter::new(TOKENS as f64, 0.0);
    let engine = engine_of(std::slice::from_ref(&kept));
    let is_exhausted = AtomicBool::new(false);
    let accepted: usize = thread::scope(|threads| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                threads.spawn(|| {
                    let mut accepted = 0;
                    while !is_exhausted.load(Ordering::Relaxed) {
                        if check(&engine, &[]).accepted() {
                            accepted += 1;
                        } else {
                            is_exhausted.store(true, Ordering::Relaxed);
                        }
                    }
                    accepted
                })
            })
            .collect();
        let mut other = 0.0;
        while !is_exhausted.load(Ordering::Relaxed) {
            other += 1.0;
            reload(&engine, &[kept.clone(), Limiter::new(1e9 + other, 0.0)]);
        }
        workers
            .into_iter()
            .map(|worker| worker.join().expect("no worker panics"))
            .sum()
    });
    assert_eq!(accepted, TOKENS);
}

/// Waits until the condition holds, and panics after a minute.
fn wait_until(is_met: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_met() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "the condition never holds"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_watcher_follows_the_files_and_keeps_valid_policies() {
    let folder = Folder::new("watched");
    folder.write("p.yaml", &policy("p", &[Limiter::new(1.0, 0.0)]));
    let engine = Engine::builder()
        .policy_folder(folder.path())
        .clock(ManualClock::new())
        .build()
        .expect("the policy is valid");
    let watcher = engine
        .watch(Duration::from_millis(2))
        .expect("a thread can be started");
    let in_force = || check(&engine, &[]).limiter_decisions.len();
    assert_eq!(in_force(), 1);

    folder.write("q.yaml", &policy("q", &[Limiter::new(1.0, 0.0)]));
    wait_until(|| in_force() == 2);
    // The first policy still has its state.
    assert!(is_rejected_by(&check(&engine, &[]), "p"));

    folder.write("q.yaml", "circuit: {components: [{}]}");
    wait_until(|| watcher.last_error().is_some());
    assert_eq!(in_force(), 2);

    folder.write("q.yaml", &policy("q", &[]));
    wait_until(|| in_force() == 1);
    assert!(watcher.last_error().is_none());
    drop(watcher);

    let watcher = engine
        .watch(Duration::MAX)
        .expect("a thread can be started");
    drop(engine);
    drop(watcher);
}

/// Returns whether the policy rejected the flow.
fn is_rejected_by(report: &CheckReport, name: &str) -> bool {
    let mut decisions = report.limiter_decisions.iter();
    decisions.any(|decision| *decision.policy_name == *name && decision.dropped)
}

/// Returns a policy of a concurrency scheduler with one slot, and of a rate limiter with this many
/// tokens.
fn one_at_a_time(tokens: u32) -> String {
    format!(
        "
circuit:
  components:
  - flow_control:
      concurrency_scheduler:
        selectors: [{{control_point: here}}]
        in_ports: {{max_concurrency: {{constant_signal: {{value: 1}}}}}}
        concurrency_limiter: {{max_inflight_duration: 3600s}}
        scheduler: {{default_workload_parameters: {{queue_timeout: 60s}}}}
  - flow_control:
      rate_limiter:
        selectors: [{{control_point: here}}]
        in_ports:
          bucket_capacity: {{constant_signal: {{value: {tokens}}}}}
          fill_amount: {{constant_signal: {{value: 0}}}}
        parameters: {{interval: 1s}}
"
    )
}

/// Creates an engine that runs one flow at a time.
fn engine_with_one_slot() -> Engine {
    Engine::builder()
        .policy_text("one.yaml", one_at_a_time(100))
        .clock(ManualClock::new())
        .build()
        .expect("the policy is valid")
}

#[test]
fn slots_and_waiters_survive_a_reload() {
    let engine = engine_with_one_slot();
    let params = params(&[]);
    let input = CheckInput::new(HERE, &params);
    let (first, ticket) = engine.start(&input).now_or_never().expect("a slot is free");
    assert!(first.accepted());
    let mut second = engine.start(&input);
    assert!((&mut second).now_or_never().is_none());

    engine
        .reload_with([("one.yaml", one_at_a_time(200))])
        .expect("the policy is valid");
    assert!(!check(&engine, &[]).accepted());
    assert!((&mut second).now_or_never().is_none());
    drop(ticket);
    let (report, ticket) = second.now_or_never().expect("the slot was returned");
    assert!(report.accepted());
    drop(ticket);
    let (third, _) = engine.start(&input).now_or_never().expect("a slot is free");
    assert!(third.accepted());
}

#[test]
fn a_slot_reference_from_before_a_reload_ends_its_flow() {
    let engine = engine_with_one_slot();
    let report = check(&engine, &[]);
    for tokens in [200, 300, 200] {
        engine
            .reload_with([("one.yaml", one_at_a_time(tokens))])
            .expect("the policy is valid");
    }
    assert!(!check(&engine, &[]).accepted());
    let slots = report.slots();
    let returned: Vec<bool> = engine
        .flow_end(&slots, None)
        .iter()
        .map(|slot| slot.returned)
        .collect();
    assert_eq!(returned, [true]);
    assert!(check(&engine, &[]).accepted());
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Check,
    Start,
    Leave(usize),
    End(usize),
    Reload(u32),
}

proptest! {
    /// Tokens, slots and waiters are the same as without reloads.
    #[test]
    fn reloads_between_flows_neither_lose_nor_create_tokens_and_slots(
        events in prop::collection::vec(
            prop_oneof![
                2 => Just(Event::Check),
                3 => Just(Event::Start),
                1 => (0..9_usize).prop_map(Event::Leave),
                2 => (0..9_usize).prop_map(Event::End),
                2 => (1..9_u32).prop_map(Event::Reload),
            ],
            1..30,
        ),
    ) {
        const TOKENS: usize = 4;
        const SLOTS: usize = 2;
        let there = queues::slots(SLOTS as f64, "", queues::QUEUE_TIMEOUT_5S)
            .replace("control_point: here", "control_point: there");
        let texts = |other: u32| {
            let limiters = [Limiter::new(TOKENS as f64, 0.0), Limiter::new(1e6, other.into())];
            [("p", policy("p", &limiters)), ("q", policy_of(std::slice::from_ref(&there)))]
        };
        let [(p, first), (q, second)] = texts(0);
        let engine = Engine::builder()
            .policy_text(p, first)
            .policy_text(q, second)
            .clock(ManualClock::new())
            .build()
            .expect("the policies are valid");
        let start = || engine.start(&CheckInput::new("there", &params(&[])));
        let mut spent = 0;
        let mut held: Vec<EngineTicket> = Vec::new();
        let mut waiting: Vec<PendingReport> = Vec::new();
        for event in events {
            match event {
                Event::Check => {
                    let accepted = check(&engine, &[]).accepted();
                    prop_assert_eq!(accepted, spent < TOKENS);
                    spent += usize::from(accepted);
                }
                Event::Start => waiting.push(start()),
                Event::Leave(at) if !waiting.is_empty() => {
                    drop(waiting.remove(at % waiting.len()));
                }
                Event::End(at) if !held.is_empty() => {
                    drop(held.remove(at % held.len()));
                }
                Event::Reload(other) => {
                    engine.reload_with(texts(other)).expect("the policies are valid");
                }
                Event::Leave(_) | Event::End(_) => {}
            }
            waiting.retain_mut(|pending| match pending.now_or_never() {
                Some((report, ticket)) => {
                    assert!(report.accepted(), "no flow has timed out");
                    held.push(ticket);
                    false
                }
                None => true,
            });
            prop_assert!(held.len() <= SLOTS);
            prop_assert!(held.len() == SLOTS || waiting.is_empty());
        }
    }
}
