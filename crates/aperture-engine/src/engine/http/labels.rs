//! The labels of an HTTP request, and the parts of them for telemetry and the next service.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use ahash::RandomState;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

use crate::engine::classify::ClassifierLabel;
use crate::engine::http_input::{HttpInput, HttpRequest};
use crate::engine::query_encoding::decode_query;
use aperture_core::{Labels, baggage};

const SOURCE_LABEL: &str = "aperture.source_fqdns";
const DESTINATION_LABEL: &str = "aperture.destination_fqdns";

/// The bytes that W3C Baggage does not allow in a value, and `%`, which begins an escape.
const BAGGAGE_ENCODE_SET: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b',')
    .add(b';')
    .add(b'\\')
    .add(b'%');

/// Labels by key. A map, because a request may have as many headers as fit into a message.
pub(super) struct HttpLabels<'a> {
    all: HashMap<Cow<'a, str>, HttpLabel<'a>, RandomState>,
    /// The members that classifiers add to baggage.
    baggage_additions: BTreeMap<Arc<str>, String>,
}

struct HttpLabel<'a> {
    value: Cow<'a, str>,
    telemetry: bool,
}

impl<'a> HttpLabels<'a> {
    /// Returns the labels from all sources except classifiers.
    pub(super) fn new(input: &HttpInput<'a>) -> Self {
        let mut labels = Self {
            all: HashMap::default(),
            baggage_additions: BTreeMap::new(),
        };
        if let Some(request) = &input.request {
            labels.request(request);
            if let Some(header) = request.header("baggage") {
                labels.baggage_members(header);
            }
        }
        for (key, services) in [
            (SOURCE_LABEL, input.source_services),
            (DESTINATION_LABEL, input.destination_services),
        ] {
            let value = match services {
                [] => Cow::Borrowed("UNKNOWN"),
                known => joined(known),
            };
            labels.set(key, value, true);
        }
        labels
    }

    fn set(
        &mut self,
        key: impl Into<Cow<'a, str>>,
        value: impl Into<Cow<'a, str>>,
        telemetry: bool,
    ) {
        let value = value.into();
        self.all.insert(key.into(), HttpLabel { value, telemetry });
    }

    fn request(&mut self, request: &HttpRequest<'a>) {
        self.set("http.method", request.method, true);
        self.set("http.target", request.path, true);
        self.set("http.host", request.host, true);
        self.set("http.scheme", request.scheme, true);
        self.set("http.flavor", flavor(request.protocol), true);
        let size = request.size.to_string();
        self.set("http.request_content_length", size, false);
        for (name, value) in request.headers {
            if !name.starts_with(':') {
                self.set(header_key(name), *value, false);
            }
        }
    }

    fn baggage_members(&mut self, header: &'a str) {
        let members = baggage::members(header.as_bytes());
        // The last value of a repeated key counts, even if it is malformed and so sets no label.
        let members: HashMap<_, _, RandomState> = members.into_iter().flatten().collect();
        for (key, value) in members {
            let once: Vec<u8> = percent_decode(value).collect();
            if let Some(value) = decode_query(&once) {
                self.set(key, value, true);
            }
        }
    }

    /// Adds the labels that classifiers set.
    pub(super) fn add_classified(&mut self, labels: Vec<ClassifierLabel>) {
        for ClassifierLabel {
            label,
            value,
            telemetry,
        } in labels
        {
            self.set(label.to_string(), value.clone(), telemetry);
            if telemetry {
                self.baggage_additions.insert(label, value);
            } else {
                self.baggage_additions.remove(&label);
            }
        }
    }

    /// Returns all labels, for the decision.
    pub(super) fn flow_labels(&self) -> Labels<'a> {
        Labels::distinct(
            self.all
                .iter()
                .map(|(key, label)| (key.clone(), label.value.clone())),
        )
    }

    /// Returns the labels that telemetry shows.
    pub(super) fn telemetry(&self, input: &HttpInput<'_>) -> BTreeMap<String, String> {
        let shown = self.all.iter().filter(|(_, label)| label.telemetry);
        let mut shown: BTreeMap<String, String> = shown
            .map(|(key, label)| (key.to_string(), label.value.to_string()))
            .collect();
        for (key, value) in [
            ("aperture.control_point_type", Cow::Borrowed("http")),
            (SOURCE_LABEL, joined(input.source_services)),
            (DESTINATION_LABEL, joined(input.destination_services)),
        ] {
            shown.insert(key.to_owned(), value.into_owned());
        }
        shown
    }

    /// Returns the `baggage` header for the next service: the unchanged header of the request,
    /// followed by the labels that classifiers set. `None` if classifiers set no such label.
    pub(super) fn baggage(&self, input: &HttpInput<'_>) -> Option<String> {
        if self.baggage_additions.is_empty() {
            return None;
        }
        let own = input
            .request
            .as_ref()
            .and_then(|request| request.header("baggage"));
        let mut header = own.unwrap_or_default().to_owned();
        for (at, (key, value)) in self.baggage_additions.iter().enumerate() {
            if at > 0 || own.is_some() {
                header.push(',');
            }
            let value = utf8_percent_encode(value, BAGGAGE_ENCODE_SET);
            write!(header, "{key}={value}").ok()?;
        }
        Some(header)
    }
}

fn flavor(protocol: &str) -> &str {
    match protocol {
        "HTTP/1.0" => "1.0",
        "HTTP/1.1" => "1.1",
        "HTTP/2" => "2.0",
        "HTTP/3" => "3.0",
        other => other,
    }
}

/// Lower-cases each letter to a single letter, even where Unicode maps it to several.
fn header_key(name: &str) -> String {
    let mut key = String::from("http.request.header.");
    key.extend(name.chars().map(|letter| match letter {
        '-' => '_',
        letter => letter.to_lowercase().next().unwrap_or(letter),
    }));
    key
}

fn joined<'a>(services: &[&'a str]) -> Cow<'a, str> {
    match services {
        [] => Cow::Borrowed(""),
        [only] => Cow::Borrowed(only),
        many => Cow::Owned(many.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn header_names_are_lowercased_letter_by_letter() {
        assert_eq!(header_key("X-Ü.a"), "http.request.header.x_ü.a");
        assert_eq!(header_key("\u{130}"), "http.request.header.i");
        assert_eq!(header_key(""), "http.request.header.");
    }

    proptest! {
        #[test]
        fn baggage_values_survive_a_round_trip(value in "[ -~\u{e0}-\u{ff}]{0,12}") {
            let mut labels = HttpLabels::new(&HttpInput::new("here"));
            let label = Arc::from("made");
            let classified = ClassifierLabel { label, value: value.clone(), telemetry: true };
            labels.add_classified(vec![classified]);
            let header = labels.baggage(&HttpInput::new("here")).expect("a classifier set a label");
            let members: Vec<_> = baggage::members(header.as_bytes()).expect("well formed").collect();
            prop_assert_eq!(members.len(), 1);
            let (key, encoded) = members[0];
            prop_assert_eq!(key, "made");
            prop_assert_eq!(percent_decode(encoded).decode_utf8_lossy(), value);
        }
    }
}
