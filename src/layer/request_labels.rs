//! The labels and the trace of a request, read on demand: the layer reads a header only if a policy
//! names its label.

use std::cell::OnceCell;
use std::fmt;

use super::extract::LabelExtractor;
use super::head::RequestHead;
use crate::flow::{LabelLosses, LabelSource, Labels, TraceContext};

/// The labels of one request as the settings of its layer say.
///
/// A value that is borrowed from the request is read each time it is asked for. The first value that
/// needs memory of its own is kept. For further ones, for values that are too long and for members
/// of `baggage`, all labels are read, once.
pub(super) struct RequestLabels<'a> {
    extract: &'a LabelExtractor,
    head: RequestHead<'a>,
    /// A key with its value.
    kept: OnceCell<(&'a str, String)>,
    all: OnceCell<Labels<'a>>,
}

/// The value of one label, as far as an extractor can read it alone.
pub(super) enum LabelValue<'a> {
    /// The value, borrowed from the request or the settings; `None` if the flow lacks the label.
    Borrowed(Option<&'a str>),
    /// The key and the value.
    Owned(&'a str, String),
    /// All labels must be read.
    Unknown,
}

impl<'a> RequestLabels<'a> {
    #[inline(always)]
    pub(super) const fn new(extract: &'a LabelExtractor, head: RequestHead<'a>) -> Self {
        Self {
            extract,
            head,
            kept: OnceCell::new(),
            all: OnceCell::new(),
        }
    }

    /// Returns a value that is not that of a header, or not as it is.
    #[inline(never)]
    fn get_other(&self, key: &str) -> Option<&str> {
        if let Some((_, value)) = self.kept.get().filter(|(known, _)| *known == key) {
            return Some(value);
        }
        match self.extract.value(self.head, key) {
            LabelValue::Borrowed(value) => value,
            LabelValue::Owned(known, value) => match self.kept.set((known, value)) {
                Ok(()) => self.kept.get().map(|(_, value)| &**value),
                Err(_) => self.all().get(key),
            },
            LabelValue::Unknown => self.all().get(key),
        }
    }

    #[inline(never)]
    fn all(&self) -> &Labels<'a> {
        self.all.get_or_init(|| {
            let mut labels = Labels::with_limits(self.extract.limits);
            self.extract.fill(self.head, &mut labels);
            labels
        })
    }
}

impl LabelSource for RequestLabels<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match self.extract.plain_header(self.head.headers(), key) {
            Some(value) => Some(value),
            None => self.get_other(key),
        }
    }

    fn fill<'s>(&'s self, labels: &mut Labels<'s>) {
        match self.all.get() {
            Some(all) => all.fill(labels),
            None => self.extract.fill(self.head, labels),
        }
    }

    #[inline]
    fn losses(&self) -> LabelLosses {
        self.all.get().map(Labels::losses).unwrap_or_default()
    }

    fn trace_context(&self) -> Option<TraceContext<'_>> {
        Some(TraceContext::from_headers(self.head.headers()))
    }
}

/// Shows nothing of the request, because values may identify people.
impl fmt::Debug for RequestLabels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestLabels").finish_non_exhaustive()
    }
}
