//! Classifiers: labels from the attributes of an HTTP request.

mod json;
mod jwt;
mod path;
#[cfg(feature = "rego")]
mod rego;

use std::borrow::Cow;
use std::sync::Arc;

use self::json::Pointer;
use self::path::Templates;
use super::http::{HttpInput, HttpRequest};
use super::index::SelectorIndex;
use super::report::ClassifierInfo;
use super::stages::EngineFlow;
use super::stats::Failures;
#[cfg(feature = "rego")]
use crate::policy::RegoModule;
use crate::policy::{Classifier, Extractor, Policy, Selector};

/// The classifiers of all policies.
#[derive(Debug, Default)]
pub(crate) struct Classifiers {
    all: Vec<Placed>,
    places: SelectorIndex,
}

/// A classifier and where it comes from.
#[derive(Debug)]
struct Placed {
    policy_name: Arc<str>,
    policy_hash: Arc<str>,
    index: u32,
    /// What its one unit of rules, and its one of Rego, are reported as.
    units: usize,
    rules: Vec<Rule>,
    #[cfg(feature = "rego")]
    rego: Option<RegoModule>,
}

#[derive(Debug)]
struct Rule {
    label: Arc<str>,
    telemetry: bool,
    source: Source,
}

/// Where a value comes from.
#[derive(Debug)]
enum Source {
    Attribute(Attribute),
    Json(Attribute, Pointer),
    Jwt(Attribute, Pointer),
    Templates(Templates),
    /// What no request has.
    Nowhere,
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
    /// What follows `Bearer ` in the header `authorization`.
    Bearer,
    /// A path that is allowed and leads nowhere: the request's id, metadata, addresses.
    Nowhere,
}

/// A label that a classifier made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) label: Arc<str>,
    /// Cleaned.
    pub(crate) value: String,
    pub(crate) telemetry: bool,
}

impl Classifiers {
    /// Returns true for a classifier in force.
    #[cfg(feature = "server")]
    pub(crate) fn has(&self, policy: &str, hash: &str, index: i64) -> bool {
        self.all.iter().any(|one| {
            i64::from(one.index) == index
                && *one.policy_name == *policy
                && *one.policy_hash == *hash
        })
    }

    /// Adds a classifier with those of its selectors that apply here.
    pub(crate) fn add(&mut self, policy: &Policy, classifier: &Classifier, here: &[&Selector]) {
        let Ok(at) = u32::try_from(self.all.len()) else {
            return;
        };
        self.places.add(at, here);
        let rules = classifier.rules.iter().filter_map(|rule| {
            Some(Rule {
                label: Arc::clone(&rule.label),
                telemetry: rule.telemetry,
                source: Source::new(rule.extractor.as_ref()?),
            })
        });
        self.all.push(Placed {
            policy_name: Arc::clone(&policy.name),
            policy_hash: Arc::clone(&policy.hash),
            index: classifier.index,
            units: usize::from(!classifier.rules.is_empty())
                + usize::from(classifier.rego.is_some()),
            rules: rules.collect(),
            #[cfg(feature = "rego")]
            rego: classifier.rego.clone(),
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Some selector names the control point.
    pub(crate) fn selects(&self, control_point: &str) -> bool {
        self.places.selects(control_point)
    }

    /// The labels that the classifiers make for a request; the flow has the labels from other
    /// sources, which is all that matchers see.
    pub(crate) fn classify(
        &self,
        flow: &EngineFlow<'_, '_>,
        input: &HttpInput<'_>,
        failures: &Failures,
        infos: &mut Vec<ClassifierInfo>,
    ) -> Vec<Made> {
        let request = &input.request.unwrap_or_default();
        #[cfg(feature = "rego")]
        let mut document = None;
        let mut made = Vec::new();
        for &at in self.places.matching(flow).iter() {
            let classifier = &self.all[at as usize];
            infos.extend((0..classifier.units).map(|_| ClassifierInfo {
                policy_name: Arc::clone(&classifier.policy_name),
                policy_hash: Arc::clone(&classifier.policy_hash),
                classifier_index: classifier.index,
            }));
            for rule in &classifier.rules {
                if let Some(value) = rule.source.value(request) {
                    made.push(Made {
                        label: Arc::clone(&rule.label),
                        value: clean(value),
                        telemetry: rule.telemetry,
                    });
                }
            }
            #[cfg(feature = "rego")]
            if let Some(module) = &classifier.rego {
                let document = document.get_or_insert_with(|| rego::document(input, flow.services));
                match rego::evaluate(module, document.as_ref()) {
                    Ok(values) => made.extend(values),
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
        #[cfg(not(feature = "rego"))]
        let _ = failures;
        made
    }
}

impl Source {
    /// What the loader has let pass. Anything else leads nowhere.
    fn new(extractor: &Extractor) -> Self {
        match extractor {
            Extractor::From(path) => Self::Attribute(Attribute::new(path)),
            Extractor::Json { from, pointer } => match Pointer::parse(pointer) {
                Some(pointer) => Self::Json(Attribute::new(from), pointer),
                None => Self::Nowhere,
            },
            Extractor::Jwt { from, pointer } => match Pointer::parse(pointer) {
                Some(pointer) => Self::Jwt(Attribute::new(from), pointer),
                None => Self::Nowhere,
            },
            Extractor::Address { .. } => Self::Nowhere,
            Extractor::PathTemplates(values) => Self::Templates(Templates::new(values)),
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
            Self::Nowhere => None,
        }
    }
}

impl Attribute {
    fn new(path: &str) -> Self {
        let Some(field) = path.strip_prefix("request.http.") else {
            return Self::Nowhere;
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
                None => Self::Nowhere,
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
            Self::Nowhere => None,
        }
    }
}

/// What could end a member of baggage, or a part of one, becomes `-`.
fn clean(value: Cow<'_, str>) -> String {
    let foul = |symbol: char| {
        matches!(
            symbol,
            '\t' | '\n' | '\x0c' | '\r' | ' ' | '\\' | '/' | ';' | '"' | ','
        )
    };
    if value.contains(foul) {
        value.replace(foul, "-")
    } else {
        value.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(extractor: &Extractor, request: &HttpRequest<'_>) -> Option<String> {
        Source::new(extractor).value(request).map(clean)
    }

    fn from(path: &str) -> Extractor {
        Extractor::From(path.into())
    }

    #[test]
    fn attributes_are_what_was_sent() {
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
        for nowhere in [
            "request.http.headers.x-kind",
            "request.http.id",
            "source.address.socketAddress.address",
            "metadataContext.filterMetadata.a",
        ] {
            assert_eq!(of(nowhere), None, "{nowhere}");
        }
    }

    proptest! {
        #[test]
        fn a_clean_value_ends_no_member(value in any::<String>()) {
            let clean = clean(Cow::Borrowed(&value));
            prop_assert_eq!(clean.chars().count(), value.chars().count());
            prop_assert!(!clean.contains(['\t', '\n', '\r', ' ', '\\', '/', ';', '"', ',']));
            prop_assert_eq!(super::clean(Cow::Borrowed(&clean)), clean);
        }

        #[test]
        fn any_path_and_header_is_survived(
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
