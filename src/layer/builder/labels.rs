//! Builder methods for labels: their sources, their size, reserved and required keys, and known
//! names.

use std::borrow::Cow;
use std::sync::Arc;

use crate::flow::{LabelLimits, Labels};
use crate::layer::error::{LayerError, unwrap_or_panic};
use crate::layer::extract::{LabelReader, allowed_header};
use crate::layer::head::RequestHead;
use crate::layer::layer::ApertureLayer;

impl<D, R> ApertureLayer<D, R> {
    /// Sets a label for all requests; a later call for the same key replaces the earlier one.
    ///
    /// A label of the same key that is read from the request replaces it. Members of `baggage`
    /// never set the key.
    #[must_use]
    pub fn label(
        self,
        key: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.set(|settings| settings.extract.add_constant(key.into(), value.into()))
    }

    /// Reads a label from a header, if the request has the header.
    ///
    /// Several values are joined by commas. A value that is empty, blank, or not visible ASCII
    /// counts as missing, see [`header`](crate::layer::header); a constant [label](Self::label) of
    /// the same key then serves as the default. Only headers that are named here are sent to the
    /// decider, and secrets are never sent. Do not rely on headers that clients can set: a client
    /// that chooses its label chooses its limit.
    ///
    /// # Panics
    ///
    /// If `header` is not a valid header name, or names a secret: `authorization`,
    /// `proxy-authorization`, `cookie`, `set-cookie`;
    /// [`try_label_from_header`](Self::try_label_from_header) returns that as an error.
    #[must_use]
    #[track_caller]
    pub fn label_from_header(
        self,
        key: impl Into<Cow<'static, str>>,
        header: impl AsRef<str>,
    ) -> Self {
        unwrap_or_panic(self.try_label_from_header(key, header))
    }

    /// Like [`label_from_header`](Self::label_from_header), for names from a configuration.
    ///
    /// # Errors
    ///
    /// If `header` is not a valid header name, or names a secret.
    pub fn try_label_from_header(
        self,
        key: impl Into<Cow<'static, str>>,
        header: impl AsRef<str>,
    ) -> Result<Self, LayerError> {
        let reader = LabelReader::Header(key.into(), allowed_header(header.as_ref())?);
        Ok(self.set(|settings| settings.extract.add_reader(reader)))
    }

    /// Reads a label from the request with a closure or a reader; an empty text sets no label.
    ///
    /// [`extension_str`](crate::layer::extension_str) and [`extension`](crate::layer::extension)
    /// return such readers.
    ///
    /// An embedded engine asks for the labels that its policies name, so the reader of another label
    /// does not run. A reader may also run several times for one request, and must return the same
    /// text each time.
    #[must_use]
    pub fn label_from<F>(self, key: impl Into<Cow<'static, str>>, read: F) -> Self
    where
        F: for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static,
    {
        let reader = LabelReader::Text(key.into(), Arc::new(read));
        self.set(|settings| settings.extract.add_reader(reader))
    }

    /// Reads any number of labels from the request.
    ///
    /// A layer with such a closure reads all labels of each request. [`label_from`](Self::label_from)
    /// costs less: its readers run only for labels that policies name.
    ///
    /// All readers run in the order in which they were added; a later value of the same key
    /// replaces an earlier one. The layer cannot tell which keys the closure sets: reserve them
    /// with [`reserve_label`](Self::reserve_label) if clients must not set them by `baggage`.
    #[must_use]
    pub fn labels<F>(self, read: F) -> Self
    where
        F: for<'h> Fn(RequestHead<'h>, &mut Labels<'h>) + Send + Sync + 'static,
    {
        let reader = LabelReader::Labels(Arc::new(read));
        self.set(|settings| settings.extract.add_reader(reader))
    }

    /// Sets whether members of the `baggage` header (W3C Baggage) become labels; on by default.
    ///
    /// While this is on, a client can set any label that the layer does not name: a key, a tier or
    /// a priority that policies use and that has no other source. Members never replace a label
    /// from another source, and never set a key that the layer names, even if the reader of that
    /// key returns no value. Turn this off if untrusted clients reach the layer directly.
    ///
    /// Each header line and each member is parsed separately; a malformed member is skipped. The
    /// last 180 members of a line are used, and the last value of a repeated key. Members get the
    /// space that other labels leave. If it is too small, the lines share it, starting with the
    /// last line.
    #[must_use]
    pub fn baggage(self, baggage: bool) -> Self {
        self.set(|settings| settings.extract.baggage = baggage)
    }

    /// Sets the largest number of labels of a flow, and their largest size in bytes; see
    /// [`LabelLimits`] for the defaults.
    ///
    /// Beyond the limits, members of `baggage` are dropped first. Then values that clients can
    /// choose are shortened, the longest first, and then dropped. Constants are dropped last.
    #[must_use]
    pub fn label_limits(self, limits: LabelLimits) -> Self {
        self.set(|settings| settings.extract.limits = limits)
    }

    /// Sets the largest length, in bytes, of a label value that is read from a request; 200 by
    /// default.
    ///
    /// A longer value is [shortened](crate::Labels#long-values) to a text that is still unique to
    /// it, so that limits by this label hold. It is counted in
    /// [`ClientStats::labels_shortened`](crate::ClientStats::labels_shortened). The limit applies
    /// to the values of all readers, including closures and extensions, but not to constants. A
    /// policy that compares longer values needs a higher limit. The limit also applies to the
    /// attributes that a layer made by [`http`](Self::http) sends. With a limit below 32 bytes, the
    /// shortened value is a hash of 32 bytes. An Agent does not limit keys of 256 bytes or more,
    /// label and value together.
    ///
    /// ```
    /// # let client = tower_aperture::ApertureClient::disabled();
    /// let layer = tower_aperture::ApertureLayer::new(client, "checkout")
    ///     .label_from("path", |head| head.uri().path().into())
    ///     .label_value_limit(1024);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn label_value_limit(self, bytes: usize) -> Self {
        self.set(|settings| settings.extract.value_limit = bytes)
    }

