//! Shortens the attributes of a request until they fit into one gRPC message.

use std::borrow::Cow;
use std::cmp::Reverse;

use super::HttpAttributes;
use crate::shorten::{SHORTENED_LEN, shorten};

/// The most bytes that the attributes and the control point may take together. Agents accept
/// messages of 4 MiB, the default of gRPC; the remaining 64 KiB are for `baggage` (8 KiB) and for
/// the fields around the texts.
const MAX_ATTRIBUTES_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;
/// The most bytes of tags and lengths around the name and the value of a header.
const HEADER_FRAMING: usize = 18;

/// The attributes of a request that was too large, shortened to the limit.
pub struct FittedAttributes<'a> {
    original: &'a HttpAttributes<'a>,
    method: Cow<'a, str>,
    path: Cow<'a, str>,
    host: Cow<'a, str>,
    scheme: Cow<'a, str>,
    protocol: Cow<'a, str>,
    headers: Vec<(&'a str, Cow<'a, str>)>,
    body: &'a str,
    /// The number of texts that were shortened, the body included.
    pub shortened: u32,
    /// The number of headers that were left out.
    pub dropped: u32,
}

/// Shows counts only: the texts are a client's.
impl std::fmt::Debug for FittedAttributes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FittedAttributes")
            .field("shortened", &self.shortened)
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

impl HttpAttributes<'_> {
    /// Returns shortened attributes that fit into a check, or `None` in the usual case that these
    /// fit already.
    #[doc(hidden)]
    pub fn fit(&self, control_point: &str) -> Option<FittedAttributes<'_>> {
        self.fit_within(MAX_ATTRIBUTES_BYTES.saturating_sub(control_point.len()))
    }

    fn fit_within(&self, limit: usize) -> Option<FittedAttributes<'_>> {
        let headers = self.headers.iter();
        let headers: usize = headers.map(|(name, value)| size(name, value)).sum();
        let texts = [
            self.method,
            self.path,
            self.host,
            self.scheme,
            self.protocol,
            self.body,
        ];
        let total = headers + texts.map(str::len).iter().sum::<usize>();
        (total > limit).then(|| FittedAttributes::new(self, total, limit))
    }
}

fn size(name: &str, value: &str) -> usize {
    name.len() + value.len() + HEADER_FRAMING
}

impl<'a> FittedAttributes<'a> {
    #[cold]
    fn new(original: &'a HttpAttributes<'a>, total: usize, limit: usize) -> Self {
        let headers = original.headers.iter();
        let mut fitted = Self {
            original,
            method: Cow::Borrowed(original.method),
            path: Cow::Borrowed(original.path),
            host: Cow::Borrowed(original.host),
            scheme: Cow::Borrowed(original.scheme),
            protocol: Cow::Borrowed(original.protocol),
            headers: headers
                .filter(|(name, _)| *name != HttpAttributes::PARTIAL_BODY)
                .map(|(name, value)| (*name, Cow::Borrowed(&**value)))
                .collect(),
            body: original.body,
            shortened: 0,
            dropped: 0,
        };
        let partial = original
            .headers
            .iter()
            .find(|(name, _)| *name == HttpAttributes::PARTIAL_BODY);
        // The header is removed here and its final value reserved, so that it always fits.
        let total = match partial {
            Some((name, value)) => total - size(name, value),
            None => total,
        };
        let limit = limit.saturating_sub(size(HttpAttributes::PARTIAL_BODY, "false"));
        let total = fitted.shorten_largest(total, limit);
        fitted.drop_largest(total, limit);
        if fitted.body.len() < original.body.len() {
            let header = (HttpAttributes::PARTIAL_BODY, Cow::Borrowed("true"));
            fitted.headers.push(header);
        } else if let Some((name, value)) = partial {
            let value = match value.len() {
                0..=5 => Cow::Borrowed(&**value),
                _ => Cow::Borrowed("true"),
            };
            fitted.headers.push((name, value));
        }
        fitted
    }

    /// Shortens the texts, the largest first, until they fit or none is left to shorten. Returns
    /// their total size.
    fn shorten_largest(&mut self, mut total: usize, limit: usize) -> usize {
        let Self {
            method,
            path,
            host,
            scheme,
            protocol,
            headers,
            body,
            shortened,
            ..
        } = self;
        let mut texts = vec![method, path, host, scheme, protocol];
        texts.extend(headers.iter_mut().map(|(_, value)| value));
        texts.retain(|text| text.len() > SHORTENED_LEN);
        texts.sort_by_key(|text| Reverse(text.len()));
        let mut texts = texts.into_iter().peekable();
        while total > limit {
            let next = texts.peek().map_or(0, |text| text.len());
            if body.len() > next {
                // Cuts the body as far as necessary, but not below the next largest text.
                let mut end = body.len().saturating_sub(total - limit).max(next);
                while !body.is_char_boundary(end) {
                    end -= 1;
                }
                total -= body.len() - end;
                *body = &body[..end];
            } else if let Some(text) = texts.next() {
                let short = shorten(text, SHORTENED_LEN);
                total -= text.len() - short.len();
                *text = Cow::Owned(short);
                *shortened = shortened.saturating_add(1);
            } else {
                break;
            }
        }
        let cut = body.len() < self.original.body.len();
        *shortened = shortened.saturating_add(u32::from(cut));
        total
    }

