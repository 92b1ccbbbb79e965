//! Combines several readers into one.

use std::borrow::Cow;

use crate::layer::head::RequestHead;

/// Returns a reader that joins the texts of several readers into one value, for a limit by several
/// things at once: by tenant and route, or by user and address.
///
/// Takes a tuple of two to four readers. The parts are joined by `|`, and each `|` or `\\` within a
/// part is escaped with a `\\`, so that different parts never make the same value. A missing part
/// is empty. If all parts are missing, the value is empty, and no label is set.
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

/// Returns a reader of the first text that is not empty, for fallbacks: the user, or else the
/// address.
///
/// Takes a tuple of two to four readers. The text is empty if all of them return empty texts.
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
/// let layer = tower_aperture::ApertureLayer::new(client, "cart").label_from("client", read);
/// # let _ = layer;
/// ```
///
/// A client that chooses the contents of its request chooses which reader applies. In the example,
/// a client that makes up user ids is not limited by its address: let a proxy or an authentication
/// layer set the header.
pub fn first_of<P: JoinedParts>(
    parts: P,
) -> impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static {
    move |head: RequestHead<'_>| parts.first(head)
}

/// Returns the closure unchanged, with the signature of a reader.
///
/// The compiler infers a different signature for a closure that is bound with `let`, because it
/// does not see that the closure will be used as a reader. This function states the signature.
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

/// A tuple of two to four readers, for [`joined`] and [`first_of`].
///
/// A closure in the tuple must have the signature of a reader: write it as
/// `fn name(head: RequestHead<'_>) -> Cow<'_, str>`, or pass it through [`reader`].
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
    /// Calls `take` with the text of each reader, in order.
    fn each(&self, head: RequestHead<'_>, take: &mut dyn FnMut(&str));

    /// Returns the first text that is not empty, or an empty text.
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
