//! `resources`: classifiers and flux meters. Infra meters are the Agent's own.

use std::collections::HashSet;
use std::sync::Arc;

use super::decode::{At, Object};
use super::model::{Buckets, Classifier, Extractor, FluxMeter, RegoModule, Rule};
use super::yaml::shortened;
use super::{PolicyError, extractor, selector};

/// What a policy has besides its circuit.
#[derive(Default)]
pub(super) struct Resources {
    pub(super) classifiers: Vec<Classifier>,
    pub(super) flux_meters: Vec<FluxMeter>,
}

/// Bounds in milliseconds, for a histogram that is said to be static without saying how.
const STATIC: [f64; 11] = [
    5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0,
];

impl Resources {
    /// The `resources` of a policy; nothing when there are none.
    pub(super) fn read(parent: &Object<'_>) -> Result<Self, PolicyError> {
        let mut resources = Self::default();
        let Some(fields) = parent.object("resources", &["flow_control", "infra_meters"])? else {
            return Ok(resources);
        };
        let Some(fields) = fields.object("flow_control", &["classifiers", "flux_meters"])? else {
            return Ok(resources);
        };
        if let Some(list) = fields.get("classifiers") {
            for (index, at) in list.list()?.into_iter().enumerate() {
                // As many as fit in a text.
                resources.classifiers.push(classifier(at, index as u32)?);
            }
        }
        if let Some(meters) = fields.get("flux_meters") {
            for (name, at) in meters.free_map()? {
                resources.flux_meters.push(flux_meter(name, at)?);
            }
        }
        Ok(resources)
    }

    /// Flux meters of a blueprint, in the place of those of the same name.
    pub(super) fn add(&mut self, meters: Vec<FluxMeter>) {
        let names: HashSet<&str> = meters.iter().map(|meter| &*meter.name).collect();
        self.flux_meters
            .retain(|other| !names.contains(&*other.name));
        self.flux_meters.extend(meters);
    }
}

fn classifier(at: At<'_>, index: u32) -> Result<Classifier, PolicyError> {
    let fields = at.object(&["selectors", "rules", "rego"])?;
    let selectors = selector::selectors(&fields, "selectors")?;
    let mut rules = Vec::new();
    if let Some(map) = fields.get("rules") {
        for (label, at) in map.free_map()? {
            check_label(label, &at)?;
            rules.push(rule(label, at)?);
        }
    }
    let rego = fields.get("rego").map(|at| rego(&at, index)).transpose()?;
    Ok(Classifier {
        selectors,
        index,
        rules,
        rego,
    })
}

fn rego(at: &At<'_>, index: u32) -> Result<RegoModule, PolicyError> {
    let fields = at.clone().object(&["module", "labels"])?;
    let module = fields.text("module")?.unwrap_or_default();
    let mut labels = Vec::new();
    if let Some(map) = fields.get("labels") {
        for (label, at) in map.free_map()? {
            check_label(label, &at)?;
            let telemetry = if at.is_null() {
                true
            } else {
                at.object(&["telemetry"])?.boolean("telemetry", true)?
            };
            labels.push((Arc::from(label), telemetry));
        }
    }
    #[cfg(feature = "rego")]
    {
        let _ = index;
        let names: Vec<Arc<str>> = labels.iter().map(|(label, _)| Arc::clone(label)).collect();
        let program = crate::rego::CompiledModule::compile(module, &names).map_err(|flaw| {
            let at = fields.get("module").unwrap_or_else(|| at.clone());
            at.error(format!("the module does not compile: {flaw}"))
        })?;
        let program = Arc::new(program);
        Ok(RegoModule { labels, program })
    }
    #[cfg(not(feature = "rego"))]
    {
        let _ = module;
        at.warn(format!(
            "this build does not evaluate Rego (its feature `rego` is off): classifier {index} \
             leaves the labels of its module unset"
        ));
        Ok(RegoModule { labels })
    }
}

/// A name that Rego could give to a rule, which is what the Agent makes of it.
fn check_label(label: &str, at: &At<'_>) -> Result<(), PolicyError> {
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
        return Err(at.error(format!(
            "`{shown}` cannot be the name of a label: letters, digits and `_`, no digit first, and \
             no keyword of Rego"
        )));
    }
    Ok(())
}

fn rule(label: &str, at: At<'_>) -> Result<Rule, PolicyError> {
    let mut rule = Rule {
        label: Arc::from(label),
        telemetry: true,
        extractor: None,
    };
    if at.is_null() {
        return Ok(rule);
    }
    let fields = at.object(&["extractor", "telemetry"])?;
    rule.telemetry = fields.boolean("telemetry", true)?;
    let known = &["from", "json", "jwt", "address", "path_templates"];
    if let Some(fields) = fields.object("extractor", known)? {
        rule.extractor = variant(&fields)?;
    }
    Ok(rule)
}

