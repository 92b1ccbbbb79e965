//! Templates of paths, and which of them a path matches.

use std::borrow::Cow;
use std::collections::HashMap;

/// Templates, each with the index of what it is for.
///
/// Unlike a router's tree it holds templates that overlap, such as `/users/{id}` and
/// `/users/{*rest}`, and lets the caller pass by those that match but have no use for a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Templates {
    /// What follows the slash that all paths begin with.
    root: Node,
}

/// Where the segments up to here lead.
#[derive(Clone, Debug, Default)]
struct Node {
    /// Ends here.
    end: Option<usize>,
    texts: HashMap<Box<str>, Node>,
    /// A parameter by the text in front of it in the segment, the longest text first.
    parameters: Vec<(Box<str>, Node)>,
    /// A rest, `{*name}`, alike.
    rests: Vec<(Box<str>, usize)>,
}

/// One segment of a template.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The text in front of a parameter.
    Parameter(String),
    /// The text in front of a rest.
    Rest(String),
}

impl Templates {
    /// Adds a template that begins with a slash, or returns the index of an equal one, which may
    /// name its parameters otherwise.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the template and what would be right.
    pub(super) fn insert(
        &mut self,
        template: &str,
        index: usize,
    ) -> Result<Option<usize>, Cow<'static, str>> {
        let mut parts = Vec::new();
        for segment in template.split('/').skip(1) {
            if matches!(parts.last(), Some(Part::Rest(_))) {
                return Err("`{*rest}` comes last".into());
            }
            parts.push(part(segment)?);
        }
        let mut node = &mut self.root;
        for part in parts {
            node = match part {
                Part::Text(text) => node.texts.entry(text.into()).or_default(),
                Part::Parameter(before) => {
                    let at = place(&mut node.parameters, &before, Node::default);
                    &mut node.parameters[at].1
                }
                Part::Rest(before) => {
                    let at = place(&mut node.rests, &before, || index);
                    let known = node.rests[at].1;
                    return Ok((known != index).then_some(known));
                }
            };
        }
        let known = *node.end.get_or_insert(index);
        Ok((known != index).then_some(known))
    }

    /// Returns the first use of a template that matches the path, from the most specific one on: a
    /// text comes before a parameter and a parameter before a rest, from left to right.
    ///
    /// Visits each template at most once.
    pub(super) fn find<T>(&self, path: &str, mut of: impl FnMut(usize) -> Option<T>) -> Option<T> {
        self.root.find(Some(path.strip_prefix('/')?), &mut of)
    }
}

impl Node {
    fn find<T>(&self, path: Option<&str>, of: &mut impl FnMut(usize) -> Option<T>) -> Option<T> {
        let Some(path) = path else {
            return of(self.end?);
        };
        let (segment, rest) = match path.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (path, None),
        };
        if let Some(node) = self.texts.get(segment)
            && let Some(found) = node.find(rest, of)
        {
            return Some(found);
        }
        // Parameters and rests are not empty.
        let fits = |text: &str, before: &str| text.len() > before.len() && text.starts_with(before);
        for (before, node) in &self.parameters {
            if fits(segment, before)
                && let Some(found) = node.find(rest, of)
            {
                return Some(found);
            }
        }
        for (before, index) in &self.rests {
            if fits(path, before)
                && let Some(found) = of(*index)
            {
                return Some(found);
            }
        }
        None
    }
}

/// Finds a text, or makes room for it behind the longer ones.
fn place<T>(of: &mut Vec<(Box<str>, T)>, text: &str, new: impl FnOnce() -> T) -> usize {
    if let Some(at) = of.iter().position(|(known, _)| **known == *text) {
        return at;
    }
    let at = of.partition_point(|(known, _)| known.len() >= text.len());
    of.insert(at, (text.into(), new()));
    at
}

/// Reads a segment: a text, in which `{{` and `}}` are braces, and at most one parameter behind it.
fn part(segment: &str) -> Result<Part, Cow<'static, str>> {
    const BRACES: &str = "a parameter is a name in braces: `{id}`; `{{` is a brace";
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
                    return Err("a segment holds one parameter and nothing else: `/{id}`".into());
                }
                return Ok(match is_rest {
                    true => Part::Rest(text),
                    false => Part::Parameter(text),
                });
            }
            char => text.push(char),
        }
    }
    Ok(Part::Text(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_texts_or_end_in_a_parameter() {
        let text = |text: &str| Ok(Part::Text(text.to_owned()));
        for (segment, expected) in [
            ("", text("")),
            ("users", text("users")),
            ("{{id}}", text("{id}")),
            ("a}}{{b", text("a}{b")),
            ("{id}", Ok(Part::Parameter(String::new()))),
            ("v{id}", Ok(Part::Parameter("v".to_owned()))),
            ("{{{id}", Ok(Part::Parameter("{".to_owned()))),
            ("{*rest}", Ok(Part::Rest(String::new()))),
            ("v{*rest}", Ok(Part::Rest("v".to_owned()))),
        ] {
            assert_eq!(part(segment), expected, "{segment}");
        }
        for segment in [
            "{", "}", "{id", "id}", "{}", "{*}", "{a{b}", "{a*}", "{a}{b}", "{a}x",
        ] {
            assert!(part(segment).is_err(), "{segment}");
        }
    }

    #[test]
    fn the_longest_text_in_front_of_a_parameter_wins() {
        let mut templates = Templates::default();
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
