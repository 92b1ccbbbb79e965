//! Matches paths against route templates.

use std::borrow::Cow;
use std::collections::HashMap;

/// A tree of route templates, each with the index of its route.
///
/// Unlike the tree of a router, it holds templates that overlap, such as `/users/{id}` and
/// `/users/{*rest}`, and lets the caller pass over templates that match but do not apply to a
/// request.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteTemplates {
    /// Matches what follows the leading slash of a path.
    root: TemplateNode,
}

/// The templates that share the segments up to this node.
#[derive(Clone, Debug, Default)]
struct TemplateNode {
    /// The index of the template that ends here.
    end: Option<usize>,
    /// The next segment as a literal text.
    texts: HashMap<Box<str>, TemplateNode>,
    /// The next segment as a parameter, by the text before the parameter; the longest text first.
    parameters: Vec<(Box<str>, TemplateNode)>,
    /// The rest of the path as `{*name}`, by the text before it; the longest text first.
    rests: Vec<(Box<str>, usize)>,
}

/// One segment of a template.
#[derive(Debug, PartialEq, Eq)]
enum TemplateSegment {
    Text(String),
    /// The text before a parameter.
    Parameter(String),
    /// The text before a rest.
    Rest(String),
}

impl RouteTemplates {
    /// Adds a template that begins with a slash. Returns the index of an equivalent template if
    /// there is one; its parameters may have other names.
    ///
    /// # Errors
    ///
    /// If the template is invalid; the text names the fault and the correct form.
    pub(super) fn insert(
        &mut self,
        template: &str,
        index: usize,
    ) -> Result<Option<usize>, Cow<'static, str>> {
        let mut segments = Vec::new();
        for segment in template.split('/').skip(1) {
            if matches!(segments.last(), Some(TemplateSegment::Rest(_))) {
                return Err("`{*rest}` must be the last segment".into());
            }
            segments.push(parse_segment(segment)?);
        }
        let mut node = &mut self.root;
        for segment in segments {
            node = match segment {
                TemplateSegment::Text(text) => node.texts.entry(text.into()).or_default(),
                TemplateSegment::Parameter(before) => {
                    let at = find_or_insert(&mut node.parameters, &before, TemplateNode::default);
                    &mut node.parameters[at].1
                }
                TemplateSegment::Rest(before) => {
                    let at = find_or_insert(&mut node.rests, &before, || index);
                    let known = node.rests[at].1;
                    return Ok((known != index).then_some(known));
                }
            };
        }
        let known = *node.end.get_or_insert(index);
        Ok((known != index).then_some(known))
    }

    /// Calls `select` with the index of each template that matches the path, the most specific
    /// first, and returns its first result. From left to right, a text is more specific than a
    /// parameter and a parameter more specific than a rest.
    ///
    /// Visits each template at most once.
    pub(super) fn find<T>(
        &self,
        path: &str,
        mut select: impl FnMut(usize) -> Option<T>,
    ) -> Option<T> {
        self.root.find(Some(path.strip_prefix('/')?), &mut select)
    }
}

impl TemplateNode {
    fn find<T>(
        &self,
        path: Option<&str>,
        select: &mut impl FnMut(usize) -> Option<T>,
    ) -> Option<T> {
        let Some(path) = path else {
            return select(self.end?);
        };
        let (segment, rest) = match path.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (path, None),
        };
        if let Some(node) = self.texts.get(segment)
            && let Some(found) = node.find(rest, select)
        {
            return Some(found);
        }
        // Parameters and rests match at least one character.
        let fits = |text: &str, before: &str| text.len() > before.len() && text.starts_with(before);
        for (before, node) in &self.parameters {
            if fits(segment, before)
                && let Some(found) = node.find(rest, select)
            {
                return Some(found);
            }
        }
        for (before, index) in &self.rests {
            if fits(path, before)
                && let Some(found) = select(*index)
            {
                return Some(found);
            }
        }
        None
    }
}

