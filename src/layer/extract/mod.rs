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
pub use self::joined::{JoinedParts, joined};
pub use self::query::query;
pub use self::template::{grpc_method, grpc_service, path_template};
use super::head::RequestHead;
use crate::flow::{LabelLimits, Labels, baggage as w3c};

pub(crate) type TextHook = Arc<dyn for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync>;
pub(crate) type LabelsHook = Arc<dyn for<'h> Fn(RequestHead<'h>, &mut Labels<'h>) + Send + Sync>;

/// Where labels come from: extractors, the later the stronger, then constants, then baggage.
#[derive(Clone)]
pub(crate) struct Extract {
    sources: Vec<Source>,
    constants: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    pub(crate) baggage: bool,
    pub(crate) limits: LabelLimits,
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
            baggage: true,
            limits: LabelLimits::default(),
        }
    }
}

impl Extract {
    pub(crate) fn source(&mut self, source: Source) {
        self.sources.push(source);
    }

    pub(crate) fn constant(&mut self, key: Cow<'static, str>, value: Cow<'static, str>) {
        self.constants.retain(|(known, _)| *known != key);
        self.constants.push((key, value));
    }

    /// The strongest sources go first, so that limits drop what a client made up before anything
    /// that the application said.
    pub(crate) fn fill<'a>(&'a self, head: RequestHead<'a>, labels: &mut Labels<'a>) {
        for source in &self.sources {
            match source {
                Source::Header(key, name) => {
                    if let Some(value) = header::joined(head.headers(), name) {
                        labels.set(Cow::Borrowed(key), value);
                    }
                }
                Source::Text(key, hook) => {
                    let value = hook(head);
                    if !value.is_empty() {
                        labels.insert(&**key, value);
                    }
                }
                Source::Labels(hook) => hook(head, labels),
            }
        }
        for (key, value) in &self.constants {
            labels.insert_if_absent(&**key, &**value);
        }
        if self.baggage {
            w3c::add_labels(labels, head.headers());
        }
    }
}
