//! `load-ramping/base`: a ramp, and what drives it forward and back.

use std::sync::Arc;
use std::time::Duration;

use super::Values;
use crate::policy::PolicyError;
use crate::policy::circuit::Circuit;
use crate::policy::components::{
    self, ALL, ANY, Computed, FirstValid, Inverter, QUERY_INTERVAL, decider,
};
use crate::policy::decode::{At, Object};
use crate::policy::model::{Comparison, FluxMeter, Op, Policy};
use crate::policy::ports::{self, InPort, OutPort, Scope};
use crate::policy::resources::flux_meter;
use crate::policy::selector;

/// Over which time latencies are measured.
const WINDOW: Duration = Duration::from_secs(30);

/// The verdicts of the drivers, by where they lead.
#[derive(Default)]
struct Intents<'t> {
    forward: Vec<InPort<'t>>,
    backward: Vec<InPort<'t>>,
    reset: Vec<InPort<'t>>,
}

pub(super) fn expand<'t>(at: At<'t>, dynamic: &[At<'t>]) -> Result<Policy, PolicyError> {
    let fields = at.object(&[
        "policy_name",
        "components",
        "resources",
        "load_ramp",
        "start",
        "drivers",
        "kubelet_metrics",
    ])?;
    let mut values = Values::new(&fields, dynamic)?;
    let at = &fields.at;
    if let Some(at) = fields.get("kubelet_metrics")
        && !at.free_map()?.is_empty()
    {
        return Err(at.error(
            "metrics of a kubelet are not supported by the embedded engine of this version",
        ));
    }
    let mut intents = Intents::default();
    if let Some(drivers) = fields.object(
        "drivers",
        &[
            "promql_drivers",
            "average_latency_drivers",
            "percentile_latency_drivers",
        ],
    )? {
        read_drivers(&drivers, &mut values, &mut intents)?;
    }

    let mut start = fields.boolean("start", false)?;
    if let Some(at) = values.circuit.configured("start") {
        start = at.boolean()?;
    }
    let reset_now = match values.circuit.configured("reset") {
        Some(at) => at.boolean()?,
        None => false,
    };
    if !start {
        at.warn("the ramp stays at its first step: `start` is false");
    }
    let number = |truth| f64::from(u8::from(truth));
    values.part(
        Vec::new(),
        vec![led(at, "USER_START_CONTROL")],
        components::steady(number(start)),
    );
    values.part(
        Vec::new(),
        vec![led(at, "USER_RESET_CONTROL")],
        components::steady(number(reset_now)),
    );
    let Intents {
        forward,
        backward,
        mut reset,
    } = intents;
    values.part(backward, vec![led(at, "BACKWARD_INTENT")], Box::new(ANY));
    reset.push(hear(at, "USER_RESET_CONTROL"));
    values.part(reset, vec![led(at, "RESET")], Box::new(ANY));
    let mut go = vec![
        hear(at, "NOT_BACKWARD"),
        hear(at, "NOT_RESET"),
        hear(at, "USER_START_CONTROL"),
    ];
    if !forward.is_empty() {
        values.part(forward, vec![led(at, "FORWARD_INTENT")], Box::new(ANY));
        go.push(hear(at, "FORWARD_INTENT"));
    }
    for (intent, inverted, not) in [
        (
            "BACKWARD_INTENT",
            "INVERTED_BACKWARD_INTENT",
            "NOT_BACKWARD",
        ),
        ("RESET", "INVERTED_RESET", "NOT_RESET"),
    ] {
        values.part(
            vec![hear(at, intent)],
            vec![led(at, inverted)],
            Box::new(Inverter),
        );
        // What is not known is not meant.
        let inputs = vec![hear(at, inverted), ports::constant(at, 1.0)];
        values.part(inputs, vec![led(at, not)], Box::new(FirstValid));
    }
    values.part(go, vec![led(at, "FORWARD")], Box::new(ALL));
    let back = vec![hear(at, "BACKWARD_INTENT"), hear(at, "NOT_RESET")];
    values.part(back, vec![led(at, "BACKWARD")], Box::new(ALL));

    let inputs = ["FORWARD", "BACKWARD", "RESET"].map(|name| hear(at, name));
    let nobody = || ports::nobody(at, Circuit::ROOT);
    let outputs = vec![nobody(), nobody(), nobody()];
    let parameters = fields.required("load_ramp")?;
    let place = values.place();
    components::load_ramp(
        parameters,
        None,
        &place,
        inputs.into(),
        outputs,
        &mut values.circuit,
    )?;
    values.components(&fields)?;
    values.finish()
}

