//! Reads `resources`: classifiers and flux meters. Infra meters are for the Agent only.

mod fields;

use std::collections::HashSet;
use std::sync::Arc;

use self::fields::{
    ADDRESS, CLASSIFIER, EXPONENTIAL_BUCKETS, EXPONENTIAL_RANGE, EXTRACTOR, FLOW_CONTROL, JSON,
    JWT, LINEAR_BUCKETS, MAX_BUCKETS, PATH_TEMPLATES, REGO, REGO_LABEL, RESOURCES_SECTION, RULE,
    STATIC_BUCKETS,
};
pub(super) use self::fields::{FLUX_METER, RESOURCES};
use super::decode::{DocumentNode, Object};
use super::model::{Buckets, Classifier, Extractor, FluxMeter, RegoModule, Rule};
use super::yaml::shortened;
use super::{PolicyError, extractor, selector};

/// The resources of a policy.
#[derive(Default)]
pub(super) struct Resources {
    pub(super) classifiers: Vec<Classifier>,
    pub(super) flux_meters: Vec<FluxMeter>,
}

/// The default bounds, in milliseconds, of `static_buckets` without `buckets`.
const DEFAULT_STATIC_BUCKETS: [f64; 11] = [
    5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0,
];

impl Resources {
    /// Reads the `resources` of a policy; empty if it has none.
    pub(super) fn read(parent: &Object<'_>) -> Result<Self, PolicyError> {
        let mut resources = Self::default();
        let Some(fields) = parent.object("resources", &RESOURCES_SECTION)? else {
            return Ok(resources);
        };
        let Some(fields) = fields.object("flow_control", &FLOW_CONTROL)? else {
            return Ok(resources);
        };
        if let Some(list) = fields.get("classifiers") {
            for (index, node) in list.list()?.into_iter().enumerate() {
                // The size of a text bounds the number of classifiers, so the cast does not
                // truncate.
                resources.classifiers.push(classifier(node, index as u32)?);
            }
        }
        if let Some(meters) = fields.get("flux_meters") {
            for (name, node) in meters.free_map()? {
                resources.flux_meters.push(flux_meter(name, node)?);
            }
        }
        Ok(resources)
    }

    /// Adds the flux meters of a blueprint. They replace those of the same name.
    pub(super) fn add(&mut self, meters: Vec<FluxMeter>) {
        let names: HashSet<&str> = meters.iter().map(|meter| &*meter.name).collect();
        self.flux_meters
            .retain(|other| !names.contains(&*other.name));
        self.flux_meters.extend(meters);
    }
}

fn classifier(node: DocumentNode<'_>, index: u32) -> Result<Classifier, PolicyError> {
    let fields = node.object(&CLASSIFIER)?;
    let selectors = selector::selectors(&fields, "selectors")?;
    let mut rules = Vec::new();
    if let Some(map) = fields.get("rules") {
        for (label, node) in map.free_map()? {
            check_label(label, &node)?;
            rules.push(rule(label, node)?);
        }
    }
    let rego = fields
        .get("rego")
        .map(|node| rego(&node, index))
        .transpose()?;
    Ok(Classifier {
        selectors,
        index,
        rules,
        rego,
    })
}

fn rego(node: &DocumentNode<'_>, index: u32) -> Result<RegoModule, PolicyError> {
    let fields = node.clone().object(&REGO)?;
    let module = fields.text("module")?.unwrap_or_default();
    let mut labels = Vec::new();
    if let Some(map) = fields.get("labels") {
        for (label, node) in map.free_map()? {
            check_label(label, &node)?;
            let telemetry = if node.is_null() {
                true
            } else {
                node.object(&REGO_LABEL)?.boolean("telemetry", true)?
            };
            labels.push((Arc::from(label), telemetry));
        }
    }
    let names: Vec<Arc<str>> = labels.iter().map(|(label, _)| Arc::clone(label)).collect();
    let program = crate::rego::compile(module, &names).map_err(|error| {
        let node = fields.get("module").unwrap_or_else(|| node.clone());
        node.error(format!("the module does not compile: {error}"))
    })?;
    if program.is_none() {
        node.warn(format!(
            "this build does not evaluate Rego (its feature `rego` is off): classifier {index} \
             leaves the labels of its module unset"
        ));
    }
    Ok(RegoModule {
        labels,
        program: program.map(Arc::new),
    })
}

/// Checks that a label is a valid name in Rego, because the Agent turns rules into Rego.
fn check_label(label: &str, node: &DocumentNode<'_>) -> Result<(), PolicyError> {
    const KEYWORDS: [&str; 12] = [
        "as", "default", "else", "false", "import", "not", "null", "package", "some", "true",
        "with", "",
    ];
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let digit_first = label
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_digit());
    if KEYWORDS.contains(&label) || digit_first || !label.bytes().all(word) {
        let shown = shortened(label);
        return Err(node.error(format!(
            "`{shown}` cannot be the name of a label: letters, digits and `_`, no digit first, and \
             no keyword of Rego"
        )));
    }
    Ok(())
}

fn rule(label: &str, node: DocumentNode<'_>) -> Result<Rule, PolicyError> {
    let mut rule = Rule {
        label: Arc::from(label),
        telemetry: true,
        extractor: None,
    };
    if node.is_null() {
        return Ok(rule);
    }
    let fields = node.object(&RULE)?;
    rule.telemetry = fields.boolean("telemetry", true)?;
    if let Some(fields) = fields.object("extractor", &EXTRACTOR)? {
        rule.extractor = extractor_variant(&fields)?;
    }
    Ok(rule)
}

