//! Describes policies in words, for logs and diagnostics.

use std::fmt::{self, Display, Write};
use std::sync::Arc;

use super::model::{
    Bucket, Buckets, Circuit, Classifier, Component, ComponentKind, FluxMeter, Op, Policy, Port,
    RequestParameters, Scheduler, Selector, Slots, WorkloadParameters, passes_through,
};

/// The status code of a rejection by a limiter, if the policy sets none.
const LIMITER_CODE: i32 = 429;
/// The same for schedulers.
const SCHEDULER_CODE: i32 = 503;
/// The same for samplers.
const SAMPLER_CODE: i32 = 403;

impl Policy {
    /// Returns a description of a few lines: the components with their selectors and limits, and
    /// the nodes that drive them. Selectors for which `applies` is false are left out, and so are
    /// components without any other.
    pub(crate) fn describe(&self, applies: &dyn Fn(&Selector) -> bool, dry_run: bool) -> String {
        let dry_run = match dry_run {
            true => " (dry run: decides, and rejects no flow)",
            false => "",
        };
        let mut text = format!("policy `{}`{dry_run}\n", self.name);
        // Writing to a `String` does not fail.
        let _ = self.write(&mut text, applies);
        text
    }

    /// Returns the id of the component that computes each signal, by the index of the signal.
    fn origins(&self) -> Vec<&str> {
        let Some(circuit) = &self.circuit else {
            return Vec::new();
        };
        let mut origins = vec!["?"; circuit.signals as usize];
        for node in &circuit.nodes {
            for signal in node.outputs.iter().flatten() {
                if let Some(origin) = origins.get_mut(signal.0 as usize) {
                    *origin = &node.id;
                }
            }
        }
        origins
    }

    fn write(&self, out: &mut String, applies: &dyn Fn(&Selector) -> bool) -> fmt::Result {
        let mut empty = true;
        let origins = SignalOrigins(self.origins());
        for component in &self.components {
            let selectors = filter_selectors(&component.selectors, applies);
            if !selectors.is_empty() {
                empty = false;
                origins.component(out, component)?;
                write_selectors(out, &selectors)?;
            }
        }
        for classifier in &self.classifiers {
            let selectors = filter_selectors(&classifier.selectors, applies);
            if !selectors.is_empty() {
                empty = false;
                write_classifier(out, classifier)?;
                write_selectors(out, &selectors)?;
            }
        }
        for meter in &self.flux_meters {
            let selectors = filter_selectors(&meter.selectors, applies);
            if !selectors.is_empty() {
                empty = false;
                write_meter(out, meter)?;
                write_selectors(out, &selectors)?;
            }
        }
        if empty {
            return writeln!(out, "  no part of it applies here");
        }
        match &self.circuit {
            Some(circuit) => write_circuit(out, circuit),
            None => Ok(()),
        }
    }
}

/// The ids of the components that compute the signals, by the index of the signal.
struct SignalOrigins<'p>(Vec<&'p str>);

