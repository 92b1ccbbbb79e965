//! Classifiers: labels from the attributes of an HTTP request.

mod json;
mod jwt;
mod path;
#[cfg(feature = "rego")]
mod rego;
#[cfg(not(feature = "rego"))]
#[path = "no_rego.rs"]
mod rego;

use std::borrow::Cow;
use std::sync::Arc;

use self::json::JsonPointer;
use self::path::PathTemplates;
use super::engine_flow::EngineFlow;
use super::http_input::{HttpInput, HttpRequest};
use super::report::ClassifierInfo;
use super::selector_index::SelectorIndex;
use super::stats::ClassifierFailures;
use crate::policy::{Classifier, Extractor, Policy, RegoModule, Selector};

/// The classifiers of all policies.
#[derive(Debug, Default)]
pub(crate) struct Classifiers {
    all: Vec<ClassifierEntry>,
    places: SelectorIndex,
}

/// A classifier with its policy.
#[derive(Debug)]
struct ClassifierEntry {
    policy_name: Arc<str>,
    policy_hash: Arc<str>,
    index: u32,
    /// The number of reports of the classifier: one for its rules and one for its Rego module.
    units: usize,
    rules: Vec<ExtractionRule>,
    rego: Option<RegoModule>,
}

#[derive(Debug)]
struct ExtractionRule {
    label: Arc<str>,
    telemetry: bool,
    value_source: ValueSource,
}

/// The source of a label's value.
#[derive(Debug)]
enum ValueSource {
    Attribute(Attribute),
    Json(Attribute, JsonPointer),
    Jwt(Attribute, JsonPointer),
    Templates(PathTemplates),
    /// Never has a value.
    Missing,
}

/// A path into the request.
#[derive(Debug, PartialEq, Eq)]
enum Attribute {
    Method,
    Path,
    Host,
    Protocol,
    Body,
    Header(Box<str>),
    /// The text after `Bearer ` in the header `authorization`.
    Bearer,
    /// An allowed path that never has a value: the request's ID, metadata, addresses.
    Missing,
}

/// A label that a classifier sets.
#[derive(Debug)]
pub(crate) struct ClassifierLabel {
    pub(crate) label: Arc<str>,
    /// Sanitized, so that it can be a member of baggage.
    pub(crate) value: String,
    pub(crate) telemetry: bool,
}

impl Classifiers {
    /// Returns true if the classifier is in force.
    pub(crate) fn has(&self, policy: &str, hash: &str, index: i64) -> bool {
        self.all.iter().any(|classifier| {
            i64::from(classifier.index) == index
                && *classifier.policy_name == *policy
                && *classifier.policy_hash == *hash
        })
    }