    /// Removes headers, the largest first, until the attributes fit.
    fn drop_largest(&mut self, mut total: usize, limit: usize) {
        if total <= limit {
            return;
        }
        self.headers.sort_by_key(|(name, value)| size(name, value));
        while total > limit
            && let Some((name, value)) = self.headers.pop()
        {
            total -= size(name, &value);
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Returns the shortened attributes.
    #[must_use]
    pub fn attributes(&self) -> HttpAttributes<'_> {
        let headers = self.headers.iter();
        HttpAttributes {
            method: &self.method,
            path: &self.path,
            host: &self.host,
            scheme: &self.scheme,
            protocol: &self.protocol,
            size: self.original.size,
            headers: headers
                .map(|(name, value)| (*name, Cow::Borrowed(&**value)))
                .collect(),
            body: self.body,
            source: self.original.source,
            destination: self.original.destination,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn total(request: &HttpAttributes<'_>) -> usize {
        let headers = request.headers.iter();
        let headers: usize = headers.map(|(name, value)| size(name, value)).sum();
        [
            request.method,
            request.path,
            request.host,
            request.scheme,
            request.protocol,
            request.body,
        ]
        .iter()
        .fold(headers, |total, text| total + text.len())
    }

    #[test]
    fn the_largest_text_is_shortened_first() {
        let (path, header, body) = ("p".repeat(400), "h".repeat(700), "\u{fc}".repeat(450));
        let mut request = HttpAttributes::new("GET", &path).header("x-user", &*header);
        request.body = &body;
        assert!(request.fit_within(3000).is_none());

        let fitted = request.fit_within(1900).expect("too large");
        let cut = fitted.attributes();
        assert_eq!((cut.path, &*cut.headers[0].1), (&*path, &*header));
        assert!(body.starts_with(cut.body) && cut.body.len() > 700);
        assert_eq!(&cut.headers[1].0, &HttpAttributes::PARTIAL_BODY);
        assert_eq!(&*cut.headers[1].1, "true");
        assert_eq!((fitted.shortened, fitted.dropped), (1, 0));

        let fitted = request.fit_within(1300).expect("too large");
        let cut = fitted.attributes();
        assert_eq!(cut.path, path);
        assert_eq!(*cut.headers[0].1, shorten(&header, SHORTENED_LEN));
        assert_eq!(cut.body.len(), 700);
        assert_eq!((fitted.shortened, fitted.dropped), (2, 0));
    }

    #[test]
    fn a_complete_body_is_not_marked_as_partial() {
        let path = "p".repeat(900);
        let mut request =
            HttpAttributes::new("GET", &path).header(HttpAttributes::PARTIAL_BODY, "false");
        request.body = "short";
        let fitted = request.fit_within(600).expect("too large");
        let cut = fitted.attributes();
        assert_eq!(cut.body, "short");
        assert_eq!(
            *cut.headers,
            [(HttpAttributes::PARTIAL_BODY, "false".into())]
        );
    }

    proptest! {
        #[test]
        fn attributes_always_fit(
            sizes in prop::array::uniform4(0_usize..3000),
            headers in prop::collection::vec((1_usize..300, 0_usize..3000), 0..20),
            partial in prop::option::of(0_usize..300),
            limit in 200_usize..8000,
        ) {
            let text = |size| "\u{fc}".repeat(size / 2);
            let [method, path, host, body] = sizes.map(text);
            let headers: Vec<_> = headers
                .into_iter()
                .map(|(name, value)| ("n".repeat(name), text(value)))
                .collect();
            let mut request = HttpAttributes::new(&method, &path).host(&host);
            request.body = &body;
            for (name, value) in &headers {
                request = request.header(name, &**value);
            }
            if let Some(size) = partial {
                request = request.header(HttpAttributes::PARTIAL_BODY, "x".repeat(size));
            }
            // Shortening leaves up to three short texts.
            let limit = limit + 3 * SHORTENED_LEN;
            match request.fit_within(limit) {
                None => prop_assert!(total(&request) <= limit),
                Some(fitted) => {
                    let cut = fitted.attributes();
                    prop_assert!(total(&request) > limit && total(&cut) <= limit);
                    prop_assert!(body.starts_with(cut.body));
                    prop_assert!(fitted.shortened + fitted.dropped > 0 || partial.is_some());
                    let is_partial = cut.headers.iter().any(|(name, value)| {
                        *name == HttpAttributes::PARTIAL_BODY && value == "true"
                    });
                    prop_assert!(is_partial || cut.body.len() == body.len());
                }
            }
        }
    }
}
