use std::borrow::Cow;

use crate::flow::baggage;
use crate::layer::RequestHead;

/// Reads one member of the `baggage` header (W3C Baggage), percent-decoded once; empty where it is
/// not there. Each member is judged alone: a malformed one is skipped, and of a repeated one the
/// last that is well formed counts. Borrows, unless something is encoded.
///
/// Members become labels of their own names [anyway](crate::ApertureLayer::baggage), unless that
/// is off: this is for another name, or for a control point.
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
