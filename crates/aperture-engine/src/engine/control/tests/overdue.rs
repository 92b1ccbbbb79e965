//! Tests of ticks that are evaluated late.

use super::*;

#[test]
fn overdue_ticks_are_evaluated_in_bounded_batches() {
    let policy = policy_of(load_scheduler(Port::Constant(1.0), true), Vec::new());
    let (control, actuator) = control_for(&policy, None);
    // There is one decision in ten ticks.
    let decisions = || actuator.loads().len() as u64;
    let hours = 3600 * SECOND;
    control.catch_up(hours);
    assert_eq!(decisions(), MAX_TICKS_PER_CALL / 10);
    for _ in 0..3 {
        control.catch_up(hours);
    }
    assert_eq!(decisions(), 360);
    control.catch_up(hours + 9 * SECOND - 1);
    assert_eq!(decisions(), 360);
    control.catch_up(hours + 9 * SECOND);
    assert_eq!(decisions(), 361);
    // Ticks are evaluated up to the end of time.
    for _ in 0..2000 {
        control.catch_up(Nanos::MAX);
    }
    assert!(decisions().abs_diff(361 + MAX_BACKLOG_TICKS / 10) <= 1);
}

/// Returns a signal, and a loop with a load scheduler whose multiplier follows it.
fn following() -> (
    Arc<NumberSource>,
    Control<RecordingActuator>,
    Arc<RecordingActuator>,
) {
    let number = NumberSource::new(0.5);
    let changing = load_scheduler(Port::Changing(SignalId(0)), false);
    let (control, actuator) = control_for(&policy_of(changing, vec![query("q")]), number.source());
    (number, control, actuator)
}

fn multipliers(actuator: &RecordingActuator) -> Vec<f64> {
    let loads = actuator.loads();
    loads.iter().map(|load| load.load_multiplier).collect()
}

#[test]
fn overdue_ticks_hold_the_last_value_and_the_newest_queries_again() {
    let (number, control, actuator) = following();
    control.catch_up(0);
    number.set(0.9);
    // The ticks 10, 20, 30 and 40 end periods, and the newest is 45.
    control.catch_up(44 * SECOND + 5);
    assert_eq!(multipliers(&actuator), [0.5, 0.5, 0.5, 0.9]);
    let last = actuator.loads().pop().expect("a decision was applied");
    assert_eq!(last.valid_until, Some((44 + 50) * SECOND));
    assert_eq!(number.queries.load(Ordering::Relaxed), 2);
    // The deferred end does not shift later periods.
    number.set(0.7);
    control.catch_up(48 * SECOND);
    assert_eq!(multipliers(&actuator).len(), 4);
    control.catch_up(49 * SECOND);
    assert_eq!(multipliers(&actuator)[4..], [0.7]);
}

#[test]
fn a_backlog_of_several_batches_queries_again_only_at_the_newest_tick() {
    let (number, control, actuator) = following();
    control.catch_up(0);
    number.set(0.9);
    let end = (3 * MAX_TICKS_PER_CALL as Nanos + 4) * SECOND;
    for _ in 0..3 {
        control.catch_up(end);
        let multipliers_so_far = multipliers(&actuator);
        assert!(
            multipliers_so_far
                .iter()
                .all(|multiplier| *multiplier == 0.5),
            "{multipliers_so_far:?}"
        );
    }
    control.catch_up(end);
    let multipliers_so_far = multipliers(&actuator);
    let (last, before) = multipliers_so_far
        .split_last()
        .expect("a decision was applied");
    assert_eq!(*last, 0.9);
    assert!(before.iter().all(|multiplier| *multiplier == 0.5));
    assert_eq!(
        multipliers_so_far.len() as u64,
        (3 * MAX_TICKS_PER_CALL + 5) / 10
    );
}

#[test]
fn a_missed_query_with_a_long_interval_runs_at_the_newest_tick() {
    let mut node = query("q");
    if let Op::Query { interval, .. } = &mut node.op {
        *interval = Duration::from_secs(10);
    }
    let number = NumberSource::new(1.0);
    let policy = policy_of(sampler(Port::Changing(SignalId(0))), vec![node]);
    let (control, actuator) = control_for(&policy, number.source());
    control.catch_up(0);
    for (second, value) in [(8, 2.0), (11, 3.0), (18, 4.0), (19, 5.0)] {
        number.set(value);
        control.catch_up(second * SECOND);
    }
    assert_eq!(actuator.percentages(), [1.0, 3.0, 5.0]);
}

/// For a decider with `true_for`, the new answer has held for no time during a silence.
#[test]
fn a_decider_does_not_count_the_newest_value_for_overdue_ticks() {
    let decider = CircuitNode {
        id: "root.2".into(),
        op: Op::Decider {
            comparison: crate::policy::Comparison::Gt,
            true_for: Duration::from_secs(3),
        },
        inputs: vec![Port::Changing(SignalId(0)), Port::Constant(0.5)],
        outputs: vec![Some(SignalId(1))],
    };
    let mut policy = policy_of(
        sampler(Port::Changing(SignalId(1))),
        vec![query("q"), decider],
    );
    if let Some(circuit) = &mut policy.circuit {
        circuit.signals = 2;
    }
    let number = NumberSource::new(0.0);
    let (control, actuator) = control_for(&policy, number.source());
    control.catch_up(0);
    number.set(1.0);
    control.catch_up(600 * SECOND);
    control.catch_up(602 * SECOND);
    assert_eq!(actuator.percentages(), [0.0]);
    control.catch_up(603 * SECOND);
    assert_eq!(actuator.percentages(), [0.0, 1.0]);
}
