//! Reads names from paths: templates of routers, and services and methods of gRPC calls.

use std::borrow::Cow;

use http::Method;

use crate::layer::grpc;
use crate::layer::head::RequestHead;

/// Returns a reader of the template that the request's path matched, such as `/users/{id}`, from an
/// extension of a router, such as axum's `MatchedPath`. Without the extension, it returns the path
/// of a gRPC call, `/package.Service/Method`, which is its own template.
///
/// A gRPC call is recognised by its path, because tonic serves calls of any method and content
/// type. Every path of two or more segments therefore counts as a call; for other paths the text is
/// empty. The layer bounds [the names that clients choose this
/// way](crate::layer#names-that-clients-choose). For services without gRPC,
/// [`extension_str`](crate::layer::extension_str) returns templates only.
///
/// axum adds the extension before the layers of routes run, and before those of a router for
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
        match service_and_method(head) {
            Some(_) => bounded_name(head, head.uri().path()),
            None => Cow::Borrowed(""),
        }
    }
}

/// Returns the service of a gRPC call, `package.Service`, from its path,
/// `/package.Service/Method`. The text is empty if the path has only one segment.
///
/// The content type and the method of the request are ignored, because tonic serves calls with any
/// of them. A layer around other routes also reads names from their paths:
/// [skip](crate::ApertureLayer::skip) them, or put the layer around the gRPC services only. The
/// layer bounds [the names that clients choose](crate::layer#names-that-clients-choose).
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
    service_and_method(head).map_or(Cow::Borrowed(""), |(service, _)| {
        bounded_name(head, service)
    })
}

/// Returns the method of a gRPC call, without its service, from its path. See [`grpc_service`].
#[must_use]
pub fn grpc_method(head: RequestHead<'_>) -> Cow<'_, str> {
    service_and_method(head).map_or(Cow::Borrowed(""), |(_, method)| bounded_name(head, method))
}

/// Splits the path into service and method. `None` if it has only one segment.
fn service_and_method(head: RequestHead<'_>) -> Option<(&str, &str)> {
    let parts = head.uri().path().strip_prefix('/')?.rsplit_once('/');
    parts.filter(|(service, method)| !service.is_empty() && !method.is_empty())
}

/// Returns the name, or the fallback if the name is not known and the layer cannot add it.
fn bounded_name<'h>(head: RequestHead<'h>, name: &'h str) -> Cow<'h, str> {
    let Some(names) = head.label_names() else {
        return Cow::Borrowed(name);
    };
    let may_add = *head.method() == Method::POST || grpc::has_media_type(head.headers());
    Cow::Borrowed(names.known(name, may_add))
}
