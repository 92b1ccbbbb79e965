//! `load-scheduling/…`: a load scheduler in a control loop, and the queries that drive it.

use std::sync::Arc;
use std::time::Duration;

use super::{Known, Values};
use crate::policy::circuit::Circuit;
use crate::policy::components::{
    self, ALL, AimdDefaults, Computed, FirstValid, LoopPorts, QUERY_INTERVAL, Wired, decider,
};
use crate::policy::decode::{At, Object};
use crate::policy::model::{Arithmetic, Comparison, Op, Policy};
use crate::policy::ports::{self, InPort, OutPort};
use crate::policy::resources::flux_meter;
use crate::policy::{PolicyError, promql};

/// What an AIMD loop may cut at once, and what it may not.
const GRADIENT: (f64, f64) = (0.1, 1.0);
/// Over which time the present latency is measured.
const SHORT_TERM: Duration = Duration::from_secs(30);
/// The same of the usual latency, and how often.
const LONG_TERM: Duration = Duration::from_secs(1800);
const LONG_TERM_INTERVAL: Duration = Duration::from_secs(30);

/// The latency of now against the usual one.
pub(super) fn average_latency<'t>(at: At<'t>, dynamic: &[At<'t>]) -> Result<Policy, PolicyError> {
    let fields = at.object(&[
        "policy_name",
        "components",
        "resources",
        "load_scheduling_core",
        "latency_baseliner",
    ])?;
    let mut values = Values::new(&fields, dynamic)?;
    let core = fields.required("load_scheduling_core")?.object(&[
        "aimd_load_scheduler",
        "overload_confirmations",
        "dry_run",
        "kubelet_overload_confirmations",
    ])?;
    values.components(&fields)?;
    let ports = loop_ports(&mut values, &core)?;
    let defaults = AimdDefaults {
        gradient: GRADIENT,
        increment: 0.025,
    };
    let place = values.place();
    let parameters = core.required("aimd_load_scheduler")?;
    components::aimd(parameters, &place, ports, defaults, &mut values.circuit)?;

    let baseliner = fields.required("latency_baseliner")?.object(&[
        "flux_meter",
        "latency_tolerance_multiplier",
        "long_term_query_interval",
        "long_term_query_periodic_interval",
    ])?;
    let meter = flux_meter(values.name, baseliner.required("flux_meter")?)?;
    values.meters.push(meter);
    let tolerance = baseliner.number("latency_tolerance_multiplier", 1.25)?;
    let window = match baseliner.scalar("long_term_query_interval") {
        None => LONG_TERM,
        Some(at) => promql::seconds(at.text()?)
            .ok_or_else(|| at.error("expected a duration of a query as `1800s` or `30m`"))?,
    };
    let interval = match baseliner.scalar("long_term_query_periodic_interval") {
        None => LONG_TERM_INTERVAL,
        Some(at) => components::more_than_zero(&at)?,
    };
    let at = &baseliner.at;
    values.mean(at, SHORT_TERM, QUERY_INTERVAL, "SIGNAL");
    values.mean(at, window, interval, "SIGNAL_LONG_TERM");
    let inputs = vec![root(at, "SIGNAL_LONG_TERM"), ports::constant(at, tolerance)];
    let setpoint = vec![led(at, "SETPOINT")];
    values.part(inputs, setpoint, components::combinator(Arithmetic::Mul));
    values.finish()
}

/// A query against a setpoint.
pub(super) fn promql<'t>(at: At<'t>, dynamic: &[At<'t>]) -> Result<Policy, PolicyError> {
    let fields = at.object(&[
        "policy_name",
        "components",
        "resources",
        "promql_query",
        "setpoint",
        "overload_condition",
        "load_scheduling_core",
    ])?;
    let query = fields.required("promql_query")?.text()?;
    let setpoint = fields.required("setpoint")?.number()?;
    let condition = components::overload_condition(&fields.required("overload_condition")?)?;
    let core = core(&fields, CORE)?;
    against_setpoint(
        &fields,
        dynamic,
        &core,
        &|_| query.to_owned(),
        setpoint,
        condition,
    )
}

const CORE: Known = &[
    "aiad_load_scheduler",
    "overload_confirmations",
    "dry_run",
    "kubelet_overload_confirmations",
];
const CORE_WITH_SETPOINT: Known = &[
    "aiad_load_scheduler",
    "overload_confirmations",
    "dry_run",
    "kubelet_overload_confirmations",
    "setpoint",
];

fn core<'t>(fields: &Object<'t>, known: Known) -> Result<Object<'t>, PolicyError> {
    fields.required("load_scheduling_core")?.object(known)
}