fn read_drivers<'t>(
    drivers: &Object<'t>,
    values: &mut Values<'t>,
    intents: &mut Intents<'t>,
) -> Result<(), PolicyError> {
    for at in list(drivers, "promql_drivers")? {
        let fields = at.object(&["query_string", "criteria"])?;
        let query = fields.required("query_string")?.text()?;
        let op = components::query_op(query, QUERY_INTERVAL, values.name);
        let before = values.next;
        driver(&fields, op, None, values, intents)?;
        // The blueprint writes these components twice.
        values.next += values.next - before;
    }
    for (index, at) in list(drivers, "average_latency_drivers")?
        .into_iter()
        .enumerate()
    {
        let fields = at.object(&["selectors", "criteria"])?;
        let name: Arc<str> = Arc::from(format!("{}/average_latency/{index}", values.name));
        values.meters.push(FluxMeter {
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
    for (index, at) in list(drivers, "percentile_latency_drivers")?
        .into_iter()
        .enumerate()
    {
        let fields = at.object(&["flux_meter", "percentile", "criteria"])?;
        let name = format!("{}/percentile_latency/{index}", values.name);
        let meter = flux_meter(&name, fields.required("flux_meter")?)?;
        let at = fields.required("percentile")?;
        let quantile = at.number()?;
        if !(0.0..=1.0).contains(&quantile) {
            return Err(at.error("`percentile` is from 0 to 1, as 0.95"));
        }
        let op = Op::FluxMeterQuantile {
            name: Arc::clone(&meter.name),
            quantile,
            window: WINDOW,
            interval: QUERY_INTERVAL,
        };
        values.meters.push(meter);
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

fn list<'t>(drivers: &Object<'t>, key: &str) -> Result<Vec<At<'t>>, PolicyError> {
    drivers.get(key).map_or(Ok(Vec::new()), |at| at.list())
}

/// A signal and its criteria; those about latencies say themselves how to compare, forward and
/// else.
fn driver<'t>(
    fields: &Object<'t>,
    op: Op,
    fixed: Option<[Comparison; 2]>,
    values: &mut Values<'t>,
    intents: &mut Intents<'t>,
) -> Result<(), PolicyError> {
    let at = &fields.at;
    let inner = values.circuit.open("root");
    let signal = vec![ports::inner(at, inner, "SIGNAL")];
    values.part(Vec::new(), signal, Box::new(Computed(op)));
    let criteria = fields
        .required("criteria")?
        .object(&["forward", "backward", "reset"])?;
    let forward = fixed.map(|fixed| fixed[0]);
    let back = fixed.map(|fixed| fixed[1]);
    for (key, comparison, name, ports) in [
        ("forward", forward, "FORWARD", &mut intents.forward),
        ("backward", back, "BACKWARD", &mut intents.backward),
        ("reset", back, "RESET", &mut intents.reset),
    ] {
        if let Some(at) = criteria.get(key) {
            ports.push(criterion(at, comparison, inner, name, values)?);
        }
    }
    Ok(())
}

fn criterion<'t>(
    at: At<'t>,
    fixed: Option<Comparison>,
    inner: Scope,
    name: &'static str,
    values: &mut Values<'t>,
) -> Result<InPort<'t>, PolicyError> {
    let (fields, comparison) = match fixed {
        Some(comparison) => (at.object(&["threshold"])?, comparison),
        None => {
            let fields = at.object(&["operator", "threshold"])?;
            let comparison = fields
                .required("operator")?
                .one_of(&["gt", "lt", "gte", "lte", "eq", "neq"])?;
            (fields, Comparison::named(comparison))
        }
    };
    let threshold = fields.required("threshold")?;
    let inputs = vec![
        ports::hearing(&threshold, inner, "SIGNAL"),
        ports::constant(&threshold, threshold.number()?),
    ];
    let output = vec![ports::inner(&threshold, inner, name)];
    values.part(inputs, output, decider(comparison, Duration::ZERO));
    Ok(ports::hearing(&threshold, inner, name))
}

fn hear<'t>(at: &At<'t>, name: &'static str) -> InPort<'t> {
    ports::hearing(at, Circuit::ROOT, name)
}

fn led<'t>(at: &At<'t>, name: &'static str) -> OutPort<'t> {
    ports::inner(at, Circuit::ROOT, name)
}
