//! `load_scheduler`: sheds a share of the load, those of least priority first.

use std::sync::Arc;

use super::{At, Circuit, Computed, Decides, Op, Place, PolicyError, Wired, logic, scheduler};
use crate::policy::decode::Object;
use crate::policy::model::{ComponentKind, LoadScheduler, Port, Scheduler, Selector};
use crate::policy::ports::{self, InPort, OutPort};
use crate::policy::selector;

/// The `parameters` of a load scheduler.
pub(super) struct Settings {
    selectors: Vec<Selector>,
    scheduler: Scheduler,
    workload_latency_based_tokens: bool,
}

pub(super) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(&[
        "in_ports",
        "out_ports",
        "parameters",
        "dry_run",
        "dry_run_config_key",
    ])?;
    let wires = fields.required("in_ports")?.object(&["load_multiplier"])?;
    let input = ports::given(&wires, "load_multiplier", place.scope)?;
    let mut outputs =
        ports::out_ports(&fields, &["observed_load_multiplier"], place.scope)?.into_iter();
    let observed = outputs.next();
    let settings = settings(fields.required("parameters")?)?;
    let dry_run = dry_run(&fields, circuit)?;
    add(
        &fields.at, place, input, observed, dry_run, settings, circuit,
    );
    Ok(())
}

pub(super) fn settings(at: At<'_>) -> Result<Settings, PolicyError> {
    let fields = at.object(&["selectors", "scheduler", "workload_latency_based_tokens"])?;
    Ok(Settings {
        selectors: selector::selectors(&fields, "selectors")?,
        scheduler: scheduler::read(&fields, scheduler::Under::Load)?,
        workload_latency_based_tokens: fields.boolean("workload_latency_based_tokens", false)?,
    })
}

/// `dry_run` of a load scheduler.
#[derive(Clone, Copy, Debug)]
pub(in crate::policy) struct DryRun {
    pub(in crate::policy) on: bool,
    /// Dynamic configuration may turn it on and off, so the loop goes on meanwhile.
    changes: bool,
}

impl DryRun {
    /// What a policy says, and what dynamic configuration says instead.
    pub(in crate::policy) fn new<'t>(
        on: bool,
        key: Option<&str>,
        circuit: &Circuit<'t>,
    ) -> Result<Self, PolicyError> {
        let set = key.and_then(|key| circuit.configured(key));
        Ok(Self {
            on: set.map_or(Ok(on), |at| at.boolean())?,
            changes: key.is_some_and(|key| !key.is_empty()),
        })
    }
}

/// `dry_run`, which dynamic configuration may change.
pub(super) fn dry_run<'t>(
    fields: &Object<'t>,
    circuit: &Circuit<'t>,
) -> Result<DryRun, PolicyError> {
    let key = fields.text("dry_run_config_key")?;
    DryRun::new(fields.boolean("dry_run", false)?, key, circuit)
}

/// Adds a load scheduler, also the one inside of a control loop.
pub(super) fn add<'t>(
    at: &At<'t>,
    place: &Place,
    input: InPort<'t>,
    observed: Option<OutPort<'t>>,
    dry_run: DryRun,
    settings: Settings,
    circuit: &mut Circuit<'t>,
) {
    if dry_run.on {
        at.warn("lets everything pass: `dry_run` is on");
    }
    let inner = circuit.open(&place.id);
    circuit.add(Wired {
        id: format!("{}.1", place.id),
        inputs: vec![
            ports::constant(at, f64::from(u8::from(dry_run.on && !dry_run.changes))),
            ports::unwired(at),
            input,
        ],
        outputs: vec![ports::inner(at, inner, "LOAD_MULTIPLIER")],
        part: Box::new(logic::Switcher),
    });
    let warned = at.clone();
    let part = Decides::new("load scheduler", place, settings.selectors, move |inputs| {
        let load_multiplier = inputs.port(0)?;
        if let (false, Port::Constant(multiplier)) = (dry_run.on, load_multiplier) {
            if multiplier.is_nan() {
                warned.warn("lets everything pass: its load multiplier is invalid");
            } else if multiplier == f64::INFINITY {
                warned.warn("lets everything pass: its load multiplier has no bound");
            } else if multiplier <= 0.0 {
                warned.warn(
                    "rejects everything once it knows the demand: its load multiplier is not more \
                     than zero",
                );
            }
        }
        Ok(ComponentKind::LoadScheduler(LoadScheduler {
            dry_run: dry_run.on,
            load_multiplier,
            workload_latency_based_tokens: settings.workload_latency_based_tokens,
            scheduler: settings.scheduler.clone(),
        }))
    });
    let part = part.idle(dry_run.on);
    let input = ports::hearing(at, inner, "LOAD_MULTIPLIER");
    circuit.add(part.wired(place, vec![input], Vec::new()));
    circuit.add(Wired {
        id: format!("{}.3", place.id),
        inputs: Vec::new(),
        outputs: observed.into_iter().collect(),
        part: Box::new(Computed(Op::ObservedLoadMultiplier {
            component_id: Arc::from(place.id.as_str()),
        })),
    });
}
