//! Extracts labels from request heads: the readers for users, and the list of a layer's label
//! readers.

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

use http::HeaderMap;
use http::header::HeaderName;

pub(crate) use self::address::AddressHook;
pub use self::address::{ClientAddress, client_ip};
pub use self::baggage::baggage_member;
pub use self::extension::{extension, extension_str};
pub(crate) use self::header::{allowed_header, joined_header};
pub use self::header::{header, try_header};
pub use self::joined::{JoinedParts, first_of, joined, reader};
pub use self::query::query;
pub use self::template::{grpc_method, grpc_service, path_template};
use super::head::RequestHead;
use super::request_labels::LabelValue;
use crate::flow::labels::VALUE_LIMIT;
use crate::flow::{LabelLimits, LabelSource, Labels, baggage as w3c};

/// A reader of one text, for a label, a control point or a cache key.
pub(crate) type TextHook = Arc<dyn for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync>;
/// A function that adds labels of a request.
pub(crate) type LabelsHook = Arc<dyn for<'h> Fn(RequestHead<'h>, &mut Labels<'h>) + Send + Sync>;

/// Collects the labels of a request. Later readers override earlier ones, constants apply where no
/// reader has set the key, and `baggage` only adds labels with other keys.
#[derive(Clone)]
pub(crate) struct LabelExtractor {
    readers: Vec<LabelReader>,
    /// True if a reader adds any number of labels.
    has_closures: bool,
    constants: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// The keys of the layer's own labels, without duplicates. `baggage` sets none of them.
    reserved: Vec<Cow<'static, str>>,
    /// Keys of labels that a request must have; otherwise it is rejected.
    required: Vec<Arc<str>>,
    pub(crate) baggage: bool,
    pub(crate) limits: LabelLimits,
    /// The longest value, in bytes, of a label that a client can choose.
    pub(crate) value_limit: usize,
}

/// One reader of labels.
#[derive(Clone)]
pub(crate) enum LabelReader {
    /// A label from a header.
    Header(Cow<'static, str>, HeaderName),
    /// A label from a reader.
    Text(Cow<'static, str>, TextHook),
    /// Any number of labels from a function.
    Labels(LabelsHook),
}

impl Default for LabelExtractor {
    fn default() -> Self {
        Self {
            readers: Vec::new(),
            has_closures: false,
            constants: Vec::new(),
            reserved: Vec::new(),
            required: Vec::new(),
            baggage: true,
            limits: LabelLimits::default(),
            value_limit: VALUE_LIMIT,
        }
    }
}

impl LabelExtractor {
    pub(crate) fn add_reader(&mut self, reader: LabelReader) {
        match &reader {
            LabelReader::Header(key, _) | LabelReader::Text(key, _) => {
                self.reserve_key(key.clone());
            }
            LabelReader::Labels(_) => self.has_closures = true,
        }
        self.readers.push(reader);
    }

    /// Reserves a key for the layer, so that `baggage` cannot set it.
    pub(crate) fn reserve_key(&mut self, key: Cow<'static, str>) {
        if !self.is_reserved(&key) {
            self.reserved.push(key);
        }
    }

    /// Requires a label of every request.
    pub(crate) fn require_key(&mut self, key: Arc<str>) {
        self.reserve_key(Cow::Owned(String::from(&*key)));
        if !self.required.contains(&key) {
            self.required.push(key);
        }
    }

    fn is_reserved(&self, key: &str) -> bool {
        self.reserved.iter().any(|reserved| reserved == key)
    }

    pub(crate) fn requires_labels(&self) -> bool {
        !self.required.is_empty()
    }

    /// Returns the key of the first required label that is missing or empty.
    #[inline]
    pub(crate) fn first_missing(&self, labels: &dyn LabelSource) -> Option<&Arc<str>> {
        let mut required = self.required.iter();
        required.find(|key| labels.get(key).is_none_or(str::is_empty))
    }

    /// Adds a constant label, in place of an earlier one with the same key.
    pub(crate) fn add_constant(&mut self, key: Cow<'static, str>, value: Cow<'static, str>) {
        self.reserve_key(key.clone());
        self.constants.retain(|(existing, _)| *existing != key);
        self.constants.push((key, value));
    }

    /// Returns true if each label can be read on its own, because no closure adds labels.
    #[inline]
    pub(crate) const fn reads_on_demand(&self) -> bool {
        !self.has_closures
    }

    /// Reads a label that comes from a header with one value, as most do. `None` means that
    /// [`value`](Self::value) reads it.
    #[inline(always)]
    pub(super) fn plain_header<'a>(&self, headers: &'a HeaderMap, key: &str) -> Option<&'a str> {
        let mut readers = self.readers.iter().rev();
        let name = readers.find_map(|reader| match reader {
            LabelReader::Header(known, name) if known == key => Some(Some(name)),
            LabelReader::Text(known, _) if known == key => Some(None),
            _ => None,
        })?;
        let value = header::single_value(headers, name?)?;
        (value.len() <= self.value_limit).then_some(value)
    }

    /// Reads one label. The value is that of [`fill`](Self::fill). The extractor must
    /// [read on demand](Self::reads_on_demand).
    pub(super) fn value<'a>(&'a self, head: RequestHead<'a>, key: &str) -> LabelValue<'a> {
        for reader in self.readers.iter().rev() {
            let value = match reader {
                LabelReader::Header(known, name) if known == key => (
                    known,
                    header::label_value(head.headers(), name).unwrap_or_default(),
                ),
                LabelReader::Text(known, hook) if known == key => (known, hook(head)),
                _ => continue,
            };
            return match value {
                (_, value) if value.is_empty() => continue,
                (_, value) if value.len() > self.value_limit => LabelValue::Unknown,
                (_, Cow::Borrowed(value)) => LabelValue::Borrowed(Some(value)),
                (known, Cow::Owned(value)) => LabelValue::Owned(known, value),
            };
        }
        let mut constants = self.constants.iter();
        if let Some((_, value)) = constants.find(|(known, _)| known == key) {
            return LabelValue::Borrowed(Some(value));
        }
        let in_baggage = self.baggage && w3c::is_present(head.headers()) && !self.is_reserved(key);
        match in_baggage {
            true => LabelValue::Unknown,
            false => LabelValue::Borrowed(None),
        }
    }

    /// Adds all labels of a request. Each value from a reader is bounded on its own, so that no
    /// value takes the space of another one or of a constant. Members of `baggage` get the space
    /// that is left.
    pub(crate) fn fill<'a>(&'a self, head: RequestHead<'a>, labels: &mut Labels<'a>) {
        labels.collect_within(self.value_limit);
        for reader in &self.readers {
            match reader {
                LabelReader::Header(key, name) => {
                    if let Some(value) = header::label_value(head.headers(), name) {
                        labels.set_named(key, value);
                    }
                }
                LabelReader::Text(key, hook) => {
                    let value = hook(head);
                    if !value.is_empty() {
                        labels.set_named(key, value);
                    }
                }
                LabelReader::Labels(hook) => hook(head, labels),
            }
        }
        labels.add_constants(&self.constants);
        labels.enforce_limits(self.limits, |key| self.is_reserved(key));
        if self.baggage {
            w3c::add_labels(labels, head.headers(), |key| self.is_reserved(key));
        }
    }
}
