//! Bounds the length of request attributes, whose texts clients can choose.

use std::borrow::Cow;

use crate::flow::labels::VALUE_LIMIT;
use crate::flow::shorten::{HASH_LEN, shorten};

/// Shortens texts beyond a limit in the same way as labels, and counts them.
pub(super) struct AttributeBounds {
    limit: usize,
    /// The number of texts that were shortened.
    pub(super) shortened: u32,
}

impl AttributeBounds {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            limit,
            shortened: 0,
        }
    }

    /// Bounds a header or the host.
    #[inline]
    pub(super) fn text<'a>(&mut self, text: Cow<'a, str>) -> Cow<'a, str> {
        if text.len() <= self.limit {
            return text;
        }
        Cow::Owned(self.shorten(&text, self.limit))
    }

    /// Bounds a method. Its limit is fixed, so that a low limit for labels does not shorten common
    /// methods.
    #[inline]
    pub(super) fn method<'a>(&mut self, method: &'a str) -> Cow<'a, str> {
        if method.len() <= VALUE_LIMIT {
            return Cow::Borrowed(method);
        }
        Cow::Owned(self.shorten(method, VALUE_LIMIT))
    }

    /// Bounds a path with its query. Each segment of the path, and each name and value of the
    /// query, is bounded on its own. A client that sends a huge part cannot hide the others from a
    /// classifier, and a path keeps its number of segments.
    ///
    /// A target of many short parts stays complete. `http::Uri` allows 64 KiB for the whole target.
    #[inline]
    pub(super) fn target<'a>(&mut self, target: &'a str) -> Cow<'a, str> {
        if target.len() <= self.limit {
            return Cow::Borrowed(target);
        }
        self.shorten_target(target)
    }

    #[cold]
    #[inline(never)]
    fn shorten_target<'a>(&mut self, target: &'a str) -> Cow<'a, str> {
        let mut short = String::new();
        let mut rest = target;
        let mut delimiters = &['/', '?'][..];
        // The number of bytes of `target` that `short` already covers.
        let mut done = 0;
        while !rest.is_empty() {
            let end = rest.find(delimiters).unwrap_or(rest.len());
            if end > self.limit {
                let start = target.len() - rest.len();
                short.push_str(&target[done..start]);
                short.push_str(&self.shorten(&rest[..end], self.limit));
                remove_cut_escape(&mut short);
                done = start + end;
            }
            let delimiter = rest[end..].chars().next();
            if delimiter == Some('?') {
                delimiters = &['&', '='];
            }
            rest = &rest[end + delimiter.map_or(0, char::len_utf8)..];
        }
        if done == 0 {
            return Cow::Borrowed(target);
        }
        short.push_str(&target[done..]);
        Cow::Owned(short)
    }

    fn shorten(&mut self, text: &str, limit: usize) -> String {
        self.shortened = self.shortened.saturating_add(1);
        shorten(text, limit)
    }
}

/// Removes a percent-encoding that was cut before the hash, because some classifiers ignore a query
/// with a malformed one.
fn remove_cut_escape(short: &mut String) {
    let Some(end) = short.len().checked_sub(HASH_LEN + 1) else {
        return;
    };
    let start = match &short.as_bytes()[..end] {
        [.., b'%'] => end - 1,
        [.., b'%', _] => end - 2,
        _ => return,
    };
    // Both ends are character boundaries: `%` is ASCII, and so is the `~` at `end`.
    short.drain(start..end);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(target: &str, limit: usize) -> (String, u32) {
        let mut bounds = AttributeBounds::new(limit);
        (bounds.target(target).into_owned(), bounds.shortened)
    }

    #[test]
    fn only_the_long_parts_of_a_target_are_shortened() {
        let long = "x".repeat(300);
        let short = shorten(&long, 200);
        for (from, to, shortened) in [
            ("/a/{}/b?user=7".to_owned(), "/a/{}/b?user=7", 1),
            ("/a?pad={}&user=7".to_owned(), "/a?pad={}&user=7", 1),
            ("/a?{}=1&user=7".to_owned(), "/a?{}=1&user=7", 1),
            ("/{}/{}?user=7&a={}".to_owned(), "/{}/{}?user=7&a={}", 3),
            ("/{}".to_owned(), "/{}", 1),
            ("{}".to_owned(), "{}", 1),
        ] {
            let (from, to) = (from.replace("{}", &long), to.replace("{}", &short));
            assert_eq!(target(&from, 200), (to, shortened));
        }
        let many = format!("/a?{}user=7", "a=1&".repeat(10_000));
        assert_eq!(
            target(&many, 200),
            (many, 0),
            "many short parts stay unchanged"
        );
    }

    #[test]
    fn percent_encodings_are_not_cut() {
        for (text, start) in [("/a?q={}%20%20%20", 61), ("/a?q={}a%20%20%20", 62)] {
            for pad in 0..6 {
                let text = text.replace("{}", &"x".repeat(pad + 55)) + &"%20".repeat(60);
                let (short, _) = target(&text, 200);
                let value = short.split('=').next_back().unwrap_or_default();
                let (kept, _) = value.rsplit_once('~').expect("shortened");
                assert!(kept.len() >= start && text.contains(kept), "{short}");
                let tail = &kept[kept.rfind('%').unwrap_or(kept.len())..];
                assert!(tail.is_empty() || tail.len() >= 3, "{short}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_target_keeps_its_parts_and_stays_distinct(
            one in "[/?&=ab\u{fc}]{0,120}",
            two in "[/?&=ab\u{fc}]{0,120}",
            limit in 0_usize..60,
        ) {
            let (short, shortened) = target(&one, limit);
            let (other, _) = target(&two, limit);
            prop_assert_eq!(one == two, short == other);
            prop_assert_eq!(shortened == 0, one == short);
            let segments = |target: &str| {
                let path = target.split('?').next().unwrap_or_default();
                path.matches('/').count()
            };
            prop_assert_eq!(segments(&one), segments(&short));
            let longest = short.split(['/', '?', '&', '=']).map(str::len).max().unwrap_or(0);
            let whole = one.split(['/', '?', '&', '=']).all(|part| part.len() <= limit);
            prop_assert!(longest <= limit.max(120) && (whole || shortened > 0));
        }
    }
}
