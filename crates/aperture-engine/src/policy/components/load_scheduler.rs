//! Reads `load_scheduler`, which rejects a share of the load, beginning with the lowest priorities.

use std::sync::Arc;

use super::{
    CircuitBuilder, ComponentLocation, DecidingComponent, DocumentNode, Op, PolicyError,
    RuntimeComponent, WiredComponent, logic, scheduler,
};
use crate::policy::decode::{Field, FieldValue, Object, Section};
use crate::policy::model::{ComponentKind, LoadScheduler, Port, Scheduler, Selector};
use crate::policy::ports::{self, InPort, OutPort};
use crate::policy::selector;

/// The fields of a load scheduler.
pub(super) static FIELDS: Section = Section::new(
    "Load scheduler",
    &[
        &[
            Field::required(
                "in_ports",
                FieldValue::Section(&IN_PORTS),
                "The signal of the scheduler.",
            ),
            Field::optional(
                "out_ports",
                FieldValue::Section(&OUT_PORTS),
                "What the scheduler measures.",
            ),
            Field::required(
                "parameters",
                FieldValue::Section(&PARAMETERS),
                "The flows and their queue.",
            ),
        ],
        DRY_RUN,
    ],
);

static IN_PORTS: Section = Section::new(
    "",
    &[&[ports::port(
        "load_multiplier",
        "The share of the demand to accept. Every flow passes while the signal is invalid.",
    )]],
);

static OUT_PORTS: Section = Section::new(
    "",
    &[&[ports::output(
        "observed_load_multiplier",
        "The share of the demand that was accepted.",
    )]],
);

/// The parameters of a load scheduler, also of the one inside of a control loop.
pub(super) static PARAMETERS: Section = Section::new(
    "Parameters of a load scheduler",
    &[&[
        selector::SELECTORS,
        scheduler::SCHEDULER,
        Field::with_default(
            "workload_latency_based_tokens",
            FieldValue::Boolean,
            "false",
            "Whether a flow takes as many tokens as its workload took milliseconds on average, in \
             the last 30 minutes.",
        ),
    ]],
);

/// The fields that make a scheduler let every flow pass.
pub(super) const DRY_RUN: &[Field] = &[
    Field::with_default(
        "dry_run",
        FieldValue::Boolean,
        "false",
        "Whether every flow passes.",
    ),
    Field::optional(
        "dry_run_config_key",
        FieldValue::Text,
        "The key by which dynamic configuration sets `dry_run`.",
    ),
];

/// The `parameters` of a load scheduler.
pub(super) struct LoadSchedulerSettings {
    selectors: Vec<Selector>,
    scheduler: Scheduler,
    workload_latency_based_tokens: bool,
}

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&FIELDS)?;
    let in_ports = fields.required("in_ports")?.object(&IN_PORTS)?;
    let input = ports::optional_in_port(&in_ports, "load_multiplier", location.scope)?;
    let mut outputs = ports::out_ports(&fields, &OUT_PORTS, location.scope)?.into_iter();
    let observed = outputs.next();
    let settings = settings(fields.required("parameters")?)?;
    let dry_run = dry_run(&fields, circuit)?;
    add(
        &fields.node,
        location,
        input,
        observed,
        dry_run,
        settings,
        circuit,
    );
    Ok(())
}

pub(super) fn settings(node: DocumentNode<'_>) -> Result<LoadSchedulerSettings, PolicyError> {
    let fields = node.object(&PARAMETERS)?;
    Ok(LoadSchedulerSettings {
        selectors: selector::selectors(&fields, "selectors")?,
        scheduler: scheduler::read(&fields, scheduler::QueueResource::LoadMultiplier)?,
        workload_latency_based_tokens: fields.boolean("workload_latency_based_tokens", false)?,
    })
}

/// The `dry_run` setting of a load scheduler.
#[derive(Clone, Copy, Debug)]
pub(in crate::policy) struct DryRunSetting {
    pub(in crate::policy) on: bool,
    /// True if dynamic configuration may change the setting, so that the control loop keeps running
    /// meanwhile.
    changes: bool,
}

impl DryRunSetting {
    /// Returns the setting of the policy, or that of dynamic configuration if present.
    pub(in crate::policy) fn new<'t>(
        on: bool,
        key: Option<&str>,
        circuit: &CircuitBuilder<'t>,
    ) -> Result<Self, PolicyError> {
        let set = key.and_then(|key| circuit.dynamic_value(key));
        Ok(Self {
            on: set.map_or(Ok(on), |node| node.boolean())?,
            changes: key.is_some_and(|key| !key.is_empty()),
        })
    }
}

/// Reads `dry_run`, which dynamic configuration may override.
pub(super) fn dry_run<'t>(
    fields: &Object<'t>,
    circuit: &CircuitBuilder<'t>,
) -> Result<DryRunSetting, PolicyError> {
    let key = fields.text("dry_run_config_key")?;
    DryRunSetting::new(fields.boolean("dry_run", false)?, key, circuit)
}

/// Adds a load scheduler, also the one inside of a control loop.
pub(super) fn add<'t>(
    node: &DocumentNode<'t>,
    location: &ComponentLocation,
    input: InPort<'t>,
    observed: Option<OutPort<'t>>,
    dry_run: DryRunSetting,
    settings: LoadSchedulerSettings,
    circuit: &mut CircuitBuilder<'t>,
) {
    if dry_run.on {
        node.warn("lets everything pass: `dry_run` is on");
    }
    let inner = circuit.open_scope(&location.id);
    circuit.add(WiredComponent {
        id: format!("{}.1", location.id),
        inputs: vec![
            ports::constant(node, f64::from(u8::from(dry_run.on && !dry_run.changes))),
            ports::unwired(node),
            input,
        ],
        outputs: vec![ports::inner_out_port(node, inner, "LOAD_MULTIPLIER")],
        behaviour: Box::new(logic::Switcher),
    });
    let warned = node.clone();
    let component = DecidingComponent::new(
        "load scheduler",
        location,
        settings.selectors,
        move |inputs| {
            let load_multiplier = inputs.port(0)?;
            if let (false, Port::Constant(multiplier)) = (dry_run.on, load_multiplier) {
                if multiplier.is_nan() {
                    warned.warn("lets everything pass: its load multiplier is invalid");
                } else if multiplier == f64::INFINITY {
                    warned.warn("lets everything pass: its load multiplier is infinite");
                } else if multiplier <= 0.0 {
                    warned.warn(
                        "rejects everything once it has measured the demand: its load multiplier \
                         is not more than zero",
                    );
                }
            }
            Ok(ComponentKind::LoadScheduler(LoadScheduler {
                dry_run: dry_run.on,
                load_multiplier,
                workload_latency_based_tokens: settings.workload_latency_based_tokens,
                scheduler: settings.scheduler.clone(),
            }))
        },
    );
    let component = component.with_passes_everything(dry_run.on);
    let input = ports::inner_in_port(node, inner, "LOAD_MULTIPLIER");
    circuit.add(component.with_ports(location, vec![input], Vec::new()));
    circuit.add(WiredComponent {
        id: format!("{}.3", location.id),
        inputs: Vec::new(),
        outputs: observed.into_iter().collect(),
        behaviour: Box::new(RuntimeComponent(Op::ObservedLoadMultiplier {
            component_id: Arc::from(location.id.as_str()),
        })),
    });
}
