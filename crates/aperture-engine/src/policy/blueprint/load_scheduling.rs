//! Expands `load-scheduling/…`: a load scheduler in a control loop, and the queries that drive it.

mod fields;

use std::sync::Arc;
use std::time::Duration;

use self::fields::{AIAD_CORE, AIAD_CORE_WITH_SETPOINT, AIMD_CORE, BASELINER, CONFIRMATION};
pub(super) use self::fields::{AVERAGE_LATENCY, CPU, ELASTICSEARCH, JAVA_GC, POSTGRESQL, PROMQL};
use super::BlueprintValues;
use crate::policy::circuit::CircuitBuilder;
use crate::policy::components::{
    self, AND, AimdDefaults, FirstValid, LoopPorts, QUERY_INTERVAL, RuntimeComponent,
    WiredComponent, decider,
};
use crate::policy::decode::{DocumentNode, Object, Section};
use crate::policy::model::{Arithmetic, Comparison, Op, Policy};
use crate::policy::ports::{self, InPort, OutPort};
use crate::policy::resources::flux_meter;
use crate::policy::{PolicyError, promql};

/// The default bounds of the gradient of an AIMD loop.
const GRADIENT_BOUNDS: (f64, f64) = (0.1, 1.0);
/// The window of the current latency.
const SHORT_TERM: Duration = Duration::from_secs(30);
/// The default window and query interval of the usual latency.
const LONG_TERM: Duration = Duration::from_secs(1800);
const LONG_TERM_INTERVAL: Duration = Duration::from_secs(30);

/// Expands `load-scheduling/average-latency`: compares the current latency with the usual one.
pub(super) fn average_latency<'t>(
    node: DocumentNode<'t>,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    let fields = node.object(&AVERAGE_LATENCY)?;
    let mut values = BlueprintValues::new(&fields, dynamic)?;
    let core = core(&fields, &AIMD_CORE)?;
    values.add_components(&fields)?;
    let ports = loop_ports(&mut values, &core)?;
    let defaults = AimdDefaults {
        gradient: GRADIENT_BOUNDS,
        increment: 0.025,
    };
    let location = values.next_location();
    let parameters = core.required("aimd_load_scheduler")?;
    components::aimd(parameters, &location, ports, defaults, &mut values.circuit)?;

    let baseliner = fields.required("latency_baseliner")?.object(&BASELINER)?;
    let meter = flux_meter(values.name, baseliner.required("flux_meter")?)?;
    values.flux_meters.push(meter);
    let tolerance = baseliner.number("latency_tolerance_multiplier", 1.25)?;
    let window = match baseliner.scalar("long_term_query_interval") {
        None => LONG_TERM,
        Some(node) => promql::seconds(node.text()?).ok_or_else(|| {
            node.error("expected a duration of a query, such as `1800s` or `30m`")
        })?,
    };
    let interval = match baseliner.scalar("long_term_query_periodic_interval") {
        None => LONG_TERM_INTERVAL,
        Some(node) => components::positive_duration(&node)?,
    };
    let node = &baseliner.node;
    values.add_mean(node, SHORT_TERM, QUERY_INTERVAL, "SIGNAL");
    values.add_mean(node, window, interval, "SIGNAL_LONG_TERM");
    let inputs = vec![
        root_in_port(node, "SIGNAL_LONG_TERM"),
        ports::constant(node, tolerance),
    ];
    let setpoint = vec![root_out_port(node, "SETPOINT")];
    values.add(inputs, setpoint, components::combinator(Arithmetic::Mul));
    values.finish()
}

/// Expands `load-scheduling/promql`: compares the result of a query with a setpoint.
pub(super) fn promql<'t>(
    node: DocumentNode<'t>,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    let fields = node.object(&PROMQL)?;
    let query = fields.required("promql_query")?.text()?;
    let setpoint = fields.required("setpoint")?.number()?;
    let condition = components::overload_condition(&fields.required("overload_condition")?)?;
    let core = core(&fields, &AIAD_CORE)?;
    against_setpoint(
        &fields,
        dynamic,
        &core,
        &|_| query.to_owned(),
        setpoint,
        condition,
    )
}

fn core<'t>(fields: &Object<'t>, section: &'static Section) -> Result<Object<'t>, PolicyError> {
    fields.required("load_scheduling_core")?.object(section)
}

