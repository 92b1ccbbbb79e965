//! Labels from request heads.

mod address;
mod baggage;
mod extension;
mod forwarded;
mod header;
mod joined;
mod query;
mod template;

use std::borrow::Cow;
use std::sync::Arc;

use http::header::HeaderName;

pub(crate) use self::address::AddressHook;
pub use self::address::{ClientAddress, client_ip};
pub use self::baggage::baggage_member;
pub use self::extension::{extension, extension_str};
pub(crate) use self::header::{allowed_header, joined as joined_header};
pub use self::header::{header, try_header};
pub use self::joined::{JoinedParts, first_of, joined, reader};
pub use self::query::query;
pub use self::template::{grpc_method, grpc_service, path_template};
use super::head::RequestHead;
use crate::flow::labels::VALUE_LIMIT;
use crate::flow::{LabelLimits, Labels, baggage as w3c};

pub(crate) type TextHook = Arc<dyn for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync>;
pub(crate) type LabelsHook = Arc<dyn for<'h> Fn(RequestHead<'h>, &mut Labels<'h>) + Send + Sync>;

/// Where labels come from: extractors, the later the stronger, then constants, then baggage.
#[derive(Clone)]
pub(crate) struct Extract {
    sources: Vec<Source>,
    constants: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// The keys that are the layer's, each once: `baggage` sets none of them.
    named: Vec<Cow<'static, str>>,
    /// Keys without which a request is rejected.
    required: Vec<Arc<str>>,
    pub(crate) baggage: bool,
    pub(crate) limits: LabelLimits,
    /// Bytes of a value that a client can choose.
    pub(crate) value_limit: usize,
}

#[derive(Clone)]
pub(crate) enum Source {
    Header(Cow<'static, str>, HeaderName),
    Text(Cow<'static, str>, TextHook),
    Labels(LabelsHook),
}

impl Default for Extract {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            constants: Vec::new(),
            named: Vec::new(),
            required: Vec::new(),
            baggage: true,
            limits: LabelLimits::default(),
            value_limit: VALUE_LIMIT,
        }
    }
}

impl Extract {
    pub(crate) fn source(&mut self, source: Source) {
        match &source {
            Source::Header(key, _) | Source::Text(key, _) => self.reserve(key.clone()),
            Source::Labels(_) => {}
        }
        self.sources.push(source);
    }

    pub(crate) fn reserve(&mut self, key: Cow<'static, str>) {
        if !self.names(&key) {
            self.named.push(key);
        }
    }

    pub(crate) fn require(&mut self, key: Arc<str>) {
        self.reserve(Cow::Owned(String::from(&*key)));
        if !self.required.contains(&key) {
            self.required.push(key);
        }
    }

    fn names(&self, key: &str) -> bool {
        self.named.iter().any(|named| named == key)
    }

    /// The first required label that a request has no value for.
    #[inline]
    pub(crate) fn missing(&self, labels: &Labels<'_>) -> Option<&Arc<str>> {
        let mut required = self.required.iter();
        required.find(|key| labels.get(key).is_none_or(str::is_empty))
    }

    pub(crate) fn constant(&mut self, key: Cow<'static, str>, value: Cow<'static, str>) {
        self.reserve(key.clone());
        self.constants.retain(|(known, _)| *known != key);
        self.constants.push((key, value));
    }

    /// Adds all labels of a request. What readers find is bounded value by value, so that none of
    /// them takes the room of another or of a constant; members of `baggage` get what is left.
    pub(crate) fn fill<'a>(&'a self, head: RequestHead<'a>, labels: &mut Labels<'a>) {
        labels.collect_within(self.value_limit);
        for source in &self.sources {
            match source {
                Source::Header(key, name) => {
                    if let Some(value) = header::label(head.headers(), name) {
                        labels.set_named(key, value);
                    }
                }
                Source::Text(key, hook) => {
                    let value = hook(head);
                    if !value.is_empty() {
                        labels.set_named(key, value);
                    }
                }
                Source::Labels(hook) => hook(head, labels),
            }
        }
        labels.add_constants(&self.constants);
        labels.enforce_limits(self.limits, |key| self.names(key));
        if self.baggage {
            w3c::add_labels(labels, head.headers(), |key| self.names(key));
        }
    }
}
