//! Reads texts from request extensions.

use std::borrow::Cow;

use crate::layer::head::RequestHead;

/// Returns a reader that takes a text from a request extension, for a control point or a label. The
/// text is empty if the extension is missing.
///
/// Servers and routers add extensions to a request, such as axum's `MatchedPath` and tonic's
/// `GrpcMethod`. Pass the type of the extension and the function that reads it:
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use axum::extract::MatchedPath;
/// use tower_aperture::ApertureLayer;
/// use tower_aperture::layer::extension_str;
///
/// // One control point for each route.
/// ApertureLayer::with_control_point(
///     client.clone(),
///     extension_str::<MatchedPath>(MatchedPath::as_str),
/// );
/// // One control point for all routes, and the route as a label.
/// ApertureLayer::new(client, "shop")
///     .label_from("route", extension_str::<MatchedPath>(MatchedPath::as_str));
/// ```
pub fn extension_str<T>(
    read: impl Fn(&T) -> &str + Send + Sync + 'static,
) -> impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static
where
    T: Send + Sync + 'static,
{
    move |head: RequestHead<'_>| {
        let extension = head.extensions().get::<T>();
        Cow::Borrowed(extension.map_or("", &read))
    }
}

/// Like [`extension_str`], for extensions whose text has to be made first.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use std::net::SocketAddr;
/// use axum::extract::ConnectInfo;
/// use tower_aperture::ApertureLayer;
/// use tower_aperture::layer::extension;
///
/// ApertureLayer::new(client, "checkout")
///     .label_from("peer", extension::<ConnectInfo<SocketAddr>>(|peer| peer.ip().to_string()));
/// ```
pub fn extension<T>(
    read: impl Fn(&T) -> String + Send + Sync + 'static,
) -> impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static
where
    T: Send + Sync + 'static,
{
    move |head: RequestHead<'_>| {
        let extension = head.extensions().get::<T>();
        Cow::Owned(extension.map_or_else(String::new, &read))
    }
}
