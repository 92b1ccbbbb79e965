//! Expands `load-ramping/base`: a ramp, and the drivers that move it forward and backward.

mod fields;

use std::sync::Arc;
use std::time::Duration;

pub(super) use self::fields::FIELDS;
use self::fields::{
    AVERAGE_LATENCY_DRIVER, COMPARISON, DRIVERS, LATENCY_CRITERIA, PERCENTILE_LATENCY_DRIVER,
    PROMQL_DRIVER, QUERY_CRITERIA, THRESHOLD,
};
use super::BlueprintValues;
use crate::policy::PolicyError;
use crate::policy::circuit::CircuitBuilder;
use crate::policy::components::{
    self, AND, FirstValid, Inverter, OR, QUERY_INTERVAL, RuntimeComponent, decider,
};
use crate::policy::decode::{DocumentNode, Object};
use crate::policy::model::{Comparison, FluxMeter, Op, Policy};
use crate::policy::ports::{self, InPort, OutPort, ScopeIndex};
use crate::policy::resources::flux_meter;
use crate::policy::selector;

/// The window over which latencies are measured.
const WINDOW: Duration = Duration::from_secs(30);

/// The results of the criteria of the drivers, by direction.
#[derive(Default)]
struct Intents<'t> {
    forward: Vec<InPort<'t>>,
    backward: Vec<InPort<'t>>,
    reset: Vec<InPort<'t>>,
}

pub(super) fn expand<'t>(
    node: DocumentNode<'t>,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    let fields = node.object(&FIELDS)?;
    let mut values = BlueprintValues::new(&fields, dynamic)?;
    let node = &fields.node;
    if let Some(node) = fields.get("kubelet_metrics")
        && !node.free_map()?.is_empty()
    {
        return Err(node.error(
            "metrics of a kubelet are not supported by the embedded engine of this version",
        ));
    }
    let mut intents = Intents::default();
    if let Some(drivers) = fields.object("drivers", &DRIVERS)? {
        read_drivers(&drivers, &mut values, &mut intents)?;
    }

    let mut start = fields.boolean("start", false)?;
    if let Some(node) = values.circuit.dynamic_value("start") {
        start = node.boolean()?;
    }
    let reset_now = match values.circuit.dynamic_value("reset") {
        Some(node) => node.boolean()?,
        None => false,
    };
    if !start {
        node.warn("the ramp stays at its first step, because `start` is false");
    }
    let signal = |on| f64::from(u8::from(on));
    values.add(
        Vec::new(),
        vec![root_out_port(node, "USER_START_CONTROL")],
        components::constant_variable(signal(start)),
    );
    values.add(
        Vec::new(),
        vec![root_out_port(node, "USER_RESET_CONTROL")],
        components::constant_variable(signal(reset_now)),
    );
    let Intents {
        forward,
        backward,
        mut reset,
    } = intents;
    values.add(
        backward,
        vec![root_out_port(node, "BACKWARD_INTENT")],
        Box::new(OR),
    );
    reset.push(root_in_port(node, "USER_RESET_CONTROL"));
    values.add(reset, vec![root_out_port(node, "RESET")], Box::new(OR));
    let mut forward_conditions = vec![
        root_in_port(node, "NOT_BACKWARD"),
        root_in_port(node, "NOT_RESET"),
        root_in_port(node, "USER_START_CONTROL"),
    ];
    if !forward.is_empty() {
        values.add(
            forward,
            vec![root_out_port(node, "FORWARD_INTENT")],
            Box::new(OR),
        );
        forward_conditions.push(root_in_port(node, "FORWARD_INTENT"));
    }
    for (intent, inverted, not) in [
        (
            "BACKWARD_INTENT",
            "INVERTED_BACKWARD_INTENT",
            "NOT_BACKWARD",
        ),
        ("RESET", "INVERTED_RESET", "NOT_RESET"),
    ] {
        values.add(
            vec![root_in_port(node, intent)],
            vec![root_out_port(node, inverted)],
            Box::new(Inverter),
        );
        // An invalid intent counts as absent.
        let inputs = vec![root_in_port(node, inverted), ports::constant(node, 1.0)];
        values.add(inputs, vec![root_out_port(node, not)], Box::new(FirstValid));
    }
    values.add(
        forward_conditions,
        vec![root_out_port(node, "FORWARD")],
        Box::new(AND),
    );
    let backward_conditions = vec![
        root_in_port(node, "BACKWARD_INTENT"),
        root_in_port(node, "NOT_RESET"),
    ];
    values.add(
        backward_conditions,
        vec![root_out_port(node, "BACKWARD")],
        Box::new(AND),
    );

    let inputs = ["FORWARD", "BACKWARD", "RESET"].map(|name| root_in_port(node, name));
    let unused = || ports::unused_out_port(node, CircuitBuilder::ROOT);
    let outputs = vec![unused(), unused(), unused()];
    let parameters = fields.required("load_ramp")?;
    let location = values.next_location();
    components::load_ramp(
        parameters,
        None,
        &location,
        inputs.into(),
        outputs,
        &mut values.circuit,
    )?;
    values.add_components(&fields)?;
    values.finish()
}

