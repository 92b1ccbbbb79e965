//! Asking with the attributes of a request: Aperture's `CheckHTTP`.

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

use self::capture::Captured;
use super::extract::{AddressHook, ClientAddress, joined_header};
use super::head::RequestHead;
use crate::flow::headers::first;
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
    /// Out of line, so that others do not pay for it.
    #[cold]
    #[inline(never)]
    pub(crate) fn ask<D: Decider>(
        &self,
        decider: &D,
        control_point: &str,
        params: &FlowParams<'_>,
        head: RequestHead<'_>,
    ) -> Check<D::Ticket, D::Pending> {
        decider.decide_http(control_point, params, &self.attributes(head))
    }

    fn attributes<'a>(&'a self, head: RequestHead<'a>) -> HttpAttributes<'a> {
        let uri = head.uri();
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        let mut attributes = HttpAttributes::new(head.method().as_str(), path);
        attributes.host = match uri.authority() {
            Some(authority) => without_user(authority),
            None => head.header("host").unwrap_or(""),
        };
        attributes.scheme = uri.scheme_str().unwrap_or(&self.scheme);
        attributes.protocol = protocol(head.version());
        attributes.size = first(head.headers(), &header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok())
            .unwrap_or(-1);
        attributes.headers.extend(
            self.headers
                .iter()
                .filter_map(|name| Some((name.as_str(), joined_header(head.headers(), name)?))),
        );
        if let Some(Captured(body)) = head.extensions().get() {
            attributes.body = body;
        }
        attributes.source = self.source.as_ref().and_then(|source| source.socket(head));
        attributes.destination = self
            .destination
            .as_ref()
            .and_then(|read| read(head.extensions()));
        attributes
    }
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
