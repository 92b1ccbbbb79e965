//! Compares components and their control loops with the recorded summaries.

use serde_json::{Value, json};

use super::ComparisonResult;
use super::selectors::{compare_matcher, compare_selectors};
use super::values::{duration, empty, list, not_negative, number, same, without};
use crate::policy::{
    Bucket, CircuitNode, Component, ComponentKind, Op, Policy, Port, RequestParameters, Scheduler,
    Slots, WorkloadParameters,
};

pub(super) fn compare_component(
    policy: &Policy,
    component: &Component,
    recorded: &Value,
) -> ComparisonResult {
    same("kind", &json!(component.kind.name()), &recorded["kind"])?;
    match &component.kind {
        ComponentKind::RateLimiter(limiter) => {
            compare_selectors(&component.selectors, &recorded["selectors"])?;
            compare_bucket(&limiter.bucket, recorded, &recorded["parameters"])?;
            compare_request(&limiter.request, &recorded["request_parameters"])
        }
        ComponentKind::QuotaScheduler(scheduler) => {
            compare_selectors(&component.selectors, &recorded["selectors"])?;
            compare_bucket(&scheduler.bucket, recorded, &recorded["rate_limiter"])?;
            compare_scheduler(&scheduler.scheduler, &recorded["scheduler"])
        }
        ComponentKind::ConcurrencyLimiter(limiter) => {
            compare_selectors(&component.selectors, &recorded["selectors"])?;
            compare_slots(&limiter.slots, recorded, &recorded["parameters"])?;
            compare_request(&limiter.request, &recorded["request_parameters"])
        }
        ComponentKind::ConcurrencyScheduler(scheduler) => {
            compare_selectors(&component.selectors, &recorded["selectors"])?;
            compare_slots(&scheduler.slots, recorded, &recorded["concurrency_limiter"])?;
            compare_scheduler(&scheduler.scheduler, &recorded["scheduler"])
        }
        ComponentKind::LoadScheduler(scheduler) => {
            let parameters = &recorded["parameters"];
            compare_selectors(&component.selectors, &parameters["selectors"])?;
            same(
                "workload_latency_based_tokens",
                &json!(scheduler.workload_latency_based_tokens),
                &parameters["workload_latency_based_tokens"],
            )?;
            compare_scheduler(&scheduler.scheduler, &parameters["scheduler"])?;
            let outer = if recorded["within"].is_null() {
                recorded
            } else {
                &recorded["outer"]
            };
            if outer["dry_run"] == true {
                let dry = scheduler.dry_run;
                return same("dry_run", &json!(dry), &json!(true));
            }
            compare_loop(policy, component, recorded)
        }
        ComponentKind::AdaptiveConcurrencyLimiter(_) => {
            Err("no policy file has an adaptive limiter".to_owned())
        }
        ComponentKind::Sampler(sampler) => {
            let parameters = &recorded["parameters"];
            compare_selectors(&component.selectors, &parameters["selectors"])?;
            let port = sampler
                .accept_percentage
                .unwrap_or(Port::Constant(f64::NAN));
            compare_port("accept_percentage", port, recorded)?;
            let ours = json!({
                "session_label_key": sampler.session_label_key.as_deref(),
                "ramp_mode": sampler.ramp_mode,
                "denied_response_status_code": sampler.denied_response_status_code,
            });
            same("parameters", &ours, &without(parameters, &["selectors"]))
        }
    }
}