fn variant(fields: &Object<'_>) -> Result<Option<Extractor>, PolicyError> {
    let known = &["from", "json", "jwt", "address", "path_templates"];
    let Some((kind, at)) = fields.only(known)? else {
        return Ok(None);
    };
    Ok(Some(match kind {
        "from" => Extractor::From(attribute(&at)?),
        "json" => {
            let fields = at.object(&["from", "pointer"])?;
            Extractor::Json {
                from: attribute(&fields.required("from")?)?,
                pointer: pointer(&fields, "pointer")?,
            }
        }
        "jwt" => {
            let fields = at.object(&["from", "json_pointer"])?;
            Extractor::Jwt {
                from: attribute(&fields.required("from")?)?,
                pointer: pointer(&fields, "json_pointer")?,
            }
        }
        "address" => {
            let fields = at.object(&["from"])?;
            let at = fields.required("from")?;
            let from = at.one_of(&["source.address", "destination.address"])?;
            Extractor::Address {
                from: Arc::from(from),
            }
        }
        _ => {
            let fields = at.object(&["template_values"])?;
            let at = fields.required("template_values")?;
            let mut templates = Vec::new();
            for (template, value) in at.free_map()? {
                extractor::check_template(template).map_err(|reason| value.error(reason))?;
                templates.push((Arc::from(template), Arc::from(value.text()?)));
            }
            if templates.is_empty() {
                return Err(at.error("at least one template is required"));
            }
            Extractor::PathTemplates(templates)
        }
    }))
}

fn attribute(at: &At<'_>) -> Result<Arc<str>, PolicyError> {
    let path = at.text()?;
    extractor::check_attribute(path).map_err(|reason| at.error(reason))?;
    Ok(Arc::from(path))
}

fn pointer(fields: &Object<'_>, key: &str) -> Result<Arc<str>, PolicyError> {
    let Some(at) = fields.scalar(key) else {
        return Ok(Arc::from(""));
    };
    let text = at.text()?;
    extractor::check_pointer(text).map_err(|reason| at.error(reason))?;
    Ok(Arc::from(text))
}

/// A flux meter of a policy, or of a blueprint's values.
pub(super) fn flux_meter(name: &str, at: At<'_>) -> Result<FluxMeter, PolicyError> {
    const KINDS: &[&str] = &[
        "static_buckets",
        "linear_buckets",
        "exponential_buckets",
        "exponential_buckets_range",
    ];
    let fields = at.object(&[
        "selectors",
        "attribute_key",
        "static_buckets",
        "linear_buckets",
        "exponential_buckets",
        "exponential_buckets_range",
    ])?;
    let mut given = KINDS
        .iter()
        .filter_map(|kind| Some((*kind, fields.get(kind)?)));
    let buckets = given.next();
    if let (Some((first, _)), Some((_, at))) = (&buckets, given.next()) {
        return Err(at.error(format!("cannot stand beside `{first}`; give one of them")));
    }
    let attribute_key = fields
        .text("attribute_key")?
        .unwrap_or("workload_duration_ms");
    Ok(FluxMeter {
        name: Arc::from(name),
        selectors: selector::selectors(&fields, "selectors")?,
        attribute_key: Arc::from(attribute_key),
        buckets: buckets
            .map(|(kind, at)| read_buckets(kind, at))
            .transpose()?,
    })
}

fn read_buckets(kind: &str, at: At<'_>) -> Result<Buckets, PolicyError> {
    Ok(match kind {
        "static_buckets" => {
            let fields = at.object(&["buckets"])?;
            let Some(list) = fields.get("buckets") else {
                return Ok(Buckets::Static(STATIC.into()));
            };
            let bounds: Result<Vec<f64>, _> = list.list()?.iter().map(At::number).collect();
            Buckets::Static(bounds?)
        }
        "linear_buckets" => {
            let fields = at.object(&["start", "width", "count"])?;
            Buckets::Linear {
                start: fields.number("start", 0.0)?,
                width: fields.number("width", 0.0)?,
                count: count(&fields)?,
            }
        }
        "exponential_buckets" => {
            let fields = at.object(&["start", "factor", "count"])?;
            Buckets::Exponential {
                start: above(&fields, "start", 0.0)?,
                factor: above(&fields, "factor", 1.0)?,
                count: count(&fields)?,
            }
        }
        _ => {
            let fields = at.object(&["min", "max", "count"])?;
            Buckets::ExponentialRange {
                min: above(&fields, "min", 0.0)?,
                max: fields.number("max", 0.0)?,
                count: count(&fields)?,
            }
        }
    })
}

/// More buckets than a histogram can sensibly have would only cost memory.
const MOST_BUCKETS: u32 = 10_000;

fn count(fields: &Object<'_>) -> Result<u32, PolicyError> {
    let at = fields.required("count")?;
    match at.count()? {
        count @ 1..=MOST_BUCKETS => Ok(count),
        _ => Err(at.error(format!("a number from 1 to {MOST_BUCKETS}"))),
    }
}

fn above(fields: &Object<'_>, key: &str, least: f64) -> Result<f64, PolicyError> {
    let at = fields.required(key)?;
    match at.number()? {
        number if number > least => Ok(number),
        _ => Err(at.error(format!("must be more than {least}"))),
    }
}