impl SignalOrigins<'_> {
    fn component(&self, out: &mut String, component: &Component) -> fmt::Result {
        write!(out, "  {} {}: ", component.id, component.kind.name())?;
        match &component.kind {
            ComponentKind::RateLimiter(limiter) => {
                self.bucket(out, &limiter.bucket)?;
                write_request(out, &limiter.request)
            }
            ComponentKind::QuotaScheduler(scheduler) => {
                self.bucket(out, &scheduler.bucket)?;
                write_scheduler(out, &scheduler.scheduler)
            }
            ComponentKind::ConcurrencyLimiter(limiter) => {
                self.slots(out, &limiter.slots)?;
                write_request(out, &limiter.request)
            }
            ComponentKind::AdaptiveConcurrencyLimiter(limiter) => {
                write!(out, "finds its limit: {}", limiter.adaptive)?;
                self.holding(out, &limiter.slots)?;
                write_request(out, &limiter.request)
            }
            ComponentKind::ConcurrencyScheduler(scheduler) => {
                self.slots(out, &scheduler.slots)?;
                write_scheduler(out, &scheduler.scheduler)
            }
            ComponentKind::LoadScheduler(scheduler) => {
                match scheduler.load_multiplier {
                    _ if scheduler.dry_run => out.push_str("lets everything pass"),
                    Port::Constant(value) if value.is_nan() => out.push_str("lets everything pass"),
                    Port::Constant(value) => {
                        write!(out, "load multiplier {}", DisplaySignal(value))?;
                    }
                    port => write!(out, "load multiplier {}", self.port(port))?,
                }
                if scheduler.workload_latency_based_tokens {
                    out.push_str(", tokens from the latency of the workloads");
                }
                write_scheduler(out, &scheduler.scheduler)
            }
            ComponentKind::Sampler(sampler) => {
                match sampler.accept_percentage {
                    None => out.push_str("rejects everything"),
                    Some(Port::Constant(value)) if value.is_nan() => {
                        let effect = if sampler.ramp_mode {
                            "rejects"
                        } else {
                            "accepts"
                        };
                        write!(out, "{effect} everything")?;
                    }
                    Some(Port::Constant(value)) => {
                        write!(out, "accepts {} %", DisplaySignal(value))?;
                    }
                    Some(port) => write!(out, "accepts a percentage {}", self.port(port))?,
                }
                if let Some(key) = &sampler.session_label_key {
                    write!(
                        out,
                        ", the same decision for each value of the label `{key}`"
                    )?;
                }
                if sampler.ramp_mode {
                    out.push_str(", in ramp mode");
                }
                if !sampler.pass_through_label_values.is_empty() {
                    let values: Vec<String> = sampler
                        .pass_through_label_values
                        .iter()
                        .map(|value| format!("`{value}`"))
                        .collect();
                    write!(out, ", always {}", values.join(", "))?;
                }
                write_code(out, sampler.denied_response_status_code, SAMPLER_CODE)
            }
        }
    }

    fn bucket(&self, out: &mut String, bucket: &Bucket) -> fmt::Result {
        let ports = [
            bucket.bucket_capacity,
            bucket.fill_amount,
            bucket.pass_through,
        ];
        if ports.iter().all(|port| matches!(port, Port::Constant(_)))
            && passes_through(ports[0].initial(), ports[1].initial(), ports[2].initial())
        {
            out.push_str("lets everything pass");
            return Ok(());
        }
        write!(
            out,
            "{} tokens, {} more every {:?}",
            self.amount(ports[0]),
            self.amount(ports[1]),
            bucket.interval
        )?;
        out.push_str(if bucket.continuous_fill {
            ""
        } else {
            " at once"
        });
        if bucket.delay_initial_fill {
            out.push_str(", first after the time that filling the bucket takes");
        }
        write_key(out, bucket.limit_by_label_key.as_deref())?;
        match bucket.lazy_sync {
            Some(syncs) => write!(out, ", {syncs} syncs an interval"),
            None => Ok(()),
        }
    }

    fn slots(&self, out: &mut String, slots: &Slots) -> fmt::Result {
        match slots.max_concurrency {
            Port::Constant(value) if value.is_nan() => {
                out.push_str("lets everything pass");
                return Ok(());
            }
            port => write!(out, "{} in flight", self.amount(port))?,
        }
        self.holding(out, slots)
    }

    fn holding(&self, out: &mut String, slots: &Slots) -> fmt::Result {
        write!(out, ", each for at most {:?}", slots.max_inflight_duration)?;
        write_key(out, slots.limit_by_label_key.as_deref())
    }

    /// Returns a number, or a reference to the component that computes it.
    fn amount(&self, port: Port) -> String {
        match port {
            Port::Constant(value) => DisplaySignal(value).to_string(),
            Port::Changing(_) => format!("({})", self.port(port)),
        }
    }

    /// Returns a number, or the component that computes it.
    fn port(&self, port: Port) -> String {
        let Port::Changing(signal) = port else {
            return DisplaySignal(port.initial()).to_string();
        };
        match self.0.get(signal.0 as usize) {
            Some(origin) => format!("from `{origin}`"),
            None => "?".to_owned(),
        }
    }
}

/// Appends the control points that checks have named and that no policy selects.
pub(crate) fn describe_unselected(out: &mut String, names: &[Arc<str>]) {
    if !names.is_empty() {
        out.push_str("named by checks, but selected by no policy, so not limited:\n");
    }
    for name in names {
        // Writing to a `String` does not fail. Names are escaped, because clients may send
        // anything.
        let _ = writeln!(out, "  `{}`", name.escape_debug());
    }
}

fn filter_selectors<'s>(
    selectors: &'s [Selector],
    applies: &dyn Fn(&Selector) -> bool,
) -> Vec<&'s Selector> {
    selectors.iter().filter(|one| applies(one)).collect()
}

/// Displays the value of a signal.
struct DisplaySignal(f64);

impl Display for DisplaySignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            value if value.is_nan() => f.write_str("invalid"),
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            value => write!(f, "{value}"),
        }
    }
}

fn write_selectors(out: &mut String, selectors: &[&Selector]) -> fmt::Result {
    for selector in selectors {
        write!(out, "    at `{}`", selector.control_point)?;
        match &*selector.service {
            "any" => out.push_str(", any service"),
            service => write!(out, ", service `{service}`")?,
        }
        if !selector.matcher.is_empty() {
            write!(out, ", when {}", selector.matcher)?;
        }
        out.push('\n');
    }
    Ok(())
}

fn write_key(out: &mut String, key: Option<&str>) -> fmt::Result {
    match key {
        Some(key) => write!(out, ", for each value of the label `{key}`"),
        None => {
            out.push_str(", shared by all flows");
            Ok(())
        }
    }
}

