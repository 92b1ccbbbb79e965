//! Loops, samplers and resources in code, each beside a file that does the same.

use std::time::Duration;

use http::StatusCode;

use super::*;

#[test]
fn a_loop_by_average_latency_is_that_of_the_blueprint() {
    let control = LoadControl::average_latency("p");
    let scheduler = Scheduler::load(control)
        .queue_for(seconds(1))
        .tokens_by_latency(true);
    let policy = Policy::new("p")
        .at("search")
        .measure(FluxMeter::new("p"))
        .schedule(scheduler);
    let blueprint = load(
        "p.yaml",
        "blueprint: load-scheduling/average-latency
policy:
  policy_name: p
  load_scheduling_core:
    aimd_load_scheduler:
      load_scheduler:
        selectors: [{control_point: search}]
        scheduler: {default_workload_parameters: {queue_timeout: 1s}}
        workload_latency_based_tokens: true
      gradient: {slope: -1}
      alerter: {alert_name: shed}
  latency_baseliner: {flux_meter: {selectors: [{control_point: search}]}}
",
    )
    .expect("the blueprint loads");
    let code = read(&policy).expect("the policy loads");
    assert!(code.warnings.is_empty(), "{:?}", code.warnings);
    let ops = |loaded: &LoadedPolicy| {
        let circuit = loaded.policy.circuit.as_ref().expect("a loop");
        let mut ops: Vec<String> = circuit
            .nodes
            .iter()
            .map(|node| format!("{:?}", node.op))
            .collect();
        ops.sort();
        ops
    };
    assert_eq!(ops(&code), ops(&blueprint));
    let kinds = |loaded: &LoadedPolicy| format!("{:?}", loaded.policy.flux_meters);
    assert_eq!(kinds(&code), kinds(&blueprint));
}

#[test]
fn control_loops_are_those_of_files() {
    let signal = || Signal::promql("load").every(seconds(5));
    let confirm = || Signal::promql("busy").at_least(1).held_for(seconds(2));
    let aimd = LoadControl::aimd(signal(), 10)
        .slope(-2.0)
        .gradient(0.2, 0.9)
        .max_load_multiplier(3.0)
        .increment(0.1)
        .confirmed_by(confirm())
        .dry_run(true)
        .dry_run_key("dry");
    let aiad = LoadControl::aiad(signal(), 20)
        .overload_below()
        .min_load_multiplier(0.1)
        .decrement(0.2);
    let range = LoadControl::range(signal(), (70.0, 1.0), (95.0, 0.5)).degree(2.0);
    let fixed = LoadControl::fixed(Signal::config("share", 0.5));
    let policy = [aimd, aiad, range, fixed]
        .into_iter()
        .fold(Policy::new("p").at("shop"), |policy, control| {
            policy.schedule(Scheduler::load(control))
        });
    let policy = policy.evaluation_interval(Duration::from_millis(500));
    let components = "    - flow_control:
        aimd_load_scheduler:
          in_ports:
            signal: {signal_name: LOAD}
            setpoint: {constant_signal: {value: 10}}
            overload_confirmation: {signal_name: CONFIRM}
          parameters:
            load_scheduler: {selectors: [{control_point: shop}]}
            gradient: {slope: -2, min_gradient: 0.2, max_gradient: 0.9}
            max_load_multiplier: 3
            load_multiplier_linear_increment: 0.1
            alerter: {alert_name: a}
          dry_run: true
          dry_run_config_key: dry
    - flow_control:
        aiad_load_scheduler:
          in_ports:
            signal: {signal_name: LOAD}
            setpoint: {constant_signal: {value: 20}}
          parameters:
            load_scheduler: {selectors: [{control_point: shop}]}
            min_load_multiplier: 0.1
            load_multiplier_linear_decrement: 0.2
            alerter: {alert_name: a}
          overload_condition: lt
    - flow_control:
        range_driven_load_scheduler:
          in_ports: {signal: {signal_name: LOAD}}
          parameters:
            load_scheduler: {selectors: [{control_point: shop}]}
            low_throttle_threshold: {signal_value: 70, load_multiplier: 1}
            high_throttle_threshold: {signal_value: 95, load_multiplier: 0.5}
            degree: 2
            alerter: {alert_name: a}
    - flow_control:
        load_scheduler:
          in_ports: {load_multiplier: {signal_name: SHARE}}
          parameters: {selectors: [{control_point: shop}]}
    - query: {promql: {query_string: load, evaluation_interval: 5s, out_ports: {output: {signal_name: LOAD}}}}
    - query: {promql: {query_string: busy, out_ports: {output: {signal_name: BUSY}}}}
    - decider:
        operator: gte
        true_for: 2s
        in_ports: {lhs: {signal_name: BUSY}, rhs: {constant_signal: {value: 1}}}
        out_ports: {output: {signal_name: CONFIRM}}
    - variable:
        constant_output: {value: 0.5}
        config_key: share
        out_ports: {output: {signal_name: SHARE}}
";
    let text = file(components).replace("circuit:\n", "circuit:\n    evaluation_interval: 0.5s\n");
    let names = [("LOAD", 0), ("BUSY", 1), ("CONFIRM", 2), ("SHARE", 3)];
    let text = names.iter().fold(text, |text, (name, index)| {
        text.replace(name, &format!("SIGNAL_{index}"))
    });
    let differing = |text: String| text.replace("PolicyError", "");
    let strip = |text: &str| {
        // The errors about queries without a source have the positions of the file.
        let end = text
            .find("unanswered_queries")
            .expect("a field of the model");
        differing(text[..end].to_owned())
    };
    assert_eq!(strip(&model_in_code(&policy)), strip(&model_in_file(&text)));
}

