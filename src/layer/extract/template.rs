//! Readers of names that routers and gRPC paths have.

use std::borrow::Cow;

use http::Method;

use crate::layer::RequestHead;
use crate::layer::grpc;

/// Reads the template that the request's path matched, `/users/{id}`, from an extension that a
/// router left, such as axum's `MatchedPath`. Where no router left one, it reads the path of a
/// call, `/package.Service/Method`, which is its own template.
///
/// A call is known by its path, because tonic serves calls of any method and content type. So any
/// path of two segments and more counts; of others the reader finds nothing. The layer bounds
/// [the names that clients bring up this way](crate::layer#names-that-clients-choose). Behind a
/// router alone
/// [`extension_str`](crate::layer::extension_str) reads templates and nothing else.
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
        match call(head) {
            Some(_) => known(head, head.uri().path()),
            None => Cow::Borrowed(""),
        }
    }
}

/// Reads the service of a gRPC call, `package.Service`, from its path,
/// `/package.Service/Method`. Empty if the path has only one segment.
///
/// The content type and the method of the request do not matter, because tonic serves calls
/// whatever they say. A layer that is also around other routes reads names of their paths too:
/// [skip](crate::ApertureLayer::skip) them, or put the layer around the gRPC services alone. The
/// layer bounds [the names that clients bring up](crate::layer#names-that-clients-choose).
///
/// ```
/// use http::Request;
/// use tower_aperture::layer::{RequestHead, grpc_method, grpc_service};
///
/// let request = Request::post("http://shop.example/shop.v1.Carts/Add").body(())?;
/// let head = RequestHead::new(&request);
/// assert_eq!((&*grpc_service(head), &*grpc_method(head)), ("shop.v1.Carts", "Add"));
/// # Ok::<(), http::Error>(())
/// ```
#[must_use]
pub fn grpc_service(head: RequestHead<'_>) -> Cow<'_, str> {
    call(head).map_or(Cow::Borrowed(""), |(service, _)| known(head, service))
}

/// Reads the method of a gRPC call, without its service, from the path. See [`grpc_service`].
#[must_use]
pub fn grpc_method(head: RequestHead<'_>) -> Cow<'_, str> {
    call(head).map_or(Cow::Borrowed(""), |(_, method)| known(head, method))
}

/// Service and method, as the path has them.
fn call(head: RequestHead<'_>) -> Option<(&str, &str)> {
    let parts = head.uri().path().strip_prefix('/')?.rsplit_once('/');
    parts.filter(|(service, method)| !service.is_empty() && !method.is_empty())
}

/// The name, or the fallback where a label must not have it.
fn known<'h>(head: RequestHead<'h>, name: &'h str) -> Cow<'h, str> {
    let Some(names) = head.label_names() else {
        return Cow::Borrowed(name);
    };
    let learns = *head.method() == Method::POST || grpc::has_media_type(head.headers());
    Cow::Borrowed(names.known(name, learns))
}