fn read_drivers<'t>(
    drivers: &Object<'t>,
    values: &mut BlueprintValues<'t>,
    intents: &mut Intents<'t>,
) -> Result<(), PolicyError> {
    for node in list(drivers, "promql_drivers")? {
        let fields = node.object(&PROMQL_DRIVER)?;
        let query = fields.required("query_string")?.text()?;
        let op = components::query_op(query, QUERY_INTERVAL, values.name);
        let before = values.next_index;
        driver(&fields, op, None, values, intents)?;
        // The blueprint contains these components twice, so their indices are skipped.
        values.next_index += values.next_index - before;
    }
    for (index, node) in list(drivers, "average_latency_drivers")?
        .into_iter()
        .enumerate()
    {
        let fields = node.object(&AVERAGE_LATENCY_DRIVER)?;
        let name: Arc<str> = Arc::from(format!("{}/average_latency/{index}", values.name));
        values.flux_meters.push(FluxMeter {
            name: Arc::clone(&name),
            selectors: selector::selectors(&fields, "selectors")?,
            attribute_key: Arc::from("workload_duration_ms"),
            buckets: None,
        });
        let op = Op::FluxMeterMean {
            name,
            window: WINDOW,
            interval: QUERY_INTERVAL,
        };
        driver(
            &fields,
            op,
            Some([Comparison::Lt, Comparison::Gt]),
            values,
            intents,
        )?;
    }
    for (index, node) in list(drivers, "percentile_latency_drivers")?
        .into_iter()
        .enumerate()
    {
        let fields = node.object(&PERCENTILE_LATENCY_DRIVER)?;
        let name = format!("{}/percentile_latency/{index}", values.name);
        let meter = flux_meter(&name, fields.required("flux_meter")?)?;
        let node = fields.required("percentile")?;
        let quantile = node.number()?;
        if !(0.0..=1.0).contains(&quantile) {
            return Err(node.error("`percentile` must be from 0 to 1, such as 0.95"));
        }
        let op = Op::FluxMeterQuantile {
            name: Arc::clone(&meter.name),
            quantile,
            window: WINDOW,
            interval: QUERY_INTERVAL,
        };
        values.flux_meters.push(meter);
        driver(
            &fields,
            op,
            Some([Comparison::Lt, Comparison::Gt]),
            values,
            intents,
        )?;
    }
    Ok(())
}

fn list<'t>(drivers: &Object<'t>, key: &str) -> Result<Vec<DocumentNode<'t>>, PolicyError> {
    drivers.get(key).map_or(Ok(Vec::new()), |node| node.list())
}

/// Adds the signal of a driver and its criteria. The comparisons of latency drivers are fixed: the
/// first for forward, the second for backward and reset.
fn driver<'t>(
    fields: &Object<'t>,
    op: Op,
    fixed: Option<[Comparison; 2]>,
    values: &mut BlueprintValues<'t>,
    intents: &mut Intents<'t>,
) -> Result<(), PolicyError> {
    let node = &fields.node;
    let inner = values.circuit.open_scope("root");
    let signal = vec![ports::inner_out_port(node, inner, "SIGNAL")];
    values.add(Vec::new(), signal, Box::new(RuntimeComponent(op)));
    let section = if fixed.is_some() {
        &LATENCY_CRITERIA
    } else {
        &QUERY_CRITERIA
    };
    let criteria = fields.required("criteria")?.object(section)?;
    let forward = fixed.map(|fixed| fixed[0]);
    let otherwise = fixed.map(|fixed| fixed[1]);
    for (key, comparison, name, ports) in [
        ("forward", forward, "FORWARD", &mut intents.forward),
        ("backward", otherwise, "BACKWARD", &mut intents.backward),
        ("reset", otherwise, "RESET", &mut intents.reset),
    ] {
        if let Some(node) = criteria.get(key) {
            ports.push(criterion(node, comparison, inner, name, values)?);
        }
    }
    Ok(())
}

fn criterion<'t>(
    node: DocumentNode<'t>,
    fixed: Option<Comparison>,
    inner: ScopeIndex,
    name: &'static str,
    values: &mut BlueprintValues<'t>,
) -> Result<InPort<'t>, PolicyError> {
    let (fields, comparison) = match fixed {
        Some(comparison) => (node.object(&THRESHOLD)?, comparison),
        None => {
            let fields = node.object(&COMPARISON)?;
            let comparison = fields
                .required("operator")?
                .one_of(&["gt", "lt", "gte", "lte", "eq", "neq"])?;
            (fields, Comparison::from_name(comparison))
        }
    };
    let threshold = fields.required("threshold")?;
    let inputs = vec![
        ports::inner_in_port(&threshold, inner, "SIGNAL"),
        ports::constant(&threshold, threshold.number()?),
    ];
    let output = vec![ports::inner_out_port(&threshold, inner, name)];
    values.add(inputs, output, decider(comparison, Duration::ZERO));
    Ok(ports::inner_in_port(&threshold, inner, name))
}

fn root_in_port<'t>(node: &DocumentNode<'t>, name: &'static str) -> InPort<'t> {
    ports::inner_in_port(node, CircuitBuilder::ROOT, name)
}

fn root_out_port<'t>(node: &DocumentNode<'t>, name: &'static str) -> OutPort<'t> {
    ports::inner_out_port(node, CircuitBuilder::ROOT, name)
}
