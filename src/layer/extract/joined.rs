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

/// A tuple of extractors, for [`joined`]. Implemented for two to four; a closure among them needs
/// its signature: `fn name(head: RequestHead<'_>) -> Cow<'_, str>`.
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
        }
    };
}

parts!(A B);
parts!(A B C);
parts!(A B C D);
