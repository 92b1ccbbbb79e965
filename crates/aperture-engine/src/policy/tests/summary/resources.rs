//! Compares classifiers and flux meters with the recorded summaries.

use serde_json::{Value, json};

use super::ComparisonResult;
use super::selectors::compare_selectors;
use super::values::{same, without};
use crate::policy::{Buckets, Classifier, FluxMeter};

pub(super) fn compare_classifier(ours: &Classifier, recorded: &Value) -> ComparisonResult {
    compare_selectors(&ours.selectors, &recorded["selectors"])?;
    let mut labels: Vec<&str> = ours.rules.iter().map(|rule| &*rule.label).collect();
    labels.sort_unstable();
    let rules = recorded["rules"].as_object();
    let mut theirs: Vec<&str> = rules
        .into_iter()
        .flatten()
        .map(|(label, _)| &**label)
        .collect();
    theirs.sort_unstable();
    same("rules", &json!(labels), &json!(theirs))?;
    for rule in &ours.rules {
        let recorded = &recorded["rules"][&*rule.label];
        let telemetry = json!(rule.telemetry);
        same("telemetry", &telemetry, &recorded["telemetry"])?;
        let extractor = crate::policy::tests::extractor_json(rule.extractor.as_ref());
        same("extractor", &extractor, &recorded["extractor"])?;
    }
    let labels = recorded["rego"]["labels"].as_object();
    let mut theirs: Vec<&str> = labels
        .into_iter()
        .flatten()
        .map(|(label, _)| &**label)
        .collect();
    theirs.sort_unstable();
    let mut ours: Vec<&str> = ours
        .rego
        .iter()
        .flat_map(|rego| &rego.labels)
        .map(|(label, _)| &**label)
        .collect();
    ours.sort_unstable();
    same("rego labels", &json!(ours), &json!(theirs))
}

pub(super) fn compare_meter(meter: &FluxMeter, recorded: &Value) -> ComparisonResult {
    compare_selectors(&meter.selectors, &recorded["selectors"])?;
    let mut ours = json!({"attribute_key": &*meter.attribute_key});
    let buckets = match &meter.buckets {
        None => None,
        Some(Buckets::Static(buckets)) => Some(("static_buckets", json!({"buckets": buckets}))),
        Some(Buckets::Linear {
            start,
            width,
            count,
        }) => Some((
            "linear_buckets",
            json!({"start": start, "width": width, "count": count}),
        )),
        Some(Buckets::Exponential {
            start,
            factor,
            count,
        }) => Some((
            "exponential_buckets",
            json!({"start": start, "factor": factor, "count": count}),
        )),
        Some(Buckets::ExponentialRange { min, max, count }) => Some((
            "exponential_buckets_range",
            json!({"min": min, "max": max, "count": count}),
        )),
    };
    if let Some((kind, buckets)) = buckets {
        ours[kind] = buckets;
    }
    same("flux meter", &ours, &without(recorded, &["selectors"]))
}
