//! Reads members of the `baggage` header.

use std::borrow::Cow;

use crate::flow::baggage;
use crate::layer::head::RequestHead;

/// Returns a reader of one member of the `baggage` header (W3C Baggage), percent-decoded once. The
/// value is empty if the member is missing.
///
/// A malformed member is skipped without affecting others. If a member is repeated, the last
/// well-formed one counts. The value is borrowed unless it is encoded.
///
/// By default, all members become labels under
/// [their own names](crate::ApertureLayer::baggage). Use this reader for a label with another name,
/// or for a control point.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use tower_aperture::ApertureLayer;
/// use tower_aperture::layer::baggage_member;
///
/// let layer = ApertureLayer::new(client, "checkout")
///     .baggage(false)
///     .label_from("tenant", baggage_member("tenant-id"));
/// # let _ = layer;
/// ```
pub fn baggage_member(
    key: impl Into<Cow<'static, str>>,
) -> impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Clone + Send + Sync + 'static {
    let key = key.into();
    move |head: RequestHead<'_>| baggage::member(head.headers(), &key).unwrap_or_default()
}