/// Expands `load-scheduling/postgresql`: limits the share of connections that a database has in
/// use, in percent.
pub(super) fn postgresql<'t>(
    node: DocumentNode<'t>,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    let fields = node.object(&POSTGRESQL)?;
    fields.required("postgresql")?.free_map()?;
    let threshold = fields.required("connections_used_threshold")?.number()?;
    let query = |name: &str| {
        let labels = format!("{{policy_name=\"{name}\",infra_meter_name=\"postgresql\"}}");
        format!("(sum(postgresql_backends{labels}) / sum(postgresql_connection_max{labels})) * 100")
    };
    let core = core(&fields, &AIAD_CORE)?;
    against_setpoint(&fields, dynamic, &core, &query, threshold, Comparison::Gt)
}

/// Expands `load-scheduling/elasticsearch`: limits the searches that wait for a thread.
pub(super) fn elasticsearch<'t>(
    node: DocumentNode<'t>,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    let fields = node.object(&ELASTICSEARCH)?;
    fields.required("elasticsearch")?.free_map()?;
    let threshold = fields.required("search_queue_threshold")?.number()?;
    let query = |_: &str| {
        "avg(avg_over_time(elasticsearch_node_thread_pool_tasks_queued\
         {thread_pool_name=\"search\"}[30s]))"
            .to_owned()
    };
    let core = core(&fields, &AIAD_CORE)?;
    against_setpoint(&fields, dynamic, &core, &query, threshold, Comparison::Gt)
}

/// Expands `load-scheduling/java-gc-…`: limits the duration of the last garbage collection.
pub(super) fn java_gc<'t>(
    node: DocumentNode<'t>,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    let fields = node.object(&JAVA_GC)?;
    fields.required("jmx")?.free_map()?;
    let query = |name: &str| {
        format!(
            "avg(java_lang_G1_Young_Generation_LastGcInfo_duration{{policy_name=\"{name}\", \
             infra_meter_name=\"jmx_inframeter\"}})"
        )
    };
    let core = core(&fields, &AIAD_CORE_WITH_SETPOINT)?;
    let setpoint = core.required("setpoint")?.number()?;
    against_setpoint(&fields, dynamic, &core, &query, setpoint, Comparison::Gt)
}

/// Expands `load-scheduling/cpu-overload-protection-k8s`: limits the CPU usage of the pods of a
/// deployment, in percent.
pub(super) fn cpu<'t>(
    node: DocumentNode<'t>,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    let fields = node.object(&CPU)?;
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
    let core = core(&fields, &AIAD_CORE_WITH_SETPOINT)?;
    let setpoint = core.required("setpoint")?.number()?;
    against_setpoint(&fields, dynamic, &core, &query, setpoint, Comparison::Gt)
}

fn against_setpoint<'t>(
    fields: &Object<'t>,
    dynamic: &[DocumentNode<'t>],
    core: &Object<'t>,
    query: &dyn Fn(&str) -> String,
    setpoint: f64,
    condition: Comparison,
) -> Result<Policy, PolicyError> {
    let mut values = BlueprintValues::new(fields, dynamic)?;
    values.add_components(fields)?;
    let ports = loop_ports(&mut values, core)?;
    let location = values.next_location();
    let parameters = core.required("aiad_load_scheduler")?;
    components::aiad(parameters, &location, ports, condition, &mut values.circuit)?;
    let node = &fields.node;
    let op = components::query_op(&query(values.name), QUERY_INTERVAL, values.name);
    values.add(
        Vec::new(),
        vec![root_out_port(node, "SIGNAL")],
        Box::new(RuntimeComponent(op)),
    );
    let setpoint = components::constant_variable(setpoint);
    values.add(Vec::new(), vec![root_out_port(node, "SETPOINT")], setpoint);
    values.finish()
}

/// Reads the ports of the control loop, and adds the confirmations of overload.
fn loop_ports<'t>(
    values: &mut BlueprintValues<'t>,
    core: &Object<'t>,
) -> Result<LoopPorts<'t>, PolicyError> {
    let node = &core.node;
    let mut confirmations = Vec::new();
    if let Some(list) = core.get("overload_confirmations") {
        for node in list.list()? {
            let fields = node.object(&CONFIRMATION)?;
            let comparison = fields
                .required("operator")?
                .one_of(&["gt", "lt", "gte", "lte", "eq", "neq"])?;
            let query = fields.required("query_string")?.text()?;
            let threshold = fields.required("threshold")?.number()?;
            let comparison = Comparison::from_name(comparison);
            confirmations.push(confirmation(
                values,
                &fields.node,
                query,
                comparison,
                threshold,
            ));
        }
    }
    if let Some(kubelet) = core.get("kubelet_overload_confirmations") {
        for (query, threshold) in kubelet_confirmations(&kubelet, values.name)? {
            confirmations.push(confirmation(
                values,
                &kubelet,
                &query,
                Comparison::Gt,
                threshold,
            ));
        }
    }
    let confirmation = if confirmations.is_empty() {
        ports::constant(node, 1.0)
    } else {
        let output = vec![root_out_port(node, "OVERLOAD_CONFIRMATION")];
        values.add(confirmations, output, Box::new(AND));
        root_in_port(node, "OVERLOAD_CONFIRMATION")
    };
    Ok(LoopPorts {
        signal: root_in_port(node, "SIGNAL"),
        setpoint: root_in_port(node, "SETPOINT"),
        confirmation,
        outputs: vec![
            ports::unused_out_port(node, CircuitBuilder::ROOT),
            root_out_port(node, "DESIRED_LOAD_MULTIPLIER"),
            root_out_port(node, "OBSERVED_LOAD_MULTIPLIER"),
        ],
        dry_run: components::DryRunSetting::new(
            core.boolean("dry_run", false)?,
            Some("dry_run"),
            &values.circuit,
        )?,
    })
}

