//! Expands blueprints: a values file is turned into a whole policy.

mod auto_scaling;
mod load_ramping;
mod load_scheduling;

use std::time::Duration;

use super::PolicyError;
use super::assemble::{EVALUATION_INTERVAL, assemble};
use super::circuit::CircuitBuilder;
use super::components::{self, ComponentLocation, KeyedComponent, alerter, decider};
use super::decode::{DocumentNode, Field, FieldValue, Object, Section};
use super::model::{
    Comparison, ConcurrencyLimiter, ConcurrencyScheduler, FluxMeter, Policy, QuotaScheduler,
    RateLimiter,
};
use super::ports;
use super::resources::{RESOURCES, Resources};
use super::suggest::hint;
use super::yaml::shortened;

/// Reads the values under `policy`, with the documents of dynamic configuration.
pub(super) type BlueprintReader =
    for<'t> fn(DocumentNode<'t>, &[DocumentNode<'t>]) -> Result<Policy, PolicyError>;

/// A blueprint by its name, with its reader and the fields under `policy`.
pub(super) type Blueprint = (&'static str, BlueprintReader, &'static Section);

pub(super) const BLUEPRINTS: &[Blueprint] = &[
    ("rate-limiting/base", rate_limiting, &RATE_LIMITING),
    ("quota-scheduling/base", quota_scheduling, &QUOTA_SCHEDULING),
    (
        "concurrency-limiting/base",
        concurrency_limiting,
        &CONCURRENCY_LIMITING,
    ),
    (
        "concurrency-scheduling/base",
        concurrency_scheduling,
        &CONCURRENCY_SCHEDULING,
    ),
    (
        "load-scheduling/average-latency",
        load_scheduling::average_latency,
        &load_scheduling::AVERAGE_LATENCY,
    ),
    (
        "load-scheduling/promql",
        load_scheduling::promql,
        &load_scheduling::PROMQL,
    ),
    (
        "load-scheduling/postgresql",
        load_scheduling::postgresql,
        &load_scheduling::POSTGRESQL,
    ),
    (
        "load-scheduling/elasticsearch",
        load_scheduling::elasticsearch,
        &load_scheduling::ELASTICSEARCH,
    ),
    (
        "load-scheduling/java-gc-generic",
        load_scheduling::java_gc,
        &load_scheduling::JAVA_GC,
    ),
    (
        "load-scheduling/java-gc-k8s",
        load_scheduling::java_gc,
        &load_scheduling::JAVA_GC,
    ),
    (
        "load-scheduling/cpu-overload-protection-k8s",
        load_scheduling::cpu,
        &load_scheduling::CPU,
    ),
    (
        "load-ramping/base",
        load_ramping::expand,
        &load_ramping::FIELDS,
    ),
    (
        "auto-scaling/pod-auto-scaler",
        auto_scaling::expand,
        &auto_scaling::FIELDS,
    ),
];

/// The fields of a values file.
pub(super) static VALUES: Section = Section::new(
    "Values file",
    &[&[
        Field::required(
            "blueprint",
            FieldValue::Syntax("the name of a blueprint", "rate-limiting/base"),
            "The blueprint.",
        ),
        Field::optional("uri", FieldValue::Text, "Not used."),
        Field::required(
            "policy",
            FieldValue::Unchecked(
                "the fields of the blueprint",
                "{policy_name: example, rate_limiter: {bucket_capacity: 1, fill_amount: 1, \
                 parameters: {interval: 1s}, selectors: [{control_point: shop}]}}",
            ),
            "The values.",
        ),
    ]],
);

/// The fields that every blueprint has.
const BASE: &[Field] = &[
    Field::required("policy_name", FieldValue::Name, "The name of the policy."),
    Field::optional(
        "components",
        FieldValue::Components,
        "More components of the policy.",
    ),
    RESOURCES,
];

static RATE_LIMITING: Section = Section::new(
    "Rate limiting",
    &[
        BASE,
        &[Field::required(
            "rate_limiter",
            FieldValue::Section(RateLimiter::VALUES),
            "The rate limiter.",
        )],
    ],
);

static QUOTA_SCHEDULING: Section = Section::new(
    "Quota scheduling",
    &[
        BASE,
        &[Field::required(
            "quota_scheduler",
            FieldValue::Section(QuotaScheduler::VALUES),
            "The quota scheduler.",
        )],
    ],
);

static CONCURRENCY_LIMITING: Section = Section::new(
    "Concurrency limiting",
    &[
        BASE,
        &[Field::required(
            "concurrency_limiter",
            FieldValue::Section(ConcurrencyLimiter::VALUES),
            "The concurrency limiter.",
        )],
    ],
);

static CONCURRENCY_SCHEDULING: Section = Section::new(
    "Concurrency scheduling",
    &[
        BASE,
        &[Field::required(
            "concurrency_scheduler",
            FieldValue::Section(ConcurrencyScheduler::VALUES),
            "The concurrency scheduler.",
        )],
    ],
);

/// The placeholder in a generated values file for a value that the user must provide.
const PLACEHOLDER: &str = "__REQUIRED_FIELD__";

pub(super) fn expand<'t>(
    node: DocumentNode<'t>,
    text: &str,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    if let Some(position) = find(text, PLACEHOLDER) {
        return Err(node.error_in_text(position, format!("replace `{PLACEHOLDER}` with a value")));
    }
    let fields = node.object(&VALUES)?;
    let blueprint = fields.required("blueprint")?;
    let name = blueprint.text()?;
    fields.text("uri")?;
    let Some((_, reader, _)) = BLUEPRINTS.iter().find(|(known, ..)| *known == name) else {
        let hint = hint(name, BLUEPRINTS.iter().map(|(known, ..)| *known));
        let shown = shortened(name);
        return Err(blueprint.error(format!("unknown blueprint `{shown}`{hint}")));
    };
    reader(fields.required("policy")?, dynamic)
}

