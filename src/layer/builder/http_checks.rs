//! Builder methods for checks with the attributes of requests.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::HeaderName;

use crate::layer::error::{LayerError, unwrap_or_panic};
use crate::layer::extract::{ClientAddress, allowed_header};
use crate::layer::http::{AgentReject, HttpCheckSettings};
use crate::layer::layer::ApertureLayer;

impl<D> ApertureLayer<D> {
    /// Returns a layer that checks with the attributes of each request (an Agent's `CheckHTTP`), so
    /// that the classifiers of policies can make labels from them.
    ///
    /// | attribute | value |
    /// |---|---|
    /// | method, protocol | as text: `GET`, `HTTP/1.1`, `HTTP/2` |
    /// | path | path and query as sent; policies see it as `http.target`, so keep secrets out of it |
    /// | host | `:authority` or `host`, without user information |
    /// | scheme | that of the target, else [`scheme`](Self::scheme) |
    /// | size | `content-length`, or -1 |
    /// | headers | those named with [`send_header`](Self::send_header), several values joined by commas, with U+FFFD for bytes that are not UTF-8 |
    /// | body | empty, unless [`CaptureBody`](crate::layer::CaptureBody) reads it, which also rejects requests with longer bodies |
    /// | source | set with [`source`](Self::source) |
    /// | destination | set with [`destination`](Self::destination) |
    ///
    /// Clients choose most of these texts, so each is bounded like a
    /// [label](crate::Labels#long-values). A header, the host, a segment of the path, and a name or
    /// value of the query of more than [200 bytes](Self::label_value_limit) are replaced by their
    /// first 64 bytes and a hash, and counted as
    /// [shortened](crate::ClientStats::labels_shortened). A long text does not displace others, and
    /// limits by it still work. A classifier that parses long texts needs a higher limit. The whole
    /// check always fits into the 4 MiB that Agents accept.
    ///
    /// The layer's own labels, and the members of the request's `baggage` that fit beside them, are
    /// sent as one `baggage` header. The headers of the decision replace those of the request, so
    /// that its `baggage` then also has the labels that classifiers made. Rejections become
    /// responses by [`AgentReject`]. Cache keys are not looked up, because such checks cannot carry
    /// them.
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
    /// If the control point is empty; [`try_http`](Self::try_http) returns an error instead.
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

    /// Makes the layer check with the attributes of requests, as [`http`](Self::http) does. It
    /// replaces the reject hook, so set a hook of your own afterwards.
    #[must_use]
    pub fn check_http(self) -> ApertureLayer<D, AgentReject> {
        self.set_http(|_| ()).reject_with(AgentReject)
    }
}

impl<D, R> ApertureLayer<D, R> {
    fn set_http(self, set: impl FnOnce(&mut HttpCheckSettings)) -> Self {
        self.set(|settings| set(settings.http.get_or_insert_default()))
    }

    /// Sends a header of the request with its check. Only headers that are named this way are sent.
    /// Like all options for attributes, this makes the layer check
    /// [with attributes](Self::http).
    ///
    /// # Panics
    ///
    /// If the name is not a valid header name, or if the header holds a secret, see
    /// [`label_from_header`](Self::label_from_header);
    /// [`try_send_header`](Self::try_send_header) returns an error instead.
    #[must_use]
    #[track_caller]
    pub fn send_header(self, name: impl AsRef<str>) -> Self {
        unwrap_or_panic(self.try_send_header(name))
    }

    /// Like [`send_header`](Self::send_header), for names from a configuration.
    ///
    /// # Errors
    ///
    /// If the name is not a valid header name, or if the header holds a secret.
    pub fn try_send_header(self, name: impl AsRef<str>) -> Result<Self, LayerError> {
        let name: HeaderName = allowed_header(name.as_ref())?;
        Ok(self.set_http(|http| {
            if !http.headers.contains(&name) {
                http.headers.push(name);
            }
        }))
    }

    /// Sets the reader of the client's address. Without it, or if the address is unknown, none is
    /// sent. The port is 0 if a proxy reported the address without one. If a trusted proxy reports
    /// an address that cannot be read, 0.0.0.0 is sent, so that all such clients share one key. See
    /// [`http`](Self::http).
    #[must_use]
    pub fn source(self, address: ClientAddress) -> Self {
        self.set_http(|http| http.source = Some(address))
    }

    /// Reads the address of the server from an extension of the request. Without it none is sent.
    /// See [`http`](Self::http).
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

    /// Sets the scheme of requests whose target has none, as is usual for HTTP/1 servers: `https`
    /// if the server terminates TLS. Empty by default. See [`http`](Self::http).
    #[must_use]
    pub fn scheme(self, scheme: impl Into<Cow<'static, str>>) -> Self {
        self.set_http(|http| http.scheme = scheme.into())
    }
}
