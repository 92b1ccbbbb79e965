//! Matches paths with templates such as `/users/{id}/*`.

use std::cmp::Reverse;
use std::sync::Arc;

/// Templates with their values, in the order in which they are tried.
#[derive(Clone, Debug)]
pub(super) struct PathTemplates(Vec<(PathTemplate, Arc<str>)>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct PathTemplate {
    prefix: Vec<Box<str>>,
    /// The number of segments after the prefix that match any text.
    params: usize,
    /// True if further segments may follow.
    open: bool,
}

impl PathTemplates {
    pub(super) fn new(values: &[(Arc<str>, Arc<str>)]) -> Self {
        let mut all: Vec<_> = values
            .iter()
            .map(|(text, value)| (PathTemplate::parse(text), text, value))
            .collect();
        all.sort_by(|(one, one_text, _), (other, other_text, _)| {
            one.rank().cmp(&other.rank()).then(one_text.cmp(other_text))
        });
        let all = all.into_iter();
        Self(
            all.map(|(template, _, value)| (template, Arc::clone(value)))
                .collect(),
        )
    }

    /// Returns the value of the first template that matches a request's target.
    pub(super) fn value(&self, target: &str) -> Option<&str> {
        let path = target.split('?').next().unwrap_or("").trim_matches('/');
        let count = path.split('/').count();
        let mut all = self.0.iter();
        all.find(|(template, _)| template.matches(path, count))
            .map(|(_, value)| &**value)
    }
}

impl PathTemplate {
    fn parse(text: &str) -> Self {
        let text = text.trim_matches('/');
        let mut segments: Vec<&str> = match text {
            "" => Vec::new(),
            text => text.split('/').collect(),
        };
        let open = segments.last() == Some(&"*");
        if open {
            segments.pop();
        }
        let is_param = |segment: &&str| segment.starts_with('{') && segment.ends_with('}');
        // The loader refuses a template with a static segment after a parameter.
        let static_part = segments.iter().position(is_param).unwrap_or(segments.len());
        Self {
            prefix: segments[..static_part]
                .iter()
                .map(|&text| text.into())
                .collect(),
            params: segments.len() - static_part,
            open,
        }
    }

    /// Sorts the most specific templates first.
    fn rank(&self) -> (Reverse<usize>, Reverse<usize>, bool) {
        (Reverse(self.prefix.len()), Reverse(self.params), self.open)
    }

    fn matches(&self, path: &str, count: usize) -> bool {
        let length = self.prefix.len() + self.params;
        let long_enough = if self.open {
            count >= length
        } else {
            count == length
        };
        long_enough
            && self
                .prefix
                .iter()
                .zip(path.split('/'))
                .all(|(own, segment)| **own == *segment)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn templates(texts: &[&str]) -> PathTemplates {
        let values: Vec<_> = texts
            .iter()
            .map(|&text| (Arc::from(text), Arc::from(text)))
            .collect();
        PathTemplates::new(&values)
    }

    #[test]
    fn the_most_specific_template_wins() {
        let all = templates(&[
            "/*",
            "/users/{id}/*",
            "/users/{id}",
            "/users/me",
            "/users/*",
            "/{any}/{thing}",
            "/",
        ]);
        for (target, expected) in [
            ("/users/me", "/users/me"),
            ("/users/7", "/users/{id}"),
            ("/users/7/orders", "/users/{id}/*"),
            ("/users", "/users/*"),
            ("/a/b", "/{any}/{thing}"),
            ("/a/b/c", "/*"),
            ("//users/me/?x=/y", "/users/me"),
            ("", "/*"),
            ("/", "/*"),
            ("/users//", "/users/*"),
            ("/Users/me", "/{any}/{thing}"),
            ("/users/%6De", "/users/{id}"),
        ] {
            assert_eq!(all.value(target), Some(expected), "{target}");
        }
        assert_eq!(templates(&["/"]).value("/"), None);
        assert_eq!(templates(&["/a"]).value("/a/b"), None);
    }

    proptest! {
        #[test]
        fn a_template_matches_paths_built_from_it(
            prefix in prop::collection::vec("[a-c]{1,2}", 0..4),
            params in prop::collection::vec("[a-c]{0,2}x", 0..3),
            rest in prop::collection::vec("[a-c]{1,2}", 0..3),
            open in any::<bool>(),
            query in "(\\?[a-z/=]{0,5})?",
        ) {
            let mut text: Vec<String> = prefix.clone();
            text.extend(params.iter().map(|param| format!("{{{param}}}")));
            if open {
                text.push("*".into());
            }
            let text = format!("/{}", text.join("/"));
            let mut path = prefix.clone();
            path.extend(params);
            let exact = path.len();
            path.extend(rest.iter().cloned());
            let target = format!("/{}/{query}", path.join("/"));
            let matches = templates(&[&text]).value(&target).is_some();
            let expected = if open {
                true
            } else if exact == 0 {
                // The empty template has no segment, but a path has at least one.
                false
            } else {
                rest.is_empty()
            };
            prop_assert_eq!(matches, expected, "{} {}", text, target);
        }

        #[test]
        fn the_order_in_the_policy_does_not_matter(
            mut texts in prop::collection::btree_set("(/([ab]|\\{x\\})){0,3}(/\\*)?", 1..6)
                .prop_map(|set| set.into_iter().collect::<Vec<_>>()),
            target in "(/[ab]){0,4}",
        ) {
            let of = |texts: &[String]| {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                templates(&texts).value(&target).map(str::to_owned)
            };
            let one = of(&texts);
            texts.reverse();
            prop_assert_eq!(one, of(&texts));
        }
    }
}