fn rate_limiting<'t>(
    node: DocumentNode<'t>,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    limiting::<RateLimiter>(&node.object(&RATE_LIMITING)?, "rate_limiter", dynamic)
}

fn quota_scheduling<'t>(
    node: DocumentNode<'t>,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    limiting::<QuotaScheduler>(&node.object(&QUOTA_SCHEDULING)?, "quota_scheduler", dynamic)
}

fn concurrency_limiting<'t>(
    node: DocumentNode<'t>,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    limiting::<ConcurrencyLimiter>(
        &node.object(&CONCURRENCY_LIMITING)?,
        "concurrency_limiter",
        dynamic,
    )
}

fn concurrency_scheduling<'t>(
    node: DocumentNode<'t>,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    limiting::<ConcurrencyScheduler>(
        &node.object(&CONCURRENCY_SCHEDULING)?,
        "concurrency_scheduler",
        dynamic,
    )
}

/// Expands a blueprint with one component that decides: the component under `key`, an alert about
/// its accept percentage, then the components of the file itself.
fn limiting<'t, C: KeyedComponent>(
    fields: &Object<'t>,
    key: &str,
    dynamic: &[DocumentNode<'t>],
) -> Result<Policy, PolicyError> {
    let section = &fields.required(key)?;
    let mut values = BlueprintValues::new(fields, dynamic)?;
    let accept_percentage =
        ports::inner_out_port(section, CircuitBuilder::ROOT, "ACCEPT_PERCENTAGE");
    let location = values.next_location();
    components::keyed_values::<C>(
        section.clone(),
        &location,
        accept_percentage,
        &mut values.circuit,
    )?;
    let inputs = vec![
        ports::inner_in_port(section, CircuitBuilder::ROOT, "ACCEPT_PERCENTAGE"),
        ports::constant(section, 90.0),
    ];
    const ALERT: &str = "ACCEPT_PERCENTAGE_ALERT";
    let alert = vec![ports::inner_out_port(section, CircuitBuilder::ROOT, ALERT)];
    values.add(inputs, alert, decider(Comparison::Gte, Duration::ZERO));
    let location = values.next_location();
    let alert = ports::inner_in_port(section, CircuitBuilder::ROOT, ALERT);
    values.circuit.add(alerter(&location, vec![alert]));
    if let Some(node) = section.peek("alerter") {
        node.warn("has no effect: the embedded engine sends no alerts");
        components::check_alerter(node)?;
    }
    values.add_components(fields)?;
    values.finish()
}

/// The policy of a values file while it is being expanded.
struct BlueprintValues<'t> {
    content: DocumentNode<'t>,
    name: &'t str,
    circuit: CircuitBuilder<'t>,
    resources: Resources,
    /// The flux meters that the blueprint adds.
    flux_meters: Vec<FluxMeter>,
    /// The index of the next component of the root circuit.
    next_index: usize,
}

impl<'t> BlueprintValues<'t> {
    /// Reads the name and the resources of the mapping under `policy`.
    fn new(fields: &Object<'t>, dynamic: &[DocumentNode<'t>]) -> Result<Self, PolicyError> {
        let name = fields.required_text("policy_name")?;
        let mut circuit = CircuitBuilder::new(name);
        for node in dynamic {
            circuit.add_dynamic_config(node)?;
        }
        Ok(Self {
            content: fields.node.clone(),
            name,
            circuit,
            resources: Resources::read(fields)?,
            flux_meters: Vec::new(),
            next_index: 0,
        })
    }

    /// Returns the location of the next component of the root circuit.
    fn next_location(&mut self) -> ComponentLocation {
        let location = self.circuit.location(CircuitBuilder::ROOT, self.next_index);
        self.next_index += 1;
        location
    }

    /// Reads the components that the values file itself defines.
    fn add_components(&mut self, fields: &Object<'t>) -> Result<(), PolicyError> {
        if let Some(list) = fields.get("components") {
            let circuit = &mut self.circuit;
            components::read_list(&list, CircuitBuilder::ROOT, self.next_index, circuit)?;
            self.next_index += list.list()?.len();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Policy, PolicyError> {
        self.resources.add(self.flux_meters);
        assemble(
            self.name,
            &self.content,
            self.circuit,
            EVALUATION_INTERVAL,
            self.resources,
        )
    }
}

/// Returns the line and column of the first occurrence of `needle` in the text, comments included.
fn find(text: &str, needle: &str) -> Option<(u32, u32)> {
    let offset = text.find(needle)?;
    let before = &text[..offset];
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    Some((u32::try_from(line).ok()?, u32::try_from(column).ok()?))
}
