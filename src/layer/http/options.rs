use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::HeaderName;

use super::{AgentReject, HttpMode};
use crate::layer::error::LayerError;
use crate::layer::extract::{ClientAddress, allowed_header};
use crate::layer::layer::{ApertureLayer, unwrap_or_panic};

impl<D> ApertureLayer<D> {
    /// A layer that asks with the attributes of each request (an Agent's `CheckHTTP`), so that the
    /// policies' own classifiers make labels of them.
    ///
    /// | attribute | is |
    /// |---|---|
    /// | method, protocol | as text: `GET`, `HTTP/1.1`, `HTTP/2` |
    /// | path | path and query as sent; policies see it as `http.target`, so keep secrets out of it |
    /// | host | `:authority` or `host`, without a user |
    /// | scheme | of the target, else [`scheme`](Self::scheme) |
    /// | size | `content-length`, or -1 |
    /// | headers | those that [`send_header`](Self::send_header) names, several values joined by commas, what is not UTF-8 as U+FFFD |
    /// | body | none, unless [`CaptureBody`](crate::layer::CaptureBody) reads it, which also rejects requests with longer bodies |
    /// | source | of [`source`](Self::source) |
    /// | destination | of [`destination`](Self::destination) |
    ///
    /// A client chooses most of these texts, so each is bounded like a
    /// [label](crate::Labels#long-values): beyond [200 bytes](Self::label_value_limit) a header,
    /// the host, a segment of the path, and a name or a value of the query become 64 bytes of their
    /// own and a hash, and are counted as
    /// [shortened](crate::ClientStats::labels_shortened). A long one hides no other one, and a
    /// limit by it holds. A classifier that parses long texts needs a higher limit. The whole check
    /// always fits into the 4 MiB that Agents accept.
    ///
    /// The layer's own labels, and members of the request's `baggage` that they leave room for,
    /// travel as one `baggage` header. The answer's headers are set on the request, in place of
    /// its own: `baggage` then has the labels that classifiers made too. A rejected request is
    /// answered by [`AgentReject`]. Cache keys are not looked up, there is no place for them.
    ///
    /// ```
    /// # let client = tower_aperture::ApertureClient::disabled();
    /// use std::net::SocketAddr;
    ///
    /// use axum::extract::ConnectInfo;
    /// use tower_aperture::ApertureLayer;
    /// use tower_aperture::layer::ClientAddress;
    ///
    /// let peer = ClientAddress::of(|ConnectInfo(peer): &ConnectInfo<SocketAddr>| Some(*peer));
    /// let layer = ApertureLayer::http(client, "ingress")
    ///     .send_header("user-agent")
    ///     .source(peer.trust("10.0.0.0/8"))
    ///     .label("service", "shop");
    /// # let _ = layer;
    /// ```
    ///
    /// # Panics
    ///
    /// If the control point is empty; [`try_http`](Self::try_http) returns that as an error.
    #[must_use]
    #[track_caller]
    pub fn http(decider: D, control_point: impl Into<Arc<str>>) -> ApertureLayer<D, AgentReject> {
        unwrap_or_panic(Self::try_http(decider, control_point))
    }

    /// Like [`http`](Self::http), for a control point from a configuration.
    ///
    /// # Errors
    ///
    /// If the control point is empty.
    pub fn try_http(
        decider: D,
        control_point: impl Into<Arc<str>>,
    ) -> Result<ApertureLayer<D, AgentReject>, LayerError> {
        Ok(Self::try_new(decider, control_point)?.check_http())
    }

    /// Makes any layer ask as [`http`](Self::http) does; a hook for rejected requests comes after
    /// it.
    #[must_use]
    pub fn check_http(self) -> ApertureLayer<D, AgentReject> {
        self.set_http(|_| ()).reject_with(AgentReject)
    }
}

impl<D, R> ApertureLayer<D, R> {
    fn set_http(self, set: impl FnOnce(&mut HttpMode)) -> Self {
        self.set(|settings| set(settings.http.get_or_insert_default()))
    }

    /// Sends a header along where the request has it; none travels without being named. Like all
    /// that is about attributes, this makes the layer ask [by attributes](Self::http).
    ///
    /// # Panics
    ///
    /// If this is not the name of a header, or that of a secret, see
    /// [`label_from_header`](Self::label_from_header);
    /// [`try_send_header`](Self::try_send_header) returns that as an error.
    #[must_use]
    #[track_caller]
    pub fn send_header(self, name: impl AsRef<str>) -> Self {
        unwrap_or_panic(self.try_send_header(name))
    }

    /// Like [`send_header`](Self::send_header) for names from a configuration.
    ///
    /// # Errors
    ///
    /// If this is not the name of a header, or that of a secret.
    pub fn try_send_header(self, name: impl AsRef<str>) -> Result<Self, LayerError> {
        let name: HeaderName = allowed_header(name.as_ref())?;
        Ok(self.set_http(|http| {
            if !http.headers.contains(&name) {
                http.headers.push(name);
            }
        }))
    }

    /// Says where the sender's address comes from; without it, or where it is not known, none is
    /// sent. The port is 0 when a proxy told the address without one. A client that a trusted proxy
    /// names unreadably is 0.0.0.0, so that all such clients share one key. See
    /// [`http`](Self::http).
    #[must_use]
    pub fn source(self, address: ClientAddress) -> Self {
        self.set_http(|http| http.source = Some(address))
    }

    /// Reads the server's own address from an extension; without it none is sent. See
    /// [`http`](Self::http).
    #[must_use]
    pub fn destination<T, F>(self, read: F) -> Self
    where
        T: Send + Sync + 'static,
        F: Fn(&T) -> Option<SocketAddr> + Send + Sync + 'static,
    {
        self.set_http(|http| {
            http.destination = Some(Arc::new(move |extensions| read(extensions.get::<T>()?)));
        })
    }

    /// The scheme of requests whose target has none, which is the rule for HTTP/1 servers: `https`
    /// where you end TLS. Empty by default. See [`http`](Self::http).
    #[must_use]
    pub fn scheme(self, scheme: impl Into<Cow<'static, str>>) -> Self {
        self.set_http(|http| http.scheme = scheme.into())
    }
}
