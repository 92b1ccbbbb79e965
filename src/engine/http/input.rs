use std::error::Error;
use std::fmt;
use std::time::Duration;

/// A question about an HTTP request: Aperture's `CheckHTTPRequest`.
///
/// ```
/// use tower_aperture::engine::{Engine, HttpAnswer, HttpInput, HttpRequest};
///
/// let engine = Engine::builder()
///     .policy_text("by-kind", "
/// circuit:
///   components:
///   - flow_control:
///       rate_limiter:
///         selectors: [{control_point: ingress}]
///         in_ports:
///           bucket_capacity: {constant_signal: {value: 1}}
///           fill_amount: {constant_signal: {value: 10}}
///         parameters: {interval: 60s, limit_by_label_key: http.request.header.x_kind}
/// ")
///     .build()?;
/// let request = HttpRequest {
///     method: "GET",
///     path: "/cart?id=1",
///     headers: &[("x-kind", "mobile")],
///     ..HttpRequest::default()
/// };
/// let input = HttpInput::new("ingress").request(request);
/// assert!(engine.check_http(&input)?.accepted());
/// let HttpAnswer::Denied { status, headers } = engine.check_http(&input)?.answer else {
///     panic!("there was one token");
/// };
/// assert_eq!((status, &*headers["retry-after"]), (429, "6"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpInput<'a> {
    pub(super) control_point: &'a str,
    pub(in crate::engine) source: Option<SocketAddress<'a>>,
    pub(in crate::engine) destination: Option<SocketAddress<'a>>,
    pub(in crate::engine) source_services: &'a [&'a str],
    pub(super) destination_services: &'a [&'a str],
    pub(in crate::engine) request: Option<HttpRequest<'a>>,
    pub(super) ramp_mode: bool,
    pub(super) quotas: bool,
    pub(super) shadow: bool,
    pub(super) expect_end: bool,
    pub(super) deadline: Option<Duration>,
}

impl<'a> HttpInput<'a> {
    /// A request that nothing is known of, at a control point, which must not be empty.
    #[must_use]
    pub fn new(control_point: &'a str) -> Self {
        Self {
            control_point,
            ..Self::default()
        }
    }

    /// The request; without one there are no labels from it.
    #[must_use]
    pub const fn request(mut self, request: HttpRequest<'a>) -> Self {
        self.request = Some(request);
        self
    }

    /// Who sent the request.
    #[must_use]
    pub const fn source(mut self, source: SocketAddress<'a>) -> Self {
        self.source = Some(source);
        self
    }

    /// Who receives the request.
    #[must_use]
    pub const fn destination(mut self, destination: SocketAddress<'a>) -> Self {
        self.destination = Some(destination);
        self
    }

    /// The services at the source, from your discovery; none is unknown.
    #[must_use]
    pub const fn source_services(mut self, services: &'a [&'a str]) -> Self {
        self.source_services = services;
        self
    }

    /// The services at the destination, from your discovery; none is unknown. Selectors may ask
    /// for one of them.
    #[must_use]
    pub const fn destination_services(mut self, services: &'a [&'a str]) -> Self {
        self.destination_services = services;
        self
    }

    /// The request runs only where a ramp lets it.
    #[must_use]
    pub const fn ramp_mode(mut self, ramp_mode: bool) -> Self {
        self.ramp_mode = ramp_mode;
        self
    }

    /// Whether the ticket is to tell quotas, see [`FlowParams::quotas`](crate::FlowParams::quotas).
    #[must_use]
    pub const fn quotas(mut self, quotas: bool) -> Self {
        self.quotas = quotas;
        self
    }

    /// The request is going to run, whatever is decided, and so does not wait; see
    /// [`FlowParams::shadow`](crate::FlowParams::shadow).
    #[must_use]
    pub const fn shadow(mut self, shadow: bool) -> Self {
        self.shadow = shadow;
        self
    }

    /// The asker promises to tell the end of the flow.
    #[must_use]
    pub const fn expect_end(mut self, expect_end: bool) -> Self {
        self.expect_end = expect_end;
        self
    }

    /// How much time is left to decide, see [`CheckInput::deadline`](super::super::CheckInput).
    #[must_use]
    pub const fn deadline(mut self, left: Option<Duration>) -> Self {
        self.deadline = left;
        self
    }

    /// As an Agent checks a message before it looks at it.
    pub(super) fn validate(&self) -> Result<(), HttpInputError> {
        for (name, address) in [("Source", self.source), ("Destination", self.destination)] {
            if let Some(flaw) = address.and_then(SocketAddress::flaw) {
                return Err(HttpInputError::Address(name, flaw));
            }
        }
        if self.control_point.is_empty() {
            return Err(HttpInputError::NoControlPoint);
        }
        Ok(())
    }
}