/// Adds a query that must confirm an overload. It does not confirm while it has no result.
fn confirmation<'t>(
    values: &mut BlueprintValues<'t>,
    node: &DocumentNode<'t>,
    query: &str,
    comparison: Comparison,
    threshold: f64,
) -> InPort<'t> {
    let inner = values.circuit.open_scope("root");
    let op = components::query_op(query, QUERY_INTERVAL, values.name);
    let result = vec![ports::inner_out_port(node, inner, "ANSWER")];
    values.add(Vec::new(), result, Box::new(RuntimeComponent(op)));
    let operands = vec![
        ports::inner_in_port(node, inner, "ANSWER"),
        ports::constant(node, threshold),
    ];
    let comparison_output = vec![ports::inner_out_port(node, inner, "VERDICT")];
    values.add(
        operands,
        comparison_output,
        decider(comparison, Duration::ZERO),
    );
    let inputs = vec![
        ports::inner_in_port(node, inner, "VERDICT"),
        ports::constant(node, 0.0),
    ];
    let output = vec![ports::inner_out_port(node, inner, "KNOWN")];
    values.add(inputs, output, Box::new(FirstValid));
    ports::inner_in_port(node, inner, "KNOWN")
}

/// Returns the queries and thresholds about pods. The other fields of the section are for the
/// cluster.
fn kubelet_confirmations(
    node: &DocumentNode<'_>,
    policy: &str,
) -> Result<Vec<(String, f64)>, PolicyError> {
    const METRICS: [(&str, &str); 2] = [
        ("pod_cpu", "k8s_pod_cpu_utilization_ratio"),
        ("pod_memory", "k8s_pod_memory_usage_bytes"),
    ];
    let mut confirmations = Vec::new();
    for (name, metric) in METRICS {
        let criterion = node.peek("criteria").and_then(|node| node.peek(name));
        let Some(criterion) = criterion else { continue };
        match criterion.peek("enabled") {
            Some(node) if node.boolean()? => {}
            _ => continue,
        }
        let threshold = required(&criterion, "threshold")?.number()?;
        let context = required(node, "infra_context")?;
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

fn required<'t>(node: &DocumentNode<'t>, key: &str) -> Result<DocumentNode<'t>, PolicyError> {
    node.peek(key).ok_or_else(|| node.missing(key))
}

fn root_in_port<'t>(node: &DocumentNode<'t>, name: &'static str) -> InPort<'t> {
    ports::inner_in_port(node, CircuitBuilder::ROOT, name)
}

fn root_out_port<'t>(node: &DocumentNode<'t>, name: &'static str) -> OutPort<'t> {
    ports::inner_out_port(node, CircuitBuilder::ROOT, name)
}

impl<'t> BlueprintValues<'t> {
    /// Adds a signal with the mean latency of the policy's own flux meter.
    fn add_mean(
        &mut self,
        node: &DocumentNode<'t>,
        window: Duration,
        interval: Duration,
        name: &'static str,
    ) {
        let op = Op::FluxMeterMean {
            name: Arc::from(self.name),
            window,
            interval,
        };
        self.add(
            Vec::new(),
            vec![root_out_port(node, name)],
            Box::new(RuntimeComponent(op)),
        );
    }

    /// Adds the next component of the root circuit.
    pub(super) fn add(
        &mut self,
        inputs: Vec<InPort<'t>>,
        outputs: Vec<OutPort<'t>>,
        behaviour: Box<dyn components::ComponentBehaviour + 't>,
    ) {
        let id = self.next_location().id;
        self.circuit.add(WiredComponent {
            id,
            inputs,
            outputs,
            behaviour,
        });
    }
}