/// Compares the control loop around a load scheduler.
fn compare_loop(policy: &Policy, component: &Component, recorded: &Value) -> ComparisonResult {
    let Some(within) = recorded["within"].as_str() else {
        return Ok(());
    };
    let outer = component
        .id
        .strip_suffix(".4")
        .ok_or("not inside of a control loop")?;
    let node = |index: u32| -> Result<&CircuitNode, String> {
        let id = format!("{outer}.{index}");
        let nodes = policy.circuit.as_ref().map(|circuit| &circuit.nodes);
        let found = nodes.into_iter().flatten().find(|node| *node.id == *id);
        found.ok_or(format!("no node {id}"))
    };
    let parameters = &recorded["outer"]["parameters"];
    let port = |node: &CircuitNode, index: usize| match node.inputs[index] {
        Port::Constant(value) => number(value),
        Port::Changing(_) => Value::Null,
    };
    match within {
        "aimd_load_scheduler" | "adaptive_load_scheduler" => {
            let Op::Gradient {
                slope,
                min_gradient,
                max_gradient,
            } = node(7)?.op
            else {
                return Err("no gradient".to_owned());
            };
            let ours =
                json!({"slope": slope, "min_gradient": min_gradient, "max_gradient": max_gradient});
            same("gradient", &ours, &parameters["gradient"])?;
            let integrator = node(8)?;
            let Op::Integrator { initial } = integrator.op else {
                return Err("no integrator".to_owned());
            };
            same(
                "max_load_multiplier",
                &json!(initial),
                &parameters["max_load_multiplier"],
            )?;
            same(
                "load_multiplier_linear_increment",
                &port(integrator, 0),
                &parameters["load_multiplier_linear_increment"],
            )
        }
        "aiad_load_scheduler" => {
            let Op::Integrator { initial } = node(9)?.op else {
                return Err("no integrator".to_owned());
            };
            let step = node(7)?;
            let negative = port(step, 1).as_f64().map(|step| -step);
            let Op::Decider { comparison, .. } = node(6)?.op else {
                return Err("no decider".to_owned());
            };
            let ours = json!({
                "max_load_multiplier": initial,
                "min_load_multiplier": port(node(9)?, 3),
                "load_multiplier_linear_increment": port(step, 2),
                "load_multiplier_linear_decrement": negative,
            });
            same(
                "parameters",
                &ours,
                &without(parameters, &["alerter", "load_scheduler"]),
            )?;
            let condition = format!("{comparison:?}").to_lowercase();
            same(
                "overload_condition",
                &json!(condition),
                &recorded["outer"]["overload_condition"],
            )
        }
        "range_driven_load_scheduler" => {
            let Op::PolynomialRange(range) = node(6)?.op else {
                return Err("no polynomial".to_owned());
            };
            let threshold = |(signal, multiplier): (f64, f64)| json!({"signal_value": signal, "load_multiplier": multiplier});
            let ours = json!({
                "low_throttle_threshold": threshold(range.low),
                "high_throttle_threshold": threshold(range.high),
                "degree": range.degree,
            });
            same(
                "parameters",
                &ours,
                &without(parameters, &["alerter", "load_scheduler"]),
            )
        }
        other => Err(format!("inside of {other}")),
    }
}

fn compare_bucket(bucket: &Bucket, recorded: &Value, parameters: &Value) -> ComparisonResult {
    for (name, port) in [
        ("bucket_capacity", bucket.bucket_capacity),
        ("fill_amount", bucket.fill_amount),
        ("pass_through", bucket.pass_through),
    ] {
        compare_port(name, port, recorded)?;
    }
    let ours = json!({
        "interval": duration(bucket.interval),
        "max_idle_time": duration(bucket.max_idle_time),
        "continuous_fill": bucket.continuous_fill,
        "delay_initial_fill": bucket.delay_initial_fill,
        "key": bucket.limit_by_label_key.as_deref(),
        "lazy_sync": bucket.lazy_sync,
    });
    let keys = ["limit_by_label_key", "label_key"].map(|key| &parameters[key]);
    let key = keys.into_iter().find(|key| !empty(key));
    let lazy = &parameters["lazy_sync"];
    let lazy = (lazy["enabled"] == true).then(|| lazy["num_sync"].clone());
    let mut theirs = without(
        parameters,
        &["limit_by_label_key", "label_key", "lazy_sync"],
    );
    theirs["key"] = json!(key);
    theirs["lazy_sync"] = json!(lazy);
    not_negative(&mut theirs, "max_idle_time");
    same("parameters", &ours, &theirs)
}