/// The share of its connections that a database has in use, in percent.
pub(super) fn postgresql<'t>(at: At<'t>, dynamic: &[At<'t>]) -> Result<Policy, PolicyError> {
    let fields = at.object(&[
        "policy_name",
        "components",
        "resources",
        "postgresql",
        "connections_used_threshold",
        "load_scheduling_core",
    ])?;
    fields.required("postgresql")?.free_map()?;
    let threshold = fields.required("connections_used_threshold")?.number()?;
    let query = |name: &str| {
        let labels = format!("{{policy_name=\"{name}\",infra_meter_name=\"postgresql\"}}");
        format!("(sum(postgresql_backends{labels}) / sum(postgresql_connection_max{labels})) * 100")
    };
    let core = core(&fields, CORE)?;
    against_setpoint(&fields, dynamic, &core, &query, threshold, Comparison::Gt)
}

/// The searches that wait for a thread.
pub(super) fn elasticsearch<'t>(at: At<'t>, dynamic: &[At<'t>]) -> Result<Policy, PolicyError> {
    let fields = at.object(&[
        "policy_name",
        "components",
        "resources",
        "elasticsearch",
        "search_queue_threshold",
        "load_scheduling_core",
    ])?;
    fields.required("elasticsearch")?.free_map()?;
    let threshold = fields.required("search_queue_threshold")?.number()?;
    let query = |_: &str| {
        "avg(avg_over_time(elasticsearch_node_thread_pool_tasks_queued\
         {thread_pool_name=\"search\"}[30s]))"
            .to_owned()
    };
    let core = core(&fields, CORE)?;
    against_setpoint(&fields, dynamic, &core, &query, threshold, Comparison::Gt)
}

/// The time that collecting garbage took last.
pub(super) fn java_gc<'t>(at: At<'t>, dynamic: &[At<'t>]) -> Result<Policy, PolicyError> {
    let fields = at.object(&[
        "policy_name",
        "components",
        "resources",
        "jmx",
        "load_scheduling_core",
    ])?;
    fields.required("jmx")?.free_map()?;
    let query = |name: &str| {
        format!(
            "avg(java_lang_G1_Young_Generation_LastGcInfo_duration{{policy_name=\"{name}\", \
             infra_meter_name=\"jmx_inframeter\"}})"
        )
    };
    let core = core(&fields, CORE_WITH_SETPOINT)?;
    let setpoint = core.required("setpoint")?.number()?;
    against_setpoint(&fields, dynamic, &core, &query, setpoint, Comparison::Gt)
}

/// The CPU that the pods of a deployment use, in percent.
pub(super) fn cpu<'t>(at: At<'t>, dynamic: &[At<'t>]) -> Result<Policy, PolicyError> {
    let fields = at.object(&[
        "policy_name",
        "components",
        "resources",
        "kubernetes_object_selector",
        "load_scheduling_core",
    ])?;
    let object = fields.required("kubernetes_object_selector")?;
    let text = |key: &str| object.peek(key).ok_or_else(|| object.missing(key))?.text();
    let (deployment, namespace) = (text("name")?, text("namespace")?);
    let query = |name: &str| {
        format!(
            "avg(k8s_pod_cpu_utilization_ratio{{k8s_deployment_name=\"{deployment}\",\
             k8s_namespace_name=\"{namespace}\",policy_name=\"{name}\", \
             infra_meter_name=\"kubeletstats\"}}) * 100"
        )
    };
    let core = core(&fields, CORE_WITH_SETPOINT)?;
    let setpoint = core.required("setpoint")?.number()?;
    against_setpoint(&fields, dynamic, &core, &query, setpoint, Comparison::Gt)
}

fn against_setpoint<'t>(
    fields: &Object<'t>,
    dynamic: &[At<'t>],
    core: &Object<'t>,
    query: &dyn Fn(&str) -> String,
    setpoint: f64,
    condition: Comparison,
) -> Result<Policy, PolicyError> {
    let mut values = Values::new(fields, dynamic)?;
    values.components(fields)?;
    let ports = loop_ports(&mut values, core)?;
    let place = values.place();
    let parameters = core.required("aiad_load_scheduler")?;
    components::aiad(parameters, &place, ports, condition, &mut values.circuit)?;
    let at = &fields.at;
    let op = components::query_op(&query(values.name), QUERY_INTERVAL, values.name);
    values.part(Vec::new(), vec![led(at, "SIGNAL")], Box::new(Computed(op)));
    let setpoint = components::steady(setpoint);
    values.part(Vec::new(), vec![led(at, "SETPOINT")], setpoint);
    values.finish()
}

