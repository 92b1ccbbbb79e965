use std::borrow::Cow;

use crate::layer::RequestHead;

/// Reads a text from a request extension, as a control point or a label; it is empty where the
/// extension is missing.
///
/// Servers and routers attach what they know to the request: axum its `MatchedPath`, tonic its
/// `GrpcMethod`. Give the type and the method that reads it:
///
/// ```
/// # #[derive(Clone)]
/// # struct Decider;
/// # struct Ticket;
/// # impl tower_aperture::Ticket for Ticket {
/// #     fn end(self, _: tower_aperture::FlowOutcome) {}
/// # }
/// # impl tower_aperture::Decider for Decider {
/// #     type Ticket = Ticket;
/// #     type Pending = std::future::Ready<tower_aperture::Verdict<Ticket>>;
/// #     fn decide(&self, _: &str, _: &tower_aperture::FlowParams<'_>)
/// #         -> tower_aperture::Check<Ticket, Self::Pending> {
/// #         tower_aperture::Check::Ready(tower_aperture::Verdict::Accepted(Ticket))
/// #     }
/// # }
/// # let decider = Decider;
/// use axum::extract::MatchedPath;
/// use tower_aperture::ApertureLayer;
/// use tower_aperture::layer::extension_str;
///
/// // One control point for each route ...
/// ApertureLayer::with_control_point(
///     decider.clone(),
///     extension_str::<MatchedPath>(MatchedPath::as_str),
/// );
/// // ... or one for all, and the route as a label.
/// ApertureLayer::new(decider, "shop")
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

/// Like [`extension_str`] for what has to be put into words first.
///
/// ```
/// # #[derive(Clone)]
/// # struct Decider;
/// # struct Ticket;
/// # impl tower_aperture::Ticket for Ticket {
/// #     fn end(self, _: tower_aperture::FlowOutcome) {}
/// # }
/// # impl tower_aperture::Decider for Decider {
/// #     type Ticket = Ticket;
/// #     type Pending = std::future::Ready<tower_aperture::Verdict<Ticket>>;
/// #     fn decide(&self, _: &str, _: &tower_aperture::FlowParams<'_>)
/// #         -> tower_aperture::Check<Ticket, Self::Pending> {
/// #         tower_aperture::Check::Ready(tower_aperture::Verdict::Accepted(Ticket))
/// #     }
/// # }
/// # let decider = Decider;
/// use std::net::SocketAddr;
/// use axum::extract::ConnectInfo;
/// use tower_aperture::ApertureLayer;
/// use tower_aperture::layer::extension;
///
/// ApertureLayer::new(decider, "checkout")
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