/// The attributes of an HTTP request, as text. What is not known is empty, or `-1` for the size.
///
/// ```
/// use tower_aperture::engine::HttpRequest;
///
/// let request = HttpRequest {
///     method: "POST",
///     path: "/orders?dry=1",
///     host: "shop.example",
///     scheme: "https",
///     protocol: "HTTP/2",
///     size: 14,
///     body: r#"{"cart": "42"}"#,
///     headers: &[("content-type", "application/json")],
/// };
/// # let _ = request;
/// ```
#[derive(Clone, Copy, Default)]
pub struct HttpRequest<'a> {
    /// The verb.
    pub method: &'a str,
    /// The target with its query, not decoded.
    pub path: &'a str,
    /// The authority.
    pub host: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Such as `HTTP/1.1`.
    pub protocol: &'a str,
    /// Bytes of the body.
    pub size: i64,
    /// The body, or the beginning of it.
    pub body: &'a str,
    /// Names and values. Classifiers look for names as they are here, and so does `baggage`.
    pub headers: &'a [(&'a str, &'a str)],
}

impl<'a> HttpRequest<'a> {
    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| *known == name)
            .map(|(_, value)| *value)
    }
}

/// Headers, body and path may identify people.
impl fmt::Debug for HttpRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("host", &self.host)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// One end of a connection.
///
/// ```
/// use tower_aperture::engine::SocketAddress;
///
/// let resolver = SocketAddress::new("2001:db8::1", 53).protocol(1);
/// # let _ = resolver;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SocketAddress<'a> {
    protocol: i32,
    address: &'a str,
    port: u32,
}

impl<'a> SocketAddress<'a> {
    /// An address of any form, which must not be empty, and a port, at most 65535.
    #[must_use]
    pub const fn new(address: &'a str, port: u32) -> Self {
        Self {
            protocol: 0,
            address,
            port,
        }
    }

    /// 0 for TCP, the default, or 1 for UDP.
    #[must_use]
    pub const fn protocol(mut self, protocol: i32) -> Self {
        self.protocol = protocol;
        self
    }

    /// The address and the port.
    #[cfg(feature = "rego")]
    pub(in crate::engine) const fn parts(self) -> (&'a str, u32) {
        (self.address, self.port)
    }

    /// Of several, the first in the message.
    fn flaw(self) -> Option<AddressFlaw> {
        if !matches!(self.protocol, 0 | 1) {
            Some(AddressFlaw::Protocol)
        } else if self.address.is_empty() {
            Some(AddressFlaw::Address)
        } else if self.port > 65535 {
            Some(AddressFlaw::Port)
        } else {
            None
        }
    }
}

/// Why a question about an HTTP request was not answered.
///
/// ```
/// use tower_aperture::engine::{Engine, HttpInput, SocketAddress};
///
/// let engine = Engine::builder().build()?;
/// let error = engine.check_http(&HttpInput::new("")).unwrap_err();
/// assert_eq!((error.grpc_code(), &*error.to_string()), (3, "missing control-point"));
///
/// let nowhere = HttpInput::new("ingress").source(SocketAddress::new("", 80));
/// assert_eq!(engine.check_http(&nowhere).unwrap_err().grpc_code(), 2);
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpInputError {
    /// There is no control point.
    NoControlPoint,
    /// An address is malformed: `Source` or `Destination`, and what is wrong with it.
    Address(&'static str, AddressFlaw),
}

/// What is wrong with an address.
///
/// See [`HttpInputError`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressFlaw {
    /// Neither TCP nor UDP.
    Protocol,
    /// Empty.
    Address,
    /// Above 65535.
    Port,
}

impl HttpInputError {
    /// The code of the gRPC status that an Agent answers with.
    #[must_use]
    pub const fn grpc_code(self) -> i32 {
        match self {
            Self::NoControlPoint => 3,
            Self::Address(..) => 2,
        }
    }
}

impl fmt::Display for HttpInputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, flaw) = match self {
            Self::NoControlPoint => return f.write_str("missing control-point"),
            Self::Address(name, flaw) => (name, flaw),
        };
        let flaw = match flaw {
            AddressFlaw::Protocol => "Protocol: value must be one of the defined enum values",
            AddressFlaw::Address => "Address: value length must be at least 1 runes",
            AddressFlaw::Port => "Port: value must be less than or equal to 65535",
        };
        write!(
            f,
            "invalid CheckHTTPRequest.{name}: embedded message failed validation | caused by: \
             invalid SocketAddress.{flaw}"
        )
    }
}

impl Error for HttpInputError {}