fn compare_slots(slots: &Slots, recorded: &Value, parameters: &Value) -> ComparisonResult {
    compare_port("max_concurrency", slots.max_concurrency, recorded)?;
    compare_port("pass_through", slots.pass_through, recorded)?;
    let ours = json!({
        "max_inflight_duration": duration(slots.max_inflight_duration),
        "max_idle_time": duration(slots.max_idle_time),
        "limit_by_label_key": slots.limit_by_label_key.as_deref(),
    });
    let mut theirs = parameters.clone();
    not_negative(&mut theirs, "max_idle_time");
    same("parameters", &ours, &theirs)
}

fn compare_request(request: &RequestParameters, recorded: &Value) -> ComparisonResult {
    let ours = json!({
        "tokens_label_key": request.tokens_label_key.as_deref(),
        "denied_response_status_code": request.denied_response_status_code,
    });
    let mut theirs = json!({"denied_response_status_code": 0});
    theirs.extend(recorded);
    same("request_parameters", &ours, &theirs)
}

trait Extend {
    fn extend(&mut self, others: &Value);
}

impl Extend for Value {
    fn extend(&mut self, others: &Value) {
        for (key, value) in others.as_object().into_iter().flatten() {
            self[key] = value.clone();
        }
    }
}

fn compare_scheduler(scheduler: &Scheduler, recorded: &Value) -> ComparisonResult {
    let ours = json!({
        "decision_deadline_margin": duration(scheduler.decision_deadline_margin),
        "tokens_label_key": scheduler.tokens_label_key.as_deref(),
        "priority_label_key": scheduler.priority_label_key.as_deref(),
        "workload_label_key": scheduler.workload_label_key.as_deref(),
        "fairness_label_key": scheduler.fairness_label_key.as_deref(),
        "denied_response_status_code": scheduler.denied_response_status_code,
        "default_workload_parameters": parameters(&scheduler.default_workload),
    });
    let mut theirs = json!({
        "decision_deadline_margin": "0.010s",
        "denied_response_status_code": 0,
        "default_workload_parameters": {"priority": 1, "tokens": 1},
    });
    theirs.extend(&without(recorded, &["workloads"]));
    if empty(&theirs["default_workload_parameters"]) {
        theirs["default_workload_parameters"] = json!({"priority": 1, "tokens": 1});
    }
    not_negative(&mut theirs, "decision_deadline_margin");
    same("scheduler", &ours, &theirs)?;
    let recorded = list(&recorded["workloads"]);
    same(
        "workloads",
        &json!(scheduler.workloads.len()),
        &json!(recorded.len()),
    )?;
    for (index, (workload, recorded)) in scheduler.workloads.iter().zip(recorded).enumerate() {
        let name = recorded["name"].as_str().filter(|name| !name.is_empty());
        let label = name.map_or_else(|| index.to_string(), str::to_owned);
        same("workload", &json!(&*workload.label), &json!(label))?;
        compare_matcher(&workload.matcher, &recorded["label_matcher"])?;
        let mut theirs = json!({"priority": 1, "tokens": 1});
        theirs.extend(&recorded["parameters"]);
        if theirs["tokens"] == 0 {
            theirs["tokens"] = json!(1);
        }
        not_negative(&mut theirs, "queue_timeout");
        same(
            "workload parameters",
            &parameters(&workload.parameters),
            &theirs,
        )?;
    }
    Ok(())
}

fn parameters(parameters: &WorkloadParameters) -> Value {
    json!({
        "priority": parameters.priority,
        "tokens": parameters.tokens,
        "queue_timeout": parameters.queue_timeout.map(duration),
    })
}

fn compare_port(name: &str, port: Port, recorded: &Value) -> ComparisonResult {
    let recorded = &recorded["in_ports"][name];
    if recorded.get("from").is_some() {
        return Ok(());
    }
    let theirs = match recorded.get("constant").or(recorded.get("variable")) {
        None => json!("NaN"),
        Some(value) => {
            let value = value.get("special_value").unwrap_or(value);
            value.get("value").unwrap_or(value).clone()
        }
    };
    let ours = match port {
        Port::Constant(value) => number(value),
        Port::Changing(_) => json!("changing"),
    };
    same(name, &ours, &theirs)
}
