//! The description of an HTTP request, and its validation.

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// The input of an HTTP check: Aperture's `CheckHTTPRequest`.
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
///     panic!("the only token is taken");
/// };
/// assert_eq!((status, &*headers["retry-after"]), (429, "6"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpInput<'a> {
    pub(super) control_point: &'a str,
    pub(super) source: Option<SocketAddress<'a>>,
    pub(super) destination: Option<SocketAddress<'a>>,
    pub(super) source_services: &'a [&'a str],
    pub(super) destination_services: &'a [&'a str],
    pub(super) request: Option<HttpRequest<'a>>,
    pub(super) ramp_mode: bool,
    pub(super) quotas: bool,
    pub(super) shadow: bool,
    pub(super) expect_end: bool,
    pub(super) deadline: Option<Duration>,
}

impl<'a> HttpInput<'a> {
    /// Creates the input for a request at a control point, which must not be empty. All attributes
    /// are unknown.
    #[must_use]
    pub fn new(control_point: &'a str) -> Self {
        Self {
            control_point,
            ..Self::default()
        }
    }

    /// Sets the request; without it, no labels are derived from a request.
    #[must_use]
    pub const fn request(mut self, request: HttpRequest<'a>) -> Self {
        self.request = Some(request);
        self
    }

    /// Sets the address of the sender.
    #[must_use]
    pub const fn source(mut self, source: SocketAddress<'a>) -> Self {
        self.source = Some(source);
        self
    }

    /// Sets the address of the receiver.
    #[must_use]
    pub const fn destination(mut self, destination: SocketAddress<'a>) -> Self {
        self.destination = Some(destination);
        self
    }

    /// Sets the services at the source, from your service discovery; an empty slice means unknown.
    #[must_use]
    pub const fn source_services(mut self, services: &'a [&'a str]) -> Self {
        self.source_services = services;
        self
    }

    /// Sets the services at the destination, from your service discovery; an empty slice means
    /// unknown. Selectors may require one of them.
    #[must_use]
    pub const fn destination_services(mut self, services: &'a [&'a str]) -> Self {
        self.destination_services = services;
        self
    }

    /// Sets ramp mode, in which the request runs only where a ramp accepts it.
    #[must_use]
    pub const fn ramp_mode(mut self, ramp_mode: bool) -> Self {
        self.ramp_mode = ramp_mode;
        self
    }

    /// Sets whether the ticket reports quotas, see
    /// [`FlowParams::quotas`](aperture_core::FlowParams::quotas).
    #[must_use]
    pub const fn quotas(mut self, quotas: bool) -> Self {
        self.quotas = quotas;
        self
    }

    /// Sets shadow mode: the request runs whatever the decision, and so does not wait; see
    /// [`FlowParams::shadow`](aperture_core::FlowParams::shadow).
    #[must_use]
    pub const fn shadow(mut self, shadow: bool) -> Self {
        self.shadow = shadow;
        self
    }

    /// Sets whether the caller will report the end of the flow.
    #[must_use]
    pub const fn expect_end(mut self, expect_end: bool) -> Self {
        self.expect_end = expect_end;
        self
    }

    /// Sets the time that is left for the decision, see
    /// [`CheckInput::deadline`](super::CheckInput).
    #[must_use]
    pub const fn deadline(mut self, left: Option<Duration>) -> Self {
        self.deadline = left;
        self
    }

    /// Validates the input in the order in which an Agent validates a message.
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

/// The attributes of an HTTP request, as text. An unknown attribute is empty, or `-1` for the size.
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
    /// The method.
    pub method: &'a str,
    /// The target with its query, not decoded.
    pub path: &'a str,
    /// The authority.
    pub host: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The protocol version, such as `HTTP/1.1`.
    pub protocol: &'a str,
    /// The size of the body in bytes.
    pub size: i64,
    /// The body, or the beginning of it.
    pub body: &'a str,
    /// Names and values. Classifiers, and the search for `baggage`, compare names exactly.
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

/// Omits headers, body and path, which may identify people.
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
    pub(super) address: &'a str,
    pub(super) port: u32,
}

impl<'a> SocketAddress<'a> {
    /// Creates an address of any form, which must not be empty, with a port of at most 65535.
    #[must_use]
    pub const fn new(address: &'a str, port: u32) -> Self {
        Self {
            protocol: 0,
            address,
            port,
        }
    }

    /// Sets the protocol: 0 for TCP, the default, or 1 for UDP.
    #[must_use]
    pub const fn protocol(mut self, protocol: i32) -> Self {
        self.protocol = protocol;
        self
    }

    /// Returns the first flaw, in the order of the fields in the message.
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

/// The error of a malformed HTTP check.
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
    /// The control point is empty.
    NoControlPoint,
    /// An address is malformed: `Source` or `Destination`, and its flaw.
    Address(&'static str, AddressFlaw),
}

/// The flaw of a malformed address.
///
/// See [`HttpInputError`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressFlaw {
    /// The protocol is neither TCP nor UDP.
    Protocol,
    /// The address is empty.
    Address,
    /// The port is above 65535.
    Port,
}

impl HttpInputError {
    /// Returns the code of the gRPC status that an Agent answers with.
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
