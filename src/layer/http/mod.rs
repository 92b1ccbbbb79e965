//! Asking with the attributes of a request: Aperture's `CheckHTTP`.

mod bounds;
mod capture;
mod options;
mod reject;
mod replay;

use std::borrow::Cow;

use http::Version;
use http::header::{self, HeaderName};
use http::uri::Authority;

pub use self::capture::{CaptureBody, CaptureBodyFuture, CaptureBodyService};
pub use self::reject::{AgentReject, AgentRejectBody};
pub use self::replay::ReplayBody;

use self::bounds::Bounds;
use self::capture::Captured;
use super::extract::{AddressHook, ClientAddress, joined_header};
use super::head::RequestHead;
use crate::flow::headers::first_value;
use crate::flow::{Check, Decider, FlowParams, HttpAttributes};

/// What goes out about a request.
#[derive(Clone, Default)]
pub(crate) struct HttpMode {
    /// The headers that may travel.
    headers: Vec<HeaderName>,
    source: Option<ClientAddress>,
    destination: Option<AddressHook>,
    /// Where the request's own target has none.
    scheme: Cow<'static, str>,
}

impl HttpMode {
    /// Asks with the attributes of a request, each text of it within `value_limit`. Those that
    /// are shortened are counted with the labels.
    ///
    /// Out of line, so that others do not pay for it.
    #[cold]
    #[inline(never)]
    pub(crate) fn ask<D: Decider>(
        &self,
        decider: &D,
        control_point: &str,
        params: &mut FlowParams<'_>,
        value_limit: usize,
        head: RequestHead<'_>,
    ) -> Check<D::Ticket, D::Pending> {
        let mut bounds = Bounds::new(value_limit);
        let uri = head.uri();
        let method = bounds.method(head.method().as_str());
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        let path = bounds.target(path);
        let host = match uri.authority() {
            Some(authority) => without_user(authority),
            None => head.header("host").unwrap_or(""),
        };
        let host = bounds.text(Cow::Borrowed(host));
        let mut attributes = HttpAttributes::new(&method, &path);
        attributes.host = &host;
        attributes.scheme = uri.scheme_str().unwrap_or(&self.scheme);
        attributes.protocol = protocol(head.version());
        attributes.size = first_value(head.headers(), &header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok())
            .unwrap_or(-1);
        attributes
            .headers
            .extend(self.headers.iter().filter_map(|name| {
                let value = joined_header(head.headers(), name)?;
                Some((name.as_str(), bounds.text(value)))
            }));
        if let Some(captured) = captured(head) {
            attributes.body = captured.text();
            if let Some(partial) = captured.partial() {
                let headers = &mut attributes.headers;
                // A client's header of that name must not say otherwise.
                headers.retain(|(name, _)| *name != HttpAttributes::PARTIAL_BODY);
                headers.push((HttpAttributes::PARTIAL_BODY, Cow::Borrowed(partial)));
            }
        }
        attributes.source = self.source.as_ref().and_then(|source| source.socket(head));
        attributes.destination = self
            .destination
            .as_ref()
            .and_then(|read| read(head.extensions()));
        params.labels.count_shortened(bounds.shortened);
        decider.decide_http(control_point, params, &attributes)
    }
}

/// Returns true where [`CaptureBody`] found a body too long to be shown to policies.
pub(crate) fn body_too_large(head: RequestHead<'_>) -> bool {
    captured(head).is_some_and(Captured::is_too_large)
}

fn captured(head: RequestHead<'_>) -> Option<&Captured> {
    head.extensions().get()
}

/// A name or password in front of the host is nobody's business.
fn without_user(authority: &Authority) -> &str {
    let text = authority.as_str();
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "",
    }
}