fn write_request(out: &mut String, request: &RequestParameters) -> fmt::Result {
    if let Some(key) = &request.tokens_label_key {
        write!(
            out,
            "; a flow takes the number of tokens in its label `{key}`"
        )?;
    }
    write_code(out, request.denied_response_status_code, LIMITER_CODE)
}

fn write_code(out: &mut String, code: i32, default: i32) -> fmt::Result {
    let code = if code == 0 { default } else { code };
    writeln!(out, "; rejects with {code}")
}

fn write_scheduler(out: &mut String, scheduler: &Scheduler) -> fmt::Result {
    write_code(out, scheduler.denied_response_status_code, SCHEDULER_CODE)?;
    for workload in &scheduler.workloads {
        write!(out, "    workload `{}`: ", workload.label)?;
        write_workload(out, &workload.parameters)?;
        match workload.matcher.is_empty() {
            true => out.push_str(", any flow\n"),
            false => writeln!(out, ", when {}", workload.matcher)?,
        }
    }
    out.push_str("    other flows: ");
    write_workload(out, &scheduler.default_workload)?;
    for (what, key) in [
        ("tokens", &scheduler.tokens_label_key),
        ("priority", &scheduler.priority_label_key),
        ("workload", &scheduler.workload_label_key),
        ("fairness", &scheduler.fairness_label_key),
    ] {
        if let Some(key) = key {
            write!(out, "; {what} by the label `{key}`")?;
        }
    }
    out.push('\n');
    Ok(())
}

fn write_workload(out: &mut String, parameters: &WorkloadParameters) -> fmt::Result {
    let (priority, tokens) = (
        DisplaySignal(parameters.priority),
        DisplaySignal(parameters.tokens),
    );
    let s = if parameters.tokens == 1.0 { "" } else { "s" };
    write!(out, "priority {priority}, {tokens} token{s}")?;
    match parameters.queue_timeout {
        Some(timeout) => write!(out, ", queues for at most {timeout:?}"),
        None => Ok(()),
    }
}

fn write_classifier(out: &mut String, classifier: &Classifier) -> fmt::Result {
    let mut labels: Vec<&str> = classifier.rules.iter().map(|rule| &*rule.label).collect();
    let rego = classifier.rego.iter().flat_map(|rego| &rego.labels);
    let rego: Vec<&str> = rego.map(|(label, _)| &**label).collect();
    if cfg!(feature = "rego") {
        labels.extend(&rego);
    }
    write!(out, "  classifier {}: ", classifier.index)?;
    match labels.is_empty() {
        true => out.push_str("sets no label"),
        false => write!(out, "sets {}", labels.join(", "))?,
    }
    if !cfg!(feature = "rego") && !rego.is_empty() {
        write!(out, "; leaves {} unset", rego.join(", "))?;
    }
    out.push('\n');
    Ok(())
}

fn write_meter(out: &mut String, meter: &FluxMeter) -> fmt::Result {
    let (name, key) = (&meter.name, &meter.attribute_key);
    let buckets = match &meter.buckets {
        None => "default".to_owned(),
        Some(Buckets::Static(bounds)) => bounds.len().to_string(),
        Some(
            Buckets::Linear { count, .. }
            | Buckets::Exponential { count, .. }
            | Buckets::ExponentialRange { count, .. },
        ) => count.to_string(),
    };
    writeln!(
        out,
        "  flux meter `{name}`: measures {key} in {buckets} buckets"
    )
}

fn write_circuit(out: &mut String, circuit: &Circuit) -> fmt::Result {
    if circuit.nodes.is_empty() {
        return Ok(());
    }
    let (signals, interval) = (circuit.signals, circuit.evaluation_interval);
    let s = if signals == 1 { "" } else { "s" };
    writeln!(out, "  {signals} signal{s}, computed every {interval:?}")?;
    for node in &circuit.nodes {
        match &node.op {
            Op::Query { text, interval } => {
                writeln!(out, "    {} queries every {interval:?}: {text}", node.id)?;
            }
            Op::FluxMeterMean {
                name,
                window,
                interval,
            } => writeln!(
                out,
                "    {} reads every {interval:?} the mean of `{name}` over {window:?}",
                node.id
            )?,
            Op::FluxMeterQuantile {
                name,
                quantile,
                window,
                interval,
            } => writeln!(
                out,
                "    {} reads every {interval:?} the {quantile} quantile of `{name}` over \
                 {window:?}",
                node.id
            )?,
            Op::SignalGenerator { steps } => {
                let steps: Vec<String> = steps
                    .iter()
                    .map(|step| {
                        let target = DisplaySignal(step.target_accept_percentage);
                        format!("{target} within {:?}", step.duration)
                    })
                    .collect();
                writeln!(out, "    {} ramps to {}", node.id, steps.join(", then "))?;
            }
            _ => {}
        }
    }
    Ok(())
}
