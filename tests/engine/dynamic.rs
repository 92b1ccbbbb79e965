//! Dynamic configuration, from resources, files beside policies, and by hand.

use tower_aperture::Engine;
use tower_aperture::engine::ManualClock;

use crate::loading::Folder;
use crate::support::*;

/// A bucket of so many tokens, unless `tokens` says otherwise.
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

fn let_in(engine: &Engine) -> usize {
    (0..100)
        .take_while(|_| check(engine, &[]).accepted())
        .count()
}

fn engine_of(text: String) -> Engine {
    let engine = Engine::builder()
        .policy_text("policy.yaml", text)
        .clock(ManualClock::new());
    engine.build().expect("the policy is right")
}

#[test]
fn what_is_set_by_hand_counts_before_file_and_resource_and_touches_no_state() {
    let engine = engine_of(bucket(2, "{tokens: {value: 3}}"));
    assert_eq!(let_in(&engine), 3);
    assert!(
        engine
            .set_dynamic_config("shop", "{\"tokens\": {\"value\": 5}}")
            .expect("a number")
    );
    assert_eq!(let_in(&engine), 2);
    assert!(
        engine
            .set_dynamic_config("shop", "tokens: {value: 6}")
            .expect("a number")
    );
    assert_eq!(let_in(&engine), 1);
    // It survives a reload of the policy.
    engine
        .reload_with([
            ("policy.yaml", bucket(1, "{}")),
            ("shop.dynamic.yaml", "tokens: {value: 4}".to_owned()),
        ])
        .expect("the policy is right");
    assert_eq!(let_in(&engine), 0);
    assert!(
        engine.describe().contains("6 tokens"),
        "{}",
        engine.describe()
    );
    assert!(
        engine
            .set_dynamic_config("shop", "{}")
            .expect("nothing is set")
    );
    assert!(
        engine.describe().contains("4 tokens"),
        "{}",
        engine.describe()
    );
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let engine = engine_of(bucket(2, "{}"));
    for wrong in ["tokens: {value: many}", "[tokens]", "tokens: {", "tokens"] {
        let error = engine.set_dynamic_config("shop", wrong).expect_err(wrong);
        assert!(error.file().contains("shop"), "{error}");
    }
    assert_eq!(engine.set_dynamic_config("other", "{}"), Ok(false));
    assert_eq!(let_in(&engine), 2);
    assert_eq!(engine.set_dynamic_config("shop", "unknown: 1"), Ok(true));
    let warnings = engine.warnings();
    assert!(
        warnings.iter().any(|warning| warning.field() == "unknown"),
        "{warnings:?}"
    );
}

#[test]
fn a_file_beside_the_policy_configures_it_by_name_or_by_the_stem_of_its_file() {
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
        let engine = engine.build().expect("the policy is right");
        assert_eq!(let_in(&engine), 3);
        folder.write(name, "tokens: {value: 4}");
        engine.reload().expect("the file is right");
        assert_eq!(let_in(&engine), 1, "{name}");
        folder.write(name, "tokens: {value: no}");
        let error = engine.reload().expect_err("no number");
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(let_in(&engine), 0);
    }
}

#[test]
fn a_file_that_configures_nothing_is_told() {
    let folder = Folder::new("dynamic-nothing");
    folder.write("limits.yaml", &bucket(2, "{}"));
    folder.write("shup.dynamic.yaml", "tokens: {value: 4}");
    let engine = Engine::builder().policy_folder(folder.path()).build();
    let warnings = engine.expect("the policy is right").warnings();
    assert!(
        warnings
            .iter()
            .any(|one| one.file().ends_with("shup.dynamic.yaml")),
        "{warnings:?}"
    );
}

#[test]
fn a_ramp_begins_and_a_load_scheduler_opens_by_hand() {
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
    let stays = |engine: &Engine| {
        let warnings = engine.warnings();
        warnings
            .iter()
            .any(|one| one.message().contains("stays at its first step"))
    };
    assert!(stays(&engine));
    assert_eq!(engine.set_dynamic_config("ramp", "start: true"), Ok(true));
    assert!(!stays(&engine));

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
        .expect("the policy is right");
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