#[test]
fn signals_are_components_of_the_circuit() {
    let measured = || Signal::promql("a");
    let signal = Signal::all_of([
        measured()
            .plus(1)
            .minus(2)
            .times(3)
            .divided_by(4)
            .greater_than(5),
        Signal::any_of([measured().less_than(6), measured().at_most(7).negated()]),
    ]);
    let limit = RateLimit::per_second(5).burst(9).pass_through_while(signal);
    let loaded = read(&Policy::new("p").at("a").limit(limit)).expect("the policy loads");
    let circuit = loaded.policy.circuit.expect("signals that change");
    let ops: Vec<String> = circuit
        .nodes
        .iter()
        .map(|node| {
            let op = format!("{:?}", node.op);
            op.split([' ', '{']).next().unwrap_or_default().to_owned()
        })
        .collect();
    // One query, though three signals read it.
    assert_eq!(
        ops,
        [
            "Query",
            "Arithmetic(Add)",
            "Arithmetic(Sub)",
            "Arithmetic(Mul)",
            "Arithmetic(Div)",
            "Decider",
            "Decider",
            "Decider",
            "Inverter",
            "Or",
            "And",
        ]
    );
}

#[test]
fn samplers_and_ramps_are_those_of_files() {
    let sampler = Sampler::percent(10)
        .by("user")
        .always_accept(["ann"])
        .rejection_status(StatusCode::NOT_FOUND)
        .ramp_mode(true);
    let ramp = LoadRamp::new()
        .step(5.0, seconds(60))
        .step(100.0, Duration::ZERO)
        .by("session")
        .always_accept(["bob"])
        .reset_while(Signal::config("reset", 0));
    assert_same(
        &Policy::new("p").at("a").sample(sampler).ramp(ramp),
        &file(
            "    - flow_control:
        sampler:
          in_ports: {accept_percentage: {constant_signal: {value: 10}}}
          parameters:
            selectors: [{control_point: a}]
            session_label_key: user
            denied_response_status_code: NotFound
            ramp_mode: true
          pass_through_label_values: [ann]
    - flow_control:
        load_ramp:
          in_ports:
            forward: {constant_signal: {value: 1}}
            reset: {signal_name: SIGNAL_0}
          parameters:
            sampler: {selectors: [{control_point: a}], session_label_key: session}
            steps:
            - {target_accept_percentage: 5, duration: 60s}
            - {target_accept_percentage: 100, duration: 0s}
          pass_through_label_values: [bob]
    - variable:
        constant_output: {value: 0}
        config_key: reset
        out_ports: {output: {signal_name: SIGNAL_0}}
",
        ),
    );
}

#[test]
fn classifiers_and_flux_meters_are_those_of_files() {
    let classifier = Classifier::new()
        .label("method", Extractor::attribute("request.http.method"))
        .label("client", Extractor::header("x-client"))
        .label("product", Extractor::json("request.http.body", "/id"))
        .label_without_telemetry("subject", Extractor::jwt("request.http.bearer", "/sub"))
        .label("from", Extractor::source_address())
        .label("to", Extractor::destination_address())
        .label(
            "route",
            Extractor::path_templates([("/users/{id}", "user"), ("/*", "other")]),
        );
    let policy = Policy::new("p")
        .at("a")
        .classify(classifier)
        .measure(FluxMeter::new("static").buckets([1.0, 2.5]))
        .measure(
            FluxMeter::new("linear")
                .linear_buckets(0.0, 10.0, 3)
                .at("b"),
        )
        .measure(FluxMeter::new("exponential").exponential_buckets(1.0, 2.0, 4))
        .measure(FluxMeter::new("range").exponential_bucket_range(1.0, 60.0, 5))
        .measure(FluxMeter::new("other").attribute("flow_duration_ms"));
    assert_same(
        &policy,
        "metadata: {name: p}
spec:
  resources:
    flow_control:
      classifiers:
      - selectors: [{control_point: a}]
        rules:
          method: {extractor: {from: request.http.method}}
          client: {extractor: {from: request.http.headers.x-client}}
          product: {extractor: {json: {from: request.http.body, pointer: /id}}}
          subject: {extractor: {jwt: {from: request.http.bearer, json_pointer: /sub}}, telemetry: false}
          from: {extractor: {address: {from: source.address}}}
          to: {extractor: {address: {from: destination.address}}}
          route: {extractor: {path_templates: {template_values: {'/users/{id}': user, '/*': other}}}}
      flux_meters:
        static: {selectors: [{control_point: a}], static_buckets: {buckets: [1, 2.5]}}
        linear: {selectors: [{control_point: b}], linear_buckets: {start: 0, width: 10, count: 3}}
        exponential: {selectors: [{control_point: a}], exponential_buckets: {start: 1, factor: 2, count: 4}}
        range: {selectors: [{control_point: a}], exponential_buckets_range: {min: 1, max: 60, count: 5}}
        other: {selectors: [{control_point: a}], attribute_key: flow_duration_ms}
",
    );
}
