//! Several readers in one.

use std::borrow::Cow;

use crate::layer::RequestHead;

/// Puts what several extractors read into one value, for a limit by several things at once: by
/// tenant and route, by user and address.
///
/// Takes a tuple of two to four. The parts are joined by `|`, and a `|` or `\\` within one has a
/// `\\` before it, so that different parts never make the same value. A part that is not there is
/// empty; with none there the whole is empty, which is no label.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use http::Request;
/// use tower_aperture::layer::{RequestHead, header, joined, query};
///
/// let read = joined((header("x-tenant"), query("plan")));
/// let request = Request::get("/cart?plan=a|b").header("x-tenant", "7").body(())?;
/// assert_eq!(read(RequestHead::new(&request)), r"7|a\|b");
///
/// let layer = tower_aperture::ApertureLayer::new(client, "cart").label_from("key", read);
/// # let _ = layer;
/// # Ok::<(), http::Error>(())
/// ```
pub fn joined<P: JoinedParts>(
    parts: P,
) -> impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static {
    move |head: RequestHead<'_>| {
        let mut all = String::new();
        let mut any = false;
        let mut first = true;
        parts.each(head, &mut |part| {
            if !first {
                all.push('|');
            }
            first = false;
            any |= !part.is_empty();
            for piece in part.split_inclusive(['|', '\\']) {
                let plain = piece.strip_suffix(['|', '\\']).unwrap_or(piece);
                all.push_str(plain);
                if plain.len() < piece.len() {
                    all.push('\\');
                    all.push_str(&piece[plain.len()..]);
                }
            }
        });
        if any {
            Cow::Owned(all)
        } else {
            Cow::Borrowed("")
        }
    }
}

/// Reads with the first reader that finds something, for fallbacks: the user, or else the address.
///
/// Takes a tuple of two to four. Empty if none finds anything.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use std::net::SocketAddr;
/// use tower_aperture::layer::{ClientAddress, RequestHead, client_ip, first_of, header};
///
/// let peer = ClientAddress::of(|peer: &SocketAddr| Some(*peer));
/// let read = first_of((header("x-user-id"), client_ip(peer)));
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(SocketAddr::from(([192, 0, 2, 1], 443)));
/// assert_eq!(read(RequestHead::new(&request)), "192.0.2.1");
/// request.headers_mut().insert("x-user-id", http::HeaderValue::from_static("42"));
/// assert_eq!(read(RequestHead::new(&request)), "42");
///
/// let layer = tower_aperture::ApertureLayer::new(client, "cart").label_from("who", read);
/// # let _ = layer;
/// ```
///
/// A client chooses which reader finds something when it chooses what it sends. Above, a client
/// that makes up user ids is not limited by its address: let a proxy or an authentication layer
/// set the header.
pub fn first_of<P: JoinedParts>(
    parts: P,
) -> impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static {
    move |head: RequestHead<'_>| parts.first(head)
}

/// Fixes the signature of a closure that reads a text from a request, and returns the closure.
///
/// A closure that is bound with `let` gets a signature that fits no reader, because the compiler
/// does not see what it is for. Bound through this function it does.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use tower_aperture::ApertureLayer;
/// use tower_aperture::layer::reader;
///
/// let first_segment =
///     reader(|head| head.uri().path().split('/').nth(1).unwrap_or_default().into());
/// let layer = ApertureLayer::new(client, "shop").label_from("area", first_segment);
/// # let _ = layer;
/// ```
pub const fn reader<F>(read: F) -> F
where
    F: for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static,
{
    read
}

/// A tuple of readers, for [`joined`] and [`first_of`]. Implemented for two to four; a closure
/// among them needs its signature: `fn name(head: RequestHead<'_>) -> Cow<'_, str>`, or
/// [`reader`].
///
/// ```
/// use std::borrow::Cow;
/// use tower_aperture::layer::{JoinedParts, RequestHead, header, query};
///
/// fn method(head: RequestHead<'_>) -> Cow<'_, str> {
///     head.method().as_str().into()
/// }
/// fn fits(_: impl JoinedParts) {}
/// fits((method, header("x-tenant"), query("plan")));
/// ```
pub trait JoinedParts: Send + Sync + 'static {
    /// Reads one after the other.
    fn each(&self, head: RequestHead<'_>, take: &mut dyn FnMut(&str));

    /// Reads with the first that finds something; empty if none does.
    fn first<'h>(&self, head: RequestHead<'h>) -> Cow<'h, str>;
}

macro_rules! parts {
    ($($part:ident)+) => {
        impl<$($part),+> JoinedParts for ($($part,)+)
        where
            $($part: for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static),+
        {
            fn each(&self, head: RequestHead<'_>, take: &mut dyn FnMut(&str)) {
                #[allow(non_snake_case)]
                let ($($part,)+) = self;
                $(take(&$part(head));)+
            }

            fn first<'h>(&self, head: RequestHead<'h>) -> Cow<'h, str> {
                #[allow(non_snake_case)]
                let ($($part,)+) = self;
                $(
                    let found = $part(head);
                    if !found.is_empty() {
                        return found;
                    }
                )+
                Cow::Borrowed("")
            }
        }
    };
}

parts!(A B);
parts!(A B C);
parts!(A B C D);
