//! Checks with the attributes of an HTTP request: Aperture's `CheckHTTP`.

mod bounds;
mod capture;
mod reject;
mod replay;

use std::borrow::Cow;

use http::Version;
use http::header::{self, HeaderName};
use http::uri::Authority;

pub use self::capture::{CaptureBody, CaptureBodyFuture, CaptureBodyService};
pub use self::reject::{AgentReject, AgentRejectBody};
pub use self::replay::ReplayBody;

use self::bounds::AttributeBounds;
use self::capture::CapturedBody;
use super::extract::{AddressHook, ClientAddress, joined_header};
use super::head::RequestHead;
use crate::flow::headers::first_value;
use crate::flow::{Check, Decider, FlowParams, HttpAttributes};

/// Selects the attributes of a request that are sent with a check.
#[derive(Clone, Default)]
pub(crate) struct HttpCheckSettings {
    /// The headers that are sent.
    pub(crate) headers: Vec<HeaderName>,
    pub(crate) source: Option<ClientAddress>,
    pub(crate) destination: Option<AddressHook>,
    /// The scheme of requests whose target has none.
    pub(crate) scheme: Cow<'static, str>,
}

impl HttpCheckSettings {
    /// Starts a check with the attributes of a request, with each text bounded to `value_limit`
    /// bytes. Texts that are shortened are counted together with shortened labels.
    ///
    /// Not inlined, to keep the code of other checks small.
    #[cold]
    #[inline(never)]
    pub(crate) fn check<D: Decider>(
        &self,
        decider: &D,
        control_point: &str,
        params: &mut FlowParams<'_>,
        value_limit: usize,
        head: RequestHead<'_>,
    ) -> Check<D::Ticket, D::Pending> {
        let mut bounds = AttributeBounds::new(value_limit);
        let uri = head.uri();
        let method = bounds.method(head.method().as_str());
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        let path = bounds.target(path);
        let host = match uri.authority() {
            Some(authority) => without_user_info(authority),
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
            if let Some(partial) = captured.partial_header() {
                let headers = &mut attributes.headers;
                // Replaces a header of that name from the client.
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

/// Returns true if [`CaptureBody`] found a body that is too long to be sent to policies.
pub(crate) fn body_too_large(head: RequestHead<'_>) -> bool {
    captured(head).is_some_and(CapturedBody::is_too_large)
}

fn captured(head: RequestHead<'_>) -> Option<&CapturedBody> {
    head.extensions().get()
}

/// Returns the host and port, without a user name or password, which must not be sent.
fn without_user_info(authority: &Authority) -> &str {
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
