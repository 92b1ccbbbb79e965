//! The tables of fields: what each mapping of a policy may contain. The loader reads by them, and
//! the page of fields is made of them.

/// A kind of mapping, with the fields that it may have.
#[derive(Debug)]
pub(in crate::policy) struct Section {
    /// The heading on the page of fields.
    #[cfg_attr(not(test), allow(dead_code))] // The page of fields is made by a test.
    pub(in crate::policy) name: &'static str,
    /// The fields in groups, so that sections can share some.
    pub(in crate::policy) fields: &'static [&'static [Field]],
    #[cfg_attr(not(test), allow(dead_code))]
    pub(in crate::policy) given: Given,
}

/// How many of the fields of a mapping are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Given {
    /// Each field for itself.
    Any,
    AtLeastOne,
    AtMostOne,
    ExactlyOne,
}

/// A field of a mapping.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), allow(dead_code))]
pub(in crate::policy) struct Field {
    pub(in crate::policy) name: &'static str,
    pub(in crate::policy) value: FieldValue,
    pub(in crate::policy) absent: Absent,
    /// In Markdown, with the unit.
    pub(in crate::policy) meaning: &'static str,
}

/// What follows if a field is absent.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), allow(dead_code))]
pub(in crate::policy) enum Absent {
    /// The policy is refused.
    Refused,
    /// The meaning of the field says what follows.
    Allowed,
    /// The same as this value, in YAML.
    Default(&'static str),
}

/// The values that a field takes.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), allow(dead_code))]
pub(in crate::policy) enum FieldValue {
    Text,
    /// A text that must not be empty.
    Name,
    /// A text with a syntax of its own: what it is, and an example.
    Syntax(&'static str, &'static str),
    OneOf(&'static [&'static str]),
    StatusCode,
    Boolean,
    Number(Bounds),
    Count(Bounds),
    /// A duration; less than zero counts as zero.
    Duration,
    /// A duration that must be more than zero.
    PositiveDuration,
    Texts,
    Numbers,
    /// A mapping from any keys to texts.
    TextMap,
    /// A mapping with any content.
    Mapping,
    /// Content that the loader does not check: what it is, and an example in YAML.
    Unchecked(&'static str, &'static str),
    Section(&'static Section),
    /// A list of such mappings.
    List(&'static Section),
    /// A mapping from names to such mappings.
    Map(&'static Section),
    /// A list of components.
    Components,
}

/// The numbers that a field takes.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), allow(dead_code))]
pub(in crate::policy) enum Bounds {
    None,
    NotZero,
    MoreThan(f64),
    AtLeast(f64),
    Within(f64, f64),
}

impl Section {
    /// Returns a section whose fields are each given or not.
    pub(in crate::policy) const fn new(
        name: &'static str,
        fields: &'static [&'static [Field]],
    ) -> Self {
        Self {
            name,
            fields,
            given: Given::Any,
        }
    }

    /// Returns a section with a rule for how many of its fields are given.
    pub(in crate::policy) const fn choice(
        name: &'static str,
        given: Given,
        fields: &'static [&'static [Field]],
    ) -> Self {
        Self {
            name,
            fields,
            given,
        }
    }

    /// Returns the names of the fields, in order.
    pub(in crate::policy) fn names(&'static self) -> impl Iterator<Item = &'static str> + Clone {
        self.fields
            .iter()
            .copied()
            .flatten()
            .map(|field| field.name)
    }
}

impl Field {
    /// Returns a field without which the policy is refused.
    pub(in crate::policy) const fn required(
        name: &'static str,
        value: FieldValue,
        meaning: &'static str,
    ) -> Self {
        Self {
            name,
            value,
            absent: Absent::Refused,
            meaning,
        }
    }

    /// Returns a field that may be absent.
    pub(in crate::policy) const fn optional(
        name: &'static str,
        value: FieldValue,
        meaning: &'static str,
    ) -> Self {
        Self {
            absent: Absent::Allowed,
            ..Self::required(name, value, meaning)
        }
    }

    /// Returns a field that may be absent, which is the same as the value `default`.
    pub(in crate::policy) const fn with_default(
        name: &'static str,
        value: FieldValue,
        default: &'static str,
        meaning: &'static str,
    ) -> Self {
        Self {
            absent: Absent::Default(default),
            ..Self::required(name, value, meaning)
        }
    }
}
