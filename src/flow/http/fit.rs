//! Makes the attributes of a request fit into one gRPC message.

use std::borrow::Cow;
use std::cmp::Reverse;

use super::HttpAttributes;
use crate::flow::shorten::{SHORTENED, shorten};

/// Bytes that the attributes and the control point may take together. Agents accept messages of
/// 4 MiB, which is gRPC's default; the rest of them is room for `baggage` (8 KiB) and for the
/// fields around the texts.
const LIMIT: usize = 4 * 1024 * 1024 - 64 * 1024;
/// Bytes of tags and lengths around the name and the value of a header, at most.
const HEADER_FRAMING: usize = 18;

/// The attributes of a request that were too large, within the limit.
pub(crate) struct Fitted<'a> {
    original: &'a HttpAttributes<'a>,
    method: Cow<'a, str>,
    path: Cow<'a, str>,
    host: Cow<'a, str>,
    scheme: Cow<'a, str>,
    protocol: Cow<'a, str>,
    headers: Vec<(&'a str, Cow<'a, str>)>,
    body: &'a str,
    /// Texts that were shortened, the body among them.
    pub(crate) shortened: u32,
    /// Headers that were left out.
    pub(crate) dropped: u32,
}

impl HttpAttributes<'_> {
    /// Returns attributes that fit into a check, or `None` where these do: the usual case.
    pub(crate) fn fit(&self, control_point: &str) -> Option<Fitted<'_>> {
        self.fit_within(LIMIT.saturating_sub(control_point.len()))
    }

    fn fit_within(&self, limit: usize) -> Option<Fitted<'_>> {
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
        (total > limit).then(|| Fitted::new(self, total, limit))
    }
}

fn size(name: &str, value: &str) -> usize {
    name.len() + value.len() + HEADER_FRAMING
}

impl<'a> Fitted<'a> {
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
        // The new value is taken into account from the start.
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

    /// Shortens the texts, the largest first, until they fit or all are short. Returns their size.
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
        texts.retain(|text| text.len() > SHORTENED);
        texts.sort_by_key(|text| Reverse(text.len()));
        let mut texts = texts.into_iter().peekable();
        while total > limit {
            let next = texts.peek().map_or(0, |text| text.len());
            if body.len() > next {
                // As far as it has to be, but no further than to what would go next.
                let mut end = body.len().saturating_sub(total - limit).max(next);
                while !body.is_char_boundary(end) {
                    end -= 1;
                }
                total -= body.len() - end;
                *body = &body[..end];
            } else if let Some(text) = texts.next() {
                let short = shorten(text, SHORTENED);
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

    /// Leaves headers out, the largest first, where there are too many of them.
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

    pub(crate) fn attributes(&self) -> HttpAttributes<'_> {
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
    fn the_largest_text_goes_first() {
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
        assert_eq!(*cut.headers[0].1, shorten(&header, SHORTENED));
        assert_eq!(cut.body.len(), 700);
        assert_eq!((fitted.shortened, fitted.dropped), (2, 0));
    }

    #[test]
    fn a_whole_body_is_not_told_to_be_partial() {
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
            // Three short texts stay in any case.
            let limit = limit + 3 * SHORTENED;
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
