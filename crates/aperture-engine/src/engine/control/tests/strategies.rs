//! Tests of the load schedulers that follow a signal, read from policies, against measurements of a
//! real Controller.

use super::*;
use crate::policy::load;

/// Returns a policy whose signal is a query.
fn policy(kind: &str, in_ports: &str, parameters: &str) -> Policy {
    let text = format!(
        "circuit:
  components:
  - query:
      promql:
        query_string: pressure
        evaluation_interval: 1s
        out_ports: {{output: {{signal_name: PRESSURE}}}}
  - flow_control:
      {kind}:
        in_ports: {{signal: {{signal_name: PRESSURE}}{in_ports}}}
        parameters:
          load_scheduler: {{selectors: [{{control_point: here}}]}}
          alerter: {{alert_name: pressure}}
          {parameters}
"
    );
    load("p.yaml", &text).expect("the policy is valid").policy
}

const SETPOINT: &str = ", setpoint: {constant_signal: {value: 5}}";

/// Returns the multiplier that is published every ten seconds while the signal has the value of
/// `pressure` at each second, and ten tokens are requested per second; NaN means pass-through.
fn published(policy: &Policy, seconds: i64, pressure: impl Fn(i64) -> f64) -> Vec<f64> {
    let number = NumberSource::new(0.0);
    let (control, actuator) = control_for(policy, number.source());
    for second in 0..seconds {
        number.set(pressure(second));
        control.catch_up(second * SECOND);
        // Adds the demand of this second, split by the latest decision. On the recorded Agent,
        // learning ended 20 s after the first decision.
        let share = match actuator.loads().last() {
            Some(load) if !load.pass_through && second >= 29 => load.load_multiplier.min(1.0),
            _ => 1.0,
        };
        let mut demand = actuator.demand.lock().expect("the lock is not poisoned");
        demand.accepted += 10.0 * share;
        demand.rejected += 10.0 * (1.0 - share);
    }
    let value = |load: &LoadDecision| match load.pass_through {
        true => f64::NAN,
        false => (load.load_multiplier * 1000.0).round() / 1000.0,
    };
    actuator.loads().iter().map(value).collect()
}

/// Asserts that the slices are equal, where NaN equals itself.
fn same(left: &[f64], right: &[f64]) {
    let texts = |values: &[f64]| format!("{values:?}");
    assert_eq!(texts(left), texts(right));
}

#[test]
fn aiad_steps_down_from_one_while_it_is_overloaded() {
    let aiad = policy(
        "aiad_load_scheduler",
        SETPOINT,
        "load_multiplier_linear_decrement: 0.25",
    );
    same(
        &published(&aiad, 80, |_| 10.0),
        &[0.75, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0],
    );
}

#[test]
fn aiad_steps_up_and_down_between_its_bounds() {
    let aiad = policy(
        "aiad_load_scheduler",
        SETPOINT,
        "load_multiplier_linear_decrement: 0.3
          load_multiplier_linear_increment: 0.2
          max_load_multiplier: 1.5
          min_load_multiplier: 0.1",
    );
    let measured = [
        0.7, 0.4, 0.6, 0.8, 1.0, 1.2, 0.7, 0.4, 0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 0.6, 0.3, 0.1,
    ];
    // The signal changes every 40 s; the recording begins in the middle of a phase.
    let pressure = |second: i64| match ((second + 20) / 40) % 2 {
        0 => 10.0,
        _ => 1.0,
    };
    same(&published(&aiad, 170, pressure), &measured);
}

#[test]
fn aiad_lets_everything_pass_again_when_it_has_recovered() {
    let aiad = policy(
        "aiad_load_scheduler",
        SETPOINT,
        "load_multiplier_linear_increment: 0.5",
    );
    let pressure = |second: i64| if second < 20 { 10.0 } else { 1.0 };
    same(
        &published(&aiad, 60, pressure),
        &[0.95, 0.9, 1.4, 1.9, f64::NAN, f64::NAN],
    );
}