    /// Reserves a key for the application, so that members of `baggage` cannot set it.
    ///
    /// The keys of [`label`](Self::label), [`label_from`](Self::label_from),
    /// [`label_from_header`](Self::label_from_header) and
    /// [`require_label`](Self::require_label) are always reserved, even for requests in which their
    /// readers return no value. Call this for keys that only a closure of [`labels`](Self::labels)
    /// sets.
    ///
    /// ```
    /// # let client = tower_aperture::ApertureClient::disabled();
    /// use tower_aperture::{ApertureLayer, Labels, RequestHead};
    ///
    /// /// Inserted by the layer that authenticates callers.
    /// #[derive(Clone)]
    /// struct Account { tier: &'static str }
    ///
    /// let layer = ApertureLayer::new(client, "checkout")
    ///     .labels(|head: RequestHead<'_>, labels: &mut Labels<'_>| {
    ///         if let Some(account) = head.extensions().get::<Account>() {
    ///             labels.insert("tier", account.tier);
    ///         }
    ///     })
    ///     .reserve_label("tier");
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn reserve_label(self, key: impl Into<Cow<'static, str>>) -> Self {
        self.set(|settings| settings.extract.reserve_key(key.into()))
    }

    /// Rejects requests without a value for this label, before the check. Without the label, every
    /// limiter by this label would be skipped and the request would run without a limit. May be
    /// called several times, for several labels.
    ///
    /// Such a request gets status 400, a gRPC call `INVALID_ARGUMENT`, by the same
    /// [hook](Self::on_reject) as other rejections. The reason is
    /// [`RejectReason::MissingLabel`](crate::RejectReason::MissingLabel), and
    /// [`Rejection::missing_label`](crate::Rejection::missing_label) returns the label. The request
    /// is not a flow, so clients do not count it. In [shadow mode](Self::shadow_mode) the request
    /// is checked like any other.
    ///
    /// An empty value counts as missing, and so does a member of `baggage` with this key. To accept
    /// that member, read it by name with [`baggage_member`](crate::layer::baggage_member). Labels
    /// of classifiers are made later and do not count.
    ///
    /// ```
    /// # let client = tower_aperture::ApertureClient::disabled();
    /// let layer = tower_aperture::ApertureLayer::new(client, "checkout")
    ///     .label_from_header("user_id", "x-user-id")
    ///     .require_label("user_id");
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn require_label(self, key: impl Into<Arc<str>>) -> Self {
        self.set(|settings| settings.extract.require_key(key.into()))
    }

    /// Lists the valid names, for control points that a hook reads from requests and for labels
    /// that [`grpc_service`](crate::layer::grpc_service) and
    /// [`grpc_method`](crate::layer::grpc_method) read. Any other name is replaced by
    /// [`other`](crate::layer::FALLBACK_NAME), unless a policy of an embedded engine names it.
    /// Later calls add to the list.
    ///
    /// Without a list, a layer in front of an Agent accepts the first 1024 names that appear in
    /// requests. A client that invents names can use them up before the valid ones appear. See
    /// [names that clients choose](crate::layer#names-that-clients-choose).
    ///
    /// ```
    /// # let client = tower_aperture::ApertureClient::disabled();
    /// use tower_aperture::ApertureLayer;
    /// use tower_aperture::layer::{grpc_method, grpc_service};
    ///
    /// let layer = ApertureLayer::with_control_point(client, grpc_service)
    ///     .label_from("method", grpc_method)
    ///     .known_names(["shop.v1.Carts", "shop.v1.Orders"])
    ///     .known_names(["Add", "Remove", "List"]);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn known_names(self, names: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        let names = names.into_iter().map(Into::into);
        self.set(|settings| settings.names = Arc::new(settings.names.listing(names)))
    }
}
