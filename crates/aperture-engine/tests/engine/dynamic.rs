//! Dynamic configuration: from policy resources, from files beside policies, and by a call.

use tower_aperture::Engine;
use tower_aperture::engine::ManualClock;

use crate::loading::Folder;
use crate::support::*;

/// Returns a policy with a bucket whose capacity is the dynamic `tokens`, or else the argument.
fn bucket(tokens: u32, dynamic: &str) -> String {
    format!(
        "
apiVersion: fluxninja.com/v1alpha1
kind: Policy
metadata: {{name: shop}}
dynamicConfig: {dynamic}
spec:
  circuit:
    components:
    - variable:
        constant_output: {{value: {tokens}}}
        config_key: tokens
        out_ports: {{output: {{signal_name: TOKENS}}}}
    - flow_control:
        rate_limiter:
          selectors: [{{control_point: {HERE}}}]
          in_ports:
            bucket_capacity: {{signal_name: TOKENS}}
            fill_amount: {{constant_signal: {{value: 0}}}}
          parameters: {{interval: 1s}}
"
    )
}

/// Returns how many flows are accepted before one is rejected.
fn count_accepted(engine: &Engine) -> usize {
    (0..100)
        .take_while(|_| check(engine, &[]).accepted())
        .count()
}

fn engine_of(text: String) -> Engine {
    let engine = Engine::builder()
        .policy_text("policy.yaml", text)
        .clock(ManualClock::new());
    engine.build().expect("the policy is valid")
}

#[test]
fn configuration_set_by_a_call_overrides_file_and_resource_and_keeps_state() {
    let engine = engine_of(bucket(2, "{tokens: {value: 3}}"));
    assert_eq!(count_accepted(&engine), 3);
    assert!(
        engine
            .set_dynamic_config("shop", "{\"tokens\": {\"value\": 5}}")
            .expect("the value is a number")
    );
    assert_eq!(count_accepted(&engine), 2);
    assert!(
        engine
            .set_dynamic_config("shop", "tokens: {value: 6}")
            .expect("the value is a number")
    );
    assert_eq!(count_accepted(&engine), 1);
    // The configuration survives a reload of the policy.
    engine
        .reload_with([
            ("policy.yaml", bucket(1, "{}")),
            ("shop.dynamic.yaml", "tokens: {value: 4}".to_owned()),
        ])
        .expect("the policy is valid");
    assert_eq!(count_accepted(&engine), 0);
    assert!(
        engine.describe().contains("6 tokens"),
        "{}",
        engine.describe()
    );
    assert!(
        engine
            .set_dynamic_config("shop", "{}")
            .expect("an empty configuration is valid")
    );
    assert!(
        engine.describe().contains("4 tokens"),
        "{}",
        engine.describe()
    );
}

#[test]
fn invalid_dynamic_configuration_is_refused_and_changes_nothing() {
    let engine = engine_of(bucket(2, "{}"));
    for wrong in ["tokens: {value: many}", "[tokens]", "tokens: {", "tokens"] {
        let error = engine.set_dynamic_config("shop", wrong).expect_err(wrong);
        assert!(error.file().contains("shop"), "{error}");
    }
    assert_eq!(engine.set_dynamic_config("other", "{}"), Ok(false));
    assert_eq!(count_accepted(&engine), 2);
    assert_eq!(engine.set_dynamic_config("shop", "unknown: 1"), Ok(true));
    let warnings = engine.warnings();
    assert!(
        warnings.iter().any(|warning| warning.field() == "unknown"),
        "{warnings:?}"
    );
}

#[test]
fn a_dynamic_file_configures_the_policy_of_its_name_or_of_its_file_stem() {
    for (name, single) in [
        ("shop.dynamic.yaml", false),
        ("limits.dynamic.yml", false),
        ("shop.dynamic.yaml", true),
        ("limits.dynamic.yaml", true),
    ] {
        let folder = Folder::new(&format!("dynamic-{name}-{single}"));
        let policy = folder.write("limits.yaml", &bucket(2, "{tokens: {value: 3}}"));
        let engine = Engine::builder().clock(ManualClock::new());
        let engine = match single {
            true => engine.policy_file(policy),
            false => engine.policy_folder(folder.path()),
        };
        let engine = engine.build().expect("the policy is valid");
        assert_eq!(count_accepted(&engine), 3);
        folder.write(name, "tokens: {value: 4}");
        engine.reload().expect("the file is valid");
        assert_eq!(count_accepted(&engine), 1, "{name}");
        folder.write(name, "tokens: {value: no}");
        let error = engine.reload().expect_err("the value is no number");
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(count_accepted(&engine), 0);
    }
}

#[test]
fn a_dynamic_file_without_a_policy_is_warned_about() {
    let folder = Folder::new("dynamic-nothing");
    folder.write("limits.yaml", &bucket(2, "{}"));
    folder.write("shup.dynamic.yaml", "tokens: {value: 4}");
    let engine = Engine::builder().policy_folder(folder.path()).build();
    let warnings = engine.expect("the policy is valid").warnings();
    assert!(
        warnings
            .iter()
            .any(|one| one.file().ends_with("shup.dynamic.yaml")),
        "{warnings:?}"
    );
}

#[test]
fn dynamic_configuration_starts_a_ramp_and_opens_a_load_scheduler() {
    let engine = engine_of(
        "
blueprint: load-ramping/base
policy:
  policy_name: ramp
  load_ramp:
    sampler: {selectors: [{control_point: here}]}
    steps:
    - {target_accept_percentage: 0, duration: 1s}
    - {target_accept_percentage: 100, duration: 10s}
"
        .to_owned(),
    );
    let is_waiting = |engine: &Engine| {
        let warnings = engine.warnings();
        warnings
            .iter()
            .any(|one| one.message().contains("stays at its first step"))
    };
    assert!(is_waiting(&engine));
    assert_eq!(engine.set_dynamic_config("ramp", "start: true"), Ok(true));
    assert!(!is_waiting(&engine));

    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text(
            "load.yaml",
            "circuit: {components: [{flow_control: {load_scheduler: {dry_run_config_key: open, \
             in_ports: {load_multiplier: {constant_signal: {value: 0}}}, parameters: {selectors: \
             [{control_point: here}]}}}}]}",
        )
        .clock(clock.clone())
        .build()
        .expect("the policy is valid");
    for _ in 0..40 {
        let _ = check(&engine, &[]);
        clock.advance(secs(1.0));
    }
    for (set, accepted) in [
        ("open: true", true),
        ("open: false", false),
        ("open: true", true),
    ] {
        assert_eq!(engine.set_dynamic_config("load", set), Ok(true));
        assert_eq!(check(&engine, &[]).accepted(), accepted, "{set}");
    }
}