/// What the loop hears and says, behind the confirmations of overload.
fn loop_ports<'t>(
    values: &mut Values<'t>,
    core: &Object<'t>,
) -> Result<LoopPorts<'t>, PolicyError> {
    let at = &core.at;
    let mut confirmed = Vec::new();
    if let Some(list) = core.get("overload_confirmations") {
        for at in list.list()? {
            let fields = at.object(&["query_string", "threshold", "operator"])?;
            let comparison = fields
                .required("operator")?
                .one_of(&["gt", "lt", "gte", "lte", "eq", "neq"])?;
            let query = fields.required("query_string")?.text()?;
            let threshold = fields.required("threshold")?.number()?;
            let comparison = Comparison::named(comparison);
            confirmed.push(confirmation(
                values, &fields.at, query, comparison, threshold,
            ));
        }
    }
    if let Some(kubelet) = core.get("kubelet_overload_confirmations") {
        for (query, threshold) in kubelet_confirmations(&kubelet, values.name)? {
            confirmed.push(confirmation(
                values,
                &kubelet,
                &query,
                Comparison::Gt,
                threshold,
            ));
        }
    }
    let confirmation = if confirmed.is_empty() {
        ports::constant(at, 1.0)
    } else {
        let output = vec![led(at, "OVERLOAD_CONFIRMATION")];
        values.part(confirmed, output, Box::new(ALL));
        root(at, "OVERLOAD_CONFIRMATION")
    };
    Ok(LoopPorts {
        signal: root(at, "SIGNAL"),
        setpoint: root(at, "SETPOINT"),
        confirmation,
        outputs: vec![
            ports::nobody(at, Circuit::ROOT),
            led(at, "DESIRED_LOAD_MULTIPLIER"),
            led(at, "OBSERVED_LOAD_MULTIPLIER"),
        ],
        dry_run: components::DryRun::new(
            core.boolean("dry_run", false)?,
            Some("dry_run"),
            &values.circuit,
        )?,
    })
}

/// A query that must agree, and does not while it has no answer.
fn confirmation<'t>(
    values: &mut Values<'t>,
    at: &At<'t>,
    query: &str,
    comparison: Comparison,
    threshold: f64,
) -> InPort<'t> {
    let inner = values.circuit.open("root");
    let op = components::query_op(query, QUERY_INTERVAL, values.name);
    let answer = vec![ports::inner(at, inner, "ANSWER")];
    values.part(Vec::new(), answer, Box::new(Computed(op)));
    let compared = vec![
        ports::hearing(at, inner, "ANSWER"),
        ports::constant(at, threshold),
    ];
    let verdict = vec![ports::inner(at, inner, "VERDICT")];
    values.part(compared, verdict, decider(comparison, Duration::ZERO));
    let inputs = vec![
        ports::hearing(at, inner, "VERDICT"),
        ports::constant(at, 0.0),
    ];
    let known = vec![ports::inner(at, inner, "KNOWN")];
    values.part(inputs, known, Box::new(FirstValid));
    ports::hearing(at, inner, "KNOWN")
}

/// Queries and thresholds about pods; everything else of the section is for the cluster.
fn kubelet_confirmations(at: &At<'_>, policy: &str) -> Result<Vec<(String, f64)>, PolicyError> {
    const METRICS: [(&str, &str); 2] = [
        ("pod_cpu", "k8s_pod_cpu_utilization_ratio"),
        ("pod_memory", "k8s_pod_memory_usage_bytes"),
    ];
    let mut confirmations = Vec::new();
    for (name, metric) in METRICS {
        let criterion = at.peek("criteria").and_then(|at| at.peek(name));
        let Some(criterion) = criterion else { continue };
        match criterion.peek("enabled") {
            Some(at) if at.boolean()? => {}
            _ => continue,
        }
        let threshold = required(&criterion, "threshold")?.number()?;
        let context = required(at, "infra_context")?;
        let kind = required(&context, "kind")?.text()?.to_ascii_lowercase();
        let object = required(&context, "name")?;
        let namespace = required(&context, "namespace")?;
        let query = format!(
            "avg({metric}{{k8s_{kind}_name=\"{}\",k8s_namespace_name=\"{}\",\
             policy_name=\"{policy}\",infra_meter_name=\"kubeletstats\"}})",
            object.text()?,
            namespace.text()?
        );
        confirmations.push((query, threshold));
    }
    Ok(confirmations)
}

fn required<'t>(at: &At<'t>, key: &str) -> Result<At<'t>, PolicyError> {
    at.peek(key).ok_or_else(|| at.missing(key))
}

fn root<'t>(at: &At<'t>, name: &'static str) -> InPort<'t> {
    ports::hearing(at, Circuit::ROOT, name)
}

fn led<'t>(at: &At<'t>, name: &'static str) -> OutPort<'t> {
    ports::inner(at, Circuit::ROOT, name)
}

impl<'t> Values<'t> {
    /// The mean latency of the policy's own flux meter.
    fn mean(&mut self, at: &At<'t>, window: Duration, interval: Duration, name: &'static str) {
        let op = Op::FluxMeterMean {
            name: Arc::from(self.name),
            window,
            interval,
        };
        self.part(Vec::new(), vec![led(at, name)], Box::new(Computed(op)));
    }

    /// The next component of the root circuit.
    pub(super) fn part(
        &mut self,
        inputs: Vec<InPort<'t>>,
        outputs: Vec<OutPort<'t>>,
        part: Box<dyn components::Part + 't>,
    ) {
        let id = self.place().id;
        self.circuit.add(Wired {
            id,
            inputs,
            outputs,
            part,
        });
    }
}