fn extractor_variant(fields: &Object<'_>) -> Result<Option<Extractor>, PolicyError> {
    let Some((kind, node)) = fields.only()? else {
        return Ok(None);
    };
    Ok(Some(match kind {
        "from" => Extractor::From(attribute(&node)?),
        "json" => {
            let fields = node.object(&JSON)?;
            Extractor::Json {
                from: attribute(&fields.required("from")?)?,
                pointer: pointer(&fields, "pointer")?,
            }
        }
        "jwt" => {
            let fields = node.object(&JWT)?;
            Extractor::Jwt {
                from: attribute(&fields.required("from")?)?,
                pointer: pointer(&fields, "json_pointer")?,
            }
        }
        "address" => {
            let fields = node.object(&ADDRESS)?;
            let node = fields.required("from")?;
            let from = node.one_of(&["source.address", "destination.address"])?;
            Extractor::Address {
                from: Arc::from(from),
            }
        }
        _ => {
            let fields = node.object(&PATH_TEMPLATES)?;
            let node = fields.required("template_values")?;
            let mut templates = Vec::new();
            for (template, value) in node.free_map()? {
                extractor::check_template(template).map_err(|reason| value.error(reason))?;
                templates.push((Arc::from(template), Arc::from(value.text()?)));
            }
            if templates.is_empty() {
                return Err(node.error("at least one template is required"));
            }
            Extractor::PathTemplates(templates)
        }
    }))
}

fn attribute(node: &DocumentNode<'_>) -> Result<Arc<str>, PolicyError> {
    let path = node.text()?;
    extractor::check_attribute(path).map_err(|reason| node.error(reason))?;
    Ok(Arc::from(path))
}

fn pointer(fields: &Object<'_>, key: &str) -> Result<Arc<str>, PolicyError> {
    let Some(node) = fields.scalar(key) else {
        return Ok(Arc::from(""));
    };
    let text = node.text()?;
    extractor::check_pointer(text).map_err(|reason| node.error(reason))?;
    Ok(Arc::from(text))
}

/// Reads a flux meter of a policy, or of the values of a blueprint.
pub(super) fn flux_meter(name: &str, node: DocumentNode<'_>) -> Result<FluxMeter, PolicyError> {
    const KINDS: &[&str] = &[
        "static_buckets",
        "linear_buckets",
        "exponential_buckets",
        "exponential_buckets_range",
    ];
    let fields = node.object(&FLUX_METER)?;
    let mut given = KINDS
        .iter()
        .filter_map(|kind| Some((*kind, fields.get(kind)?)));
    let buckets = given.next();
    if let (Some((first, _)), Some((_, node))) = (&buckets, given.next()) {
        return Err(node.error(format!(
            "cannot be combined with `{first}`; give one of them"
        )));
    }
    let attribute_key = fields
        .text("attribute_key")?
        .unwrap_or("workload_duration_ms");
    Ok(FluxMeter {
        name: Arc::from(name),
        selectors: selector::selectors(&fields, "selectors")?,
        attribute_key: Arc::from(attribute_key),
        buckets: buckets
            .map(|(kind, node)| read_buckets(kind, node))
            .transpose()?,
    })
}

fn read_buckets(kind: &str, node: DocumentNode<'_>) -> Result<Buckets, PolicyError> {
    Ok(match kind {
        "static_buckets" => {
            let fields = node.object(&STATIC_BUCKETS)?;
            let Some(list) = fields.get("buckets") else {
                return Ok(Buckets::Static(DEFAULT_STATIC_BUCKETS.into()));
            };
            let bounds: Result<Vec<f64>, _> =
                list.list()?.iter().map(DocumentNode::number).collect();
            Buckets::Static(bounds?)
        }
        "linear_buckets" => {
            let fields = node.object(&LINEAR_BUCKETS)?;
            Buckets::Linear {
                start: fields.number("start", 0.0)?,
                width: fields.number("width", 0.0)?,
                count: count(&fields)?,
            }
        }
        "exponential_buckets" => {
            let fields = node.object(&EXPONENTIAL_BUCKETS)?;
            Buckets::Exponential {
                start: more_than(&fields, "start", 0.0)?,
                factor: more_than(&fields, "factor", 1.0)?,
                count: count(&fields)?,
            }
        }
        _ => {
            let fields = node.object(&EXPONENTIAL_RANGE)?;
            Buckets::ExponentialRange {
                min: more_than(&fields, "min", 0.0)?,
                max: fields.number("max", 0.0)?,
                count: count(&fields)?,
            }
        }
    })
}

fn count(fields: &Object<'_>) -> Result<u32, PolicyError> {
    let node = fields.required("count")?;
    match node.count()? {
        count @ 1..=MAX_BUCKETS => Ok(count),
        _ => Err(node.error(format!("must be from 1 to {MAX_BUCKETS}"))),
    }
}

fn more_than(fields: &Object<'_>, key: &str, least: f64) -> Result<f64, PolicyError> {
    let node = fields.required(key)?;
    match node.number()? {
        number if number > least => Ok(number),
        _ => Err(node.error(format!("must be more than {least}"))),
    }
}