/// Returns the position of a text. Inserts a missing text behind those that are as long or longer.
fn find_or_insert<T>(
    entries: &mut Vec<(Box<str>, T)>,
    text: &str,
    new: impl FnOnce() -> T,
) -> usize {
    if let Some(at) = entries.iter().position(|(known, _)| **known == *text) {
        return at;
    }
    let at = entries.partition_point(|(known, _)| known.len() >= text.len());
    entries.insert(at, (text.into(), new()));
    at
}

/// Parses a segment: a text, in which `{{` and `}}` are literal braces, and at most one parameter
/// behind it.
fn parse_segment(segment: &str) -> Result<TemplateSegment, Cow<'static, str>> {
    const BRACES: &str =
        "a parameter is a name in braces, such as `{id}`; write `{{` for a literal brace";
    let mut text = String::new();
    let mut chars = segment.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        match char {
            '{' | '}' if chars.next_if(|(_, next)| *next == char).is_some() => text.push(char),
            '}' => return Err(BRACES.into()),
            '{' => {
                let inside = &segment[at + 1..];
                let (name, after) = inside.split_once('}').ok_or(BRACES)?;
                let (name, is_rest) = match name.strip_prefix('*') {
                    Some(name) => (name, true),
                    None => (name, false),
                };
                if name.is_empty() || name.contains(['{', '*']) {
                    return Err(BRACES.into());
                }
                if !after.is_empty() {
                    return Err(
                        "a segment may contain one parameter, at its end, such as `/{id}`".into(),
                    );
                }
                return Ok(match is_rest {
                    true => TemplateSegment::Rest(text),
                    false => TemplateSegment::Parameter(text),
                });
            }
            char => text.push(char),
        }
    }
    Ok(TemplateSegment::Text(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_a_text_or_ends_in_a_parameter() {
        let text = |text: &str| Ok(TemplateSegment::Text(text.to_owned()));
        for (segment, expected) in [
            ("", text("")),
            ("users", text("users")),
            ("{{id}}", text("{id}")),
            ("a}}{{b", text("a}{b")),
            ("{id}", Ok(TemplateSegment::Parameter(String::new()))),
            ("v{id}", Ok(TemplateSegment::Parameter("v".to_owned()))),
            ("{{{id}", Ok(TemplateSegment::Parameter("{".to_owned()))),
            ("{*rest}", Ok(TemplateSegment::Rest(String::new()))),
            ("v{*rest}", Ok(TemplateSegment::Rest("v".to_owned()))),
        ] {
            assert_eq!(parse_segment(segment), expected, "{segment}");
        }
        for segment in [
            "{", "}", "{id", "id}", "{}", "{*}", "{a{b}", "{a*}", "{a}{b}", "{a}x",
        ] {
            assert!(parse_segment(segment).is_err(), "{segment}");
        }
    }

    #[test]
    fn the_longest_text_before_a_parameter_is_matched_first() {
        let mut templates = RouteTemplates::default();
        for (index, template) in ["/v{a}", "/{b}", "/v1-{c}", "/v1-x", "/v1{*d}", "/{*e}"]
            .into_iter()
            .enumerate()
        {
            assert_eq!(templates.insert(template, index), Ok(None));
        }
        assert_eq!(templates.insert("/{other}", 9), Ok(Some(1)));
        assert_eq!(templates.insert("/v1{*other}", 9), Ok(Some(4)));
        for (path, expected) in [
            ("/v1-x", Some(3)),
            ("/v1-y", Some(2)),
            ("/v1-", Some(0)),
            ("/v", Some(1)),
            ("/v1-y/z", Some(4)),
            ("/v/z", Some(5)),
            ("/", None),
            ("//", Some(5)),
            ("x", None),
        ] {
            assert_eq!(templates.find(path, Some), expected, "{path}");
        }
    }
}
