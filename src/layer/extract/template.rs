use std::borrow::Cow;

use crate::layer::RequestHead;
use crate::layer::grpc::content_type;

/// Reads the template that the request's path matched, `/users/{id}`, from an extension that a
/// router left: axum's `MatchedPath`. Of a gRPC request it is the path, `/package.Service/Method`,
/// which is its own template. Empty for anything else, so that paths which a client makes up never
/// become names.
///
/// axum attaches the extension before layers of routes run, and before those of a router for
/// requests that match.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use axum::extract::MatchedPath;
/// use tower_aperture::ApertureLayer;
/// use tower_aperture::layer::path_template;
///
/// let layer =
///     ApertureLayer::with_control_point(client, path_template::<MatchedPath>(MatchedPath::as_str));
/// # let _ = layer;
/// ```
pub fn path_template<T>(
    read: impl Fn(&T) -> &str + Send + Sync + 'static,
) -> impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static
where
    T: Send + Sync + 'static,
{
    move |head: RequestHead<'_>| {
        if let Some(matched) = head.extensions().get::<T>() {
            return Cow::Borrowed(read(matched));
        }
        match grpc(head) {
            Some(_) => Cow::Borrowed(head.uri().path()),
            None => Cow::Borrowed(""),
        }
    }
}

/// Reads the service of a gRPC request, `package.Service`; empty for any other request.
///
/// ```
/// use http::Request;
/// use tower_aperture::layer::{RequestHead, grpc_method, grpc_service};
///
/// let request = Request::post("http://shop.example/shop.v1.Carts/Add")
///     .header("content-type", "application/grpc")
///     .body(())?;
/// let head = RequestHead::new(&request);
/// assert_eq!((&*grpc_service(head), &*grpc_method(head)), ("shop.v1.Carts", "Add"));
/// # Ok::<(), http::Error>(())
/// ```
#[must_use]
pub fn grpc_service(head: RequestHead<'_>) -> Cow<'_, str> {
    Cow::Borrowed(grpc(head).map_or("", |(service, _)| service))
}

/// Reads the method of a gRPC request, without its service; empty for any other request. See
/// [`grpc_service`].
#[must_use]
pub fn grpc_method(head: RequestHead<'_>) -> Cow<'_, str> {
    Cow::Borrowed(grpc(head).map_or("", |(_, method)| method))
}

fn grpc(head: RequestHead<'_>) -> Option<(&str, &str)> {
    content_type(head.headers())?;
    head.uri().path().strip_prefix('/')?.rsplit_once('/')
}
