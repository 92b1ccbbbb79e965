//! Policies with auto-scaling components, and durations in units that policies do not accept.

use tower_aperture::engine::ManualClock;
use tower_aperture::{Engine, PolicyError};

use crate::support::*;

const AUTO_SCALER: &str = "
    - query:
        promql:
          query_string: avg(load)
          evaluation_interval: 10s
          out_ports: {output: {signal_name: LOAD}}
    - auto_scale:
        auto_scaler:
          dry_run: true
          dry_run_config_key: dry_run
          scaling_backend:
            kubernetes_replicas:
              kubernetes_object_selector: {namespace: shop, api_version: apps/v1, kind: Deployment, name: shop}
              min_replicas: 1
              max_replicas: 10
          scale_out_controllers:
          - alerter: {alert_name: out}
            controller:
              gradient:
                in_ports:
                  signal: {signal_name: LOAD}
                  setpoint: {constant_signal: {value: 0.5}}
                parameters: {slope: 1}
          scale_in_controllers:
          - controller: {periodic: {parameters: {period: 60s, scale_in_percentage: 10}}}
          scaling_parameters: {scale_out_alerter: {alert_name: out}, scale_in_cooldown: 40s}
          out_ports: {actual_scale: {signal_name: SCALE}}
";
const POD_SCALER: &str = "
    - auto_scale:
        pod_scaler:
          in_ports: {replicas: {constant_signal: {value: 3}}}
          kubernetes_object_selector: {namespace: shop, api_version: apps/v1, kind: Deployment, name: shop}
";
const BLUEPRINT: &str = "
blueprint: auto-scaling/pod-auto-scaler
policy:
  policy_name: pods
  scaling_backend: {kubernetes_replicas: {min_replicas: 1}}
  promql_scale_out_controllers:
  - query_string: avg(load)
    setpoint: 0.5
    gradient: {slope: 1}
    alerter: {alert_name: more}
  dry_run: false
";

fn load(text: String) -> Result<Engine, PolicyError> {
    let engine = Engine::builder().policy_text("policy.yaml", text);
    engine.clock(ManualClock::new()).build()
}

#[test]
fn a_policy_that_limits_and_scales_warns_that_scaling_has_no_effect() {
    let limited = policy("test", &[Limiter::new(1.0, 0.0)]);
    let limiter = limited.split_once("components:\n").expect("components").1;
    for text in [
        format!("{limited}{AUTO_SCALER}"),
        format!("{limited}{POD_SCALER}"),
        format!("{BLUEPRINT}  components:\n{limiter}"),
    ] {
        let engine = load(text.clone()).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(check(&engine, &[]).accepted());
        assert!(!check(&engine, &[]).accepted());
        let warnings = engine.warnings();
        assert!(
            warnings
                .iter()
                .any(|one| one.message().contains("has no effect here")),
            "{warnings:?}"
        );
    }
}

#[test]
fn a_policy_that_only_scales_is_refused_with_that_reason() {
    for text in [
        format!("{}{AUTO_SCALER}", policy("test", &[])),
        format!("{}{POD_SCALER}", policy("test", &[])),
        BLUEPRINT.to_owned(),
    ] {
        let error = load(text)
            .expect_err("the policy has no effect")
            .to_string();
        assert!(error.contains("has no effect here"), "{error}");
        assert!(error.contains("does nothing else"), "{error}");
    }
}

#[test]
fn a_limit_by_the_output_of_an_auto_scaler_is_refused_by_name() {
    let limit = policy("test", &[Limiter::new(1.0, 0.0)]).replace(
        "bucket_capacity: {constant_signal: {value: 1}}",
        "bucket_capacity: {signal_name: SCALE}",
    );
    let error = load(format!("{limit}{AUTO_SCALER}")).expect_err("no component reports the scale");
    assert!(
        error.to_string().contains("scale that `root.2` reports"),
        "{error}"
    );
}

#[test]
fn a_duration_in_another_unit_is_refused_with_its_value_in_seconds() {
    for (wrong, right) in [
        ("1m", "60s"),
        ("1500ms", "1.5s"),
        ("2h", "7200s"),
        ("5us", "0.000005s"),
    ] {
        for kind in ["interval", "max_idle_time"] {
            let limited = policy("test", &[Limiter::new(1.0, 0.0).with("max_idle_time: 60s")]);
            let text = match kind {
                "interval" => limited.replace("1.000000000s", wrong),
                _ => limited.replace("60s", wrong),
            };
            let error = load(text).expect_err(wrong);
            assert!(error.field().ends_with(kind), "{error}");
            assert!(error.message().contains(&format!("`{right}`")), "{error}");
            assert!(error.message().contains("in seconds"), "{error}");
        }
    }
}