#[test]
fn an_unconfirmed_overload_is_ignored() {
    for kind in ["aiad_load_scheduler", "aimd_load_scheduler"] {
        let parameters = match kind {
            "aimd_load_scheduler" => "gradient: {slope: -1}",
            _ => "max_load_multiplier: 2",
        };
        let ports = format!("{SETPOINT}, overload_confirmation: {{constant_signal: {{value: 0}}}}");
        let policy = policy(kind, &ports, parameters);
        same(&published(&policy, 40, |_| 10.0), &[f64::NAN; 4]);
    }
}

#[test]
fn an_invalid_signal_is_no_overload() {
    let aiad = policy("aiad_load_scheduler", SETPOINT, "max_load_multiplier: 2");
    same(&published(&aiad, 40, |_| f64::NAN), &[f64::NAN; 4]);
}

#[test]
fn aimd_compounds_its_cuts_while_an_overload_lasts() {
    let aimd = policy("aimd_load_scheduler", SETPOINT, "gradient: {slope: -1}");
    let found = published(&aimd, 130, |_| 10.0);
    let measured = [
        f64::NAN,
        0.5,
        0.5,
        0.5,
        0.38,
        0.25,
        0.22,
        0.16,
        0.12,
        0.10,
        0.07,
        0.06,
        0.03,
    ];
    assert_eq!(found.len(), measured.len());
    assert!(found[0].is_nan());
    for (at, (found, measured)) in found.iter().zip(measured).enumerate().skip(1) {
        let off = (found - measured).abs();
        assert!(off < 0.02, "decision {at}: {found} instead of {measured}");
    }
}

#[test]
fn aimd_recovers_step_by_step() {
    let aimd = policy(
        "aimd_load_scheduler",
        SETPOINT,
        "load_multiplier_linear_increment: 0.1\n          gradient: {slope: -1, min_gradient: 0.2}",
    );
    let found = published(&aimd, 400, |second| if second < 60 { 10.0 } else { 1.0 });
    let low = found.iter().copied().fold(1.0, f64::min);
    assert!(low < 0.4, "{found:?}");
    let recovery: Vec<f64> = found[7..].to_vec();
    assert!(
        recovery
            .windows(2)
            .all(|pair| pair[1] >= pair[0] || pair[1].is_nan()),
        "{found:?}"
    );
    assert!(
        recovery.last().is_some_and(|last| last.is_nan()),
        "{found:?}"
    );
}

#[test]
fn aimd_cuts_on_a_low_signal_where_the_slope_is_positive() {
    let aimd = policy("aimd_load_scheduler", SETPOINT, "gradient: {slope: 1}");
    let found = published(&aimd, 40, |_| 2.5);
    same(&found[1..], &[0.5, 0.5, 0.5]);
    same(&published(&aimd, 40, |_| 10.0), &[f64::NAN; 4]);
}

#[test]
fn range_follows_its_curve_confirmed_or_not() {
    let curve = "low_throttle_threshold: {signal_value: 2, load_multiplier: 1.0}
          high_throttle_threshold: {signal_value: 8, load_multiplier: 0.2}
          degree: 2";
    for confirmation in ["0", "1"] {
        let ports =
            format!(", overload_confirmation: {{constant_signal: {{value: {confirmation}}}}}");
        let range = policy("range_driven_load_scheduler", &ports, curve);
        let pressure = |second: i64| [5.0, 9.0, 1.0][(second / 10 % 3) as usize];
        same(&published(&range, 30, pressure), &[0.8, 0.2, f64::NAN]);
    }
}

#[test]
fn a_dry_run_has_no_loop() {
    let text = "max_load_multiplier: 2\n        dry_run: true";
    let aiad = policy("aiad_load_scheduler", SETPOINT, text);
    let components = [(
        aiad.components[0].id.clone(),
        Arc::new(RecordingActuator::default()),
    )];
    let meters = FluxMeters::default();
    assert!(PolicyLoop::new(&aiad, &components, &meters, "".into(), 0, None).is_none());
}
