//! Rules for the labels of a layer: their size, who may set them, and which must be there.

use std::borrow::Cow;
use std::sync::Arc;

use super::layer::ApertureLayer;

impl<D, R> ApertureLayer<D, R> {
    /// Sets how many bytes a label's value may have that is read from a request; 200 by default.
    ///
    /// A longer value is [shortened](crate::Labels#long-values) to a text that is still its own, so
    /// that a limit by it holds, and counted in
    /// [`ClientStats::labels_shortened`](crate::ClientStats::labels_shortened). Whatever a reader
    /// finds counts as a client's choice, closures and extensions included; constants do not. A
    /// policy that compares values beyond the limit needs a higher one. The attributes of a layer that
    /// asks [by them](Self::http) are bounded in the same way. With fewer than 32 bytes
    /// the value is a hash of 32 bytes. An Agent does not limit keys of 256 bytes and more, label
    /// and value together.
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

    /// Keeps a key for the application: no member of `baggage` sets it.
    ///
    /// Keys of [`label`](Self::label), [`label_from`](Self::label_from),
    /// [`label_from_header`](Self::label_from_header) and
    /// [`require_label`](Self::require_label) are kept already, also for requests in which their
    /// readers find nothing. This is for keys that only closures of [`labels`](Self::labels) know.
    ///
    /// ```
    /// # let client = tower_aperture::ApertureClient::disabled();
    /// use tower_aperture::{ApertureLayer, Labels, RequestHead};
    ///
    /// /// Left by the layer that checks who calls.
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

    /// Rejects requests without a value for this label, before anybody is asked: without it, each
    /// limiter by this label would be skipped and the request run without a limit. May be called
    /// several times.
    ///
    /// Such a request is answered 400, a gRPC call `INVALID_ARGUMENT`, by the same
    /// [hook](Self::on_reject) as other rejections, with
    /// [`RejectReason::MissingLabel`](crate::RejectReason::MissingLabel) and the label in
    /// [`Rejection::missing_label`](crate::Rejection::missing_label). It is no flow, so clients do
    /// not count it. In [shadow mode](Self::shadow_mode) it is asked about like any other.
    ///
    /// An empty value counts as none, and so does a member of `baggage` with this key: to accept
    /// it, read it by name with [`baggage_member`](crate::layer::baggage_member). Labels of
    /// classifiers are made later and do not count.
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