    /// Adds a classifier with those of its selectors that apply in this agent group.
    pub(crate) fn add(&mut self, policy: &Policy, classifier: &Classifier, applying: &[&Selector]) {
        let Ok(at) = u32::try_from(self.all.len()) else {
            return;
        };
        self.places.add(at, applying);
        let rules = classifier.rules.iter().filter_map(|rule| {
            Some(ExtractionRule {
                label: Arc::clone(&rule.label),
                telemetry: rule.telemetry,
                value_source: ValueSource::new(rule.extractor.as_ref()?),
            })
        });
        self.all.push(ClassifierEntry {
            policy_name: Arc::clone(&policy.name),
            policy_hash: Arc::clone(&policy.hash),
            index: classifier.index,
            units: usize::from(!classifier.rules.is_empty())
                + usize::from(classifier.rego.is_some()),
            rules: rules.collect(),
            rego: classifier.rego.clone(),
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns true if a selector names the control point.
    pub(crate) fn selects(&self, control_point: &str) -> bool {
        self.places.selects(control_point)
    }

    /// Returns the labels that the classifiers set for a request. Matchers see only the labels of
    /// `flow`, which come from the other sources.
    pub(crate) fn classify(
        &self,
        flow: &EngineFlow<'_, '_>,
        input: &HttpInput<'_>,
        failures: &ClassifierFailures,
        infos: &mut Vec<ClassifierInfo>,
    ) -> Vec<ClassifierLabel> {
        let request = &input.request.unwrap_or_default();
        let mut document = None;
        let mut labels = Vec::new();
        for &at in self.places.matching(flow).iter() {
            let classifier = &self.all[at as usize];
            infos.extend((0..classifier.units).map(|_| ClassifierInfo {
                policy_name: Arc::clone(&classifier.policy_name),
                policy_hash: Arc::clone(&classifier.policy_hash),
                classifier_index: classifier.index,
            }));
            for rule in &classifier.rules {
                if let Some(value) = rule.value_source.value(request) {
                    labels.push(ClassifierLabel {
                        label: Arc::clone(&rule.label),
                        value: sanitize(value),
                        telemetry: rule.telemetry,
                    });
                }
            }
            if let Some(rego) = &classifier.rego
                && let Some(module) = &rego.program
            {
                match rego::evaluate(module, &rego.labels, &mut document, input, flow.services) {
                    Ok(values) => labels.extend(values),
                    Err(failure) => {
                        failures.count(|| {
                            format!(
                                "classifier {} of policy `{}` left its labels unset: {failure}",
                                classifier.index, classifier.policy_name
                            )
                        });
                    }
                }
            }
        }
        labels
    }
}

impl ValueSource {
    /// Converts an extractor. The loader has validated it; anything else has no value.
    fn new(extractor: &Extractor) -> Self {
        match extractor {
            Extractor::From(path) => Self::Attribute(Attribute::new(path)),
            Extractor::Json { from, pointer } => match JsonPointer::parse(pointer) {
                Some(pointer) => Self::Json(Attribute::new(from), pointer),
                None => Self::Missing,
            },
            Extractor::Jwt { from, pointer } => match JsonPointer::parse(pointer) {
                Some(pointer) => Self::Jwt(Attribute::new(from), pointer),
                None => Self::Missing,
            },
            Extractor::Address { .. } => Self::Missing,
            Extractor::PathTemplates(values) => Self::Templates(PathTemplates::new(values)),
        }
    }

    fn value<'a>(&'a self, request: &HttpRequest<'a>) -> Option<Cow<'a, str>> {
        match self {
            Self::Attribute(attribute) => attribute.value(request).map(Cow::Borrowed),
            Self::Json(from, pointer) => pointer.text(from.value(request)?).map(Cow::Owned),
            Self::Jwt(from, pointer) => {
                let payload = jwt::payload(from.value(request)?)?;
                pointer.text(&payload).map(Cow::Owned)
            }
            Self::Templates(templates) => templates.value(request.path).map(Cow::Borrowed),
            Self::Missing => None,
        }
    }
}

impl Attribute {
    fn new(path: &str) -> Self {
        let Some(field) = path.strip_prefix("request.http.") else {
            return Self::Missing;
        };
        match field {
            "method" => Self::Method,
            "path" => Self::Path,
            "host" => Self::Host,
            "protocol" => Self::Protocol,
            "body" => Self::Body,
            "bearer" => Self::Bearer,
            field => match field.strip_prefix("headers.") {
                Some(name) => Self::Header(name.into()),
                None => Self::Missing,
            },
        }
    }

    fn value<'a>(&self, request: &HttpRequest<'a>) -> Option<&'a str> {
        match self {
            Self::Method => Some(request.method),
            Self::Path => Some(request.path),
            Self::Host => Some(request.host),
            Self::Protocol => Some(request.protocol),
            Self::Body => Some(request.body),
            Self::Header(name) => request.header(name),
            Self::Bearer => request.header("authorization")?.strip_prefix("Bearer "),
            Self::Missing => None,
        }
    }
}

/// Replaces each character that could end a member of baggage, or a part of one, with `-`.
fn sanitize(value: Cow<'_, str>) -> String {
    let is_forbidden = |symbol: char| {
        matches!(
            symbol,
            '\t' | '\n' | '\x0c' | '\r' | ' ' | '\\' | '/' | ';' | '"' | ','
        )
    };
    if value.contains(is_forbidden) {
        value.replace(is_forbidden, "-")
    } else {
        value.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(extractor: &Extractor, request: &HttpRequest<'_>) -> Option<String> {
        ValueSource::new(extractor).value(request).map(sanitize)
    }

    fn from(path: &str) -> Extractor {
        Extractor::From(path.into())
    }

    #[test]
    fn attributes_are_read_as_they_were_sent() {
        let request = HttpRequest {
            method: "PUT",
            path: "/a b?c",
            headers: &[("X-Kind", "v"), ("authorization", "Bearer  two")],
            ..HttpRequest::default()
        };
        let of = |path| value(&from(path), &request);
        assert_eq!(of("request.http.method").as_deref(), Some("PUT"));
        assert_eq!(of("request.http.path").as_deref(), Some("-a-b?c"));
        assert_eq!(of("request.http.host").as_deref(), Some(""));
        assert_eq!(of("request.http.headers.X-Kind").as_deref(), Some("v"));
        assert_eq!(of("request.http.bearer").as_deref(), Some("-two"));
        for missing in [
            "request.http.headers.x-kind",
            "request.http.id",
            "source.address.socketAddress.address",
            "metadataContext.filterMetadata.a",
        ] {
            assert_eq!(of(missing), None, "{missing}");
        }
    }

    proptest! {
        #[test]
        fn a_sanitized_value_ends_no_baggage_member(value in any::<String>()) {
            let clean = sanitize(Cow::Borrowed(&value));
            prop_assert_eq!(clean.chars().count(), value.chars().count());
            prop_assert!(!clean.contains(['\t', '\n', '\r', ' ', '\\', '/', ';', '"', ',']));
            prop_assert_eq!(sanitize(Cow::Borrowed(&clean)), clean);
        }

        #[test]
        fn any_path_and_header_is_accepted_without_panic(
            path in "(request\\.http\\.|)(headers\\.|)[a-z.]{0,8}",
            pointer in "[/~0-2a]{0,5}",
            header in any::<String>(),
            body in any::<String>(),
        ) {
            let request = HttpRequest {
                headers: &[("authorization", &header), ("a", &header)],
                body: &body,
                ..HttpRequest::default()
            };
            let (from, pointer): (Arc<str>, Arc<str>) = (path.into(), pointer.into());
            for extractor in [
                Extractor::From(from.clone()),
                Extractor::Json { from: from.clone(), pointer: pointer.clone() },
                Extractor::Jwt { from, pointer },
            ] {
                let _ = value(&extractor, &request);
            }
        }
    }
}
