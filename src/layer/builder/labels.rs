//! Builder methods for labels: their size, the keys reserved for the application, and the keys that
//! are required.

use std::borrow::Cow;
use std::sync::Arc;

use super::layer::ApertureLayer;

impl<D, R> ApertureLayer<D, R> {
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
}
