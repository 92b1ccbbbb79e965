//! Makes the page of fields from the tables by which the loader reads.

use std::collections::HashSet;
use std::fmt::Write;

use crate::policy::blueprint::{BLUEPRINTS, VALUES};
use crate::policy::components::{CIRCUIT_KINDS, FLOW_CONTROL_KINDS, KnownKind};
use crate::policy::decode::{Absent, Bounds, Field, FieldValue, Given, Section};
use crate::policy::document::{POLICY, RESOURCE};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/policy/fields.md");
/// Rewrites the page, if set.
const UPDATE: &str = "TOWER_APERTURE_UPDATE_FIELDS";

const INTRODUCTION: &str = "
The loader reads policies by the tables of this page, and a test makes the page from them.

A file is a [values file](#values-file) of a [blueprint](#blueprints), a [policy resource](#policy-resource) or a bare
[policy](#policy). Its keys are in snake_case, apart from those of the resource itself. An unknown key is a warning, and an
error in a values file.

- A *duration* is in seconds: `30s`, `0.5s`. Where zero is allowed, less than zero counts as zero.
- A *number* has no quotes. In a policy it may also be a quoted JSON number, `'NaN'` or `'Infinity'`.
- A *status code* is a name, such as `TooManyRequests`. In a policy it may also be a number.
- *Text* that looks like a number or a boolean needs quotes.
- A field that is *required* has no default. If a cell of the column *default* is empty, the field may be absent.
";

/// Writes sections, and finds the sections that they refer to.
#[derive(Default)]
struct PageWriter {
    page: String,
    /// The sections that the page refers to, in the order of the first reference.
    referenced: Vec<&'static Section>,
}

impl PageWriter {
    fn line(&mut self, line: &str) {
        self.page.push_str(line);
        self.page.push('\n');
    }

    fn section(&mut self, section: &'static Section, note: &str) {
        self.line(&format!("\n## {}\n", section.name));
        let given = match section.given {
            Given::Any => "",
            Given::AtLeastOne => "At least one of the fields is required.",
            Given::AtMostOne => "At most one of the fields may be given.",
            Given::ExactlyOne => "Exactly one of the fields is required.",
        };
        for note in [note, given] {
            if !note.is_empty() {
                self.line(&format!("{note}\n"));
            }
        }
        self.line("| field | value | default | meaning |\n|---|---|---|---|");
        self.rows(section, "");
    }

    fn rows(&mut self, section: &'static Section, path: &str) {
        for field in section.fields.iter().copied().flatten() {
            let value = self.value(&field.value);
            let default = match field.absent {
                Absent::Refused => "*required*".to_owned(),
                Absent::Allowed => String::new(),
                Absent::Default(value) => format!("`{value}`"),
            };
            let Field { name, meaning, .. } = field;
            self.line(&format!(
                "| `{path}{name}` | {value} | {default} | {meaning} |"
            ));
            if let FieldValue::Section(inner) = field.value
                && inner.name.is_empty()
            {
                self.rows(inner, &format!("{path}{name}."));
            }
        }
    }

    fn value(&mut self, value: &FieldValue) -> String {
        match value {
            FieldValue::Text => "text".to_owned(),
            FieldValue::Name => "text, not empty".to_owned(),
            FieldValue::Syntax(what, _) | FieldValue::Unchecked(what, _) => (*what).to_owned(),
            FieldValue::OneOf(names) => format!("`{}`", names.join("`, `")),
            FieldValue::StatusCode => "status code".to_owned(),
            FieldValue::Boolean => "`true`, `false`".to_owned(),
            FieldValue::Number(bounds) => format!("number{}", within(*bounds)),
            FieldValue::Count(bounds) => format!("whole number{}", within(*bounds)),
            FieldValue::Duration => "duration".to_owned(),
            FieldValue::PositiveDuration => "duration, more than zero".to_owned(),
            FieldValue::Texts => "list of texts".to_owned(),
            FieldValue::Numbers => "list of numbers".to_owned(),
            FieldValue::TextMap => "texts by their keys".to_owned(),
            FieldValue::Mapping => "mapping".to_owned(),
            FieldValue::Section(section) if section.name.is_empty() => "mapping".to_owned(),
            FieldValue::Section(section) => self.link(section),
            FieldValue::List(section) => format!("list of {}", self.link(section)),
            FieldValue::Map(section) => format!("{} by its name", self.link(section)),
            FieldValue::Components => "list of [components](#components)".to_owned(),
        }
    }

    fn link(&mut self, section: &'static Section) -> String {
        assert!(
            !section.name.is_empty(),
            "only a mapping is written within its parent"
        );
        if !self
            .referenced
            .iter()
            .any(|other| std::ptr::eq(*other, section))
        {
            self.referenced.push(section);
        }
        format!("[{}](#{})", section.name, anchor(section.name))
    }

    fn kinds(&mut self, kinds: &'static [KnownKind]) {
        self.line("\n| kind | fields |\n|---|---|");
        for (name, support) in kinds {
            if let Some((_, section)) = support
                && !section.fields.is_empty()
            {
                let link = self.link(section);
                self.line(&format!("| `{name}` | {link} |"));
            }
        }
        let unsupported = kinds.iter().filter(|(_, support)| support.is_none());
        let unsupported: Vec<_> = unsupported.map(|(name, _)| format!("`{name}`")).collect();
        if !unsupported.is_empty() {
            let names = unsupported.join(", ");
            self.line(&format!("\nNot supported, and refused by name: {names}."));
        }
    }
}

fn within(bounds: Bounds) -> String {
    match bounds {
        Bounds::None => String::new(),
        Bounds::NotZero => ", not zero".to_owned(),
        Bounds::MoreThan(least) => format!(", more than {least}"),
        Bounds::AtLeast(least) => format!(", at least {least}"),
        Bounds::Within(least, most) => format!(", from {least} to {most}"),
    }
}

/// Returns the anchor that documentation gives to a heading.
fn anchor(heading: &str) -> String {
    heading.to_lowercase().replace(' ', "-")
}

fn file() -> String {
    std::fs::read_to_string(FILE).expect("the page can be read")
}

fn page() -> String {
    let mut writer = PageWriter::default();
    writer.page.push_str(INTRODUCTION.trim_start());
    writer.line("\n# Forms of a file");
    let mut written: Vec<&Section> = vec![&VALUES, &RESOURCE, &POLICY];
    for section in written.clone() {
        writer.section(section, "");
    }

    writer.line("\n# Blueprints\n\n| blueprint | fields under `policy` |\n|---|---|");
    for (name, _, section) in BLUEPRINTS {
        let link = writer.link(section);
        writer.line(&format!("| `{name}` | {link} |"));
    }
    for (_, _, section) in BLUEPRINTS {
        if !written.iter().any(|other| std::ptr::eq(*other, *section)) {
            written.push(section);
            writer.section(section, "The fields under `policy`.");
        }
    }

    writer
        .line("\n# Components\n\nA component is a mapping with one of these keys, or with the key");
    writer.line("`flow_control` and one of the kinds of the second table below it.");
    writer.kinds(CIRCUIT_KINDS);
    writer.line("\nThe kinds of `flow_control`:");
    writer.kinds(FLOW_CONTROL_KINDS);

    // A section may refer to further ones.
    let mut next = 0;
    while let Some(section) = writer.referenced.get(next).copied() {
        next += 1;
        if !written.iter().any(|other| std::ptr::eq(*other, section)) {
            written.push(section);
            writer.section(section, "");
        }
    }
    writer.page
}

#[test]
fn the_page_of_fields_is_made_from_the_tables_of_the_loader() {
    let page = page();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(FILE, page).expect("the page can be written");
        return;
    }
    let old_page = file();
    if page == old_page {
        return;
    }
    let mut difference = String::new();
    for (line, (new, old)) in page.lines().zip(old_page.lines()).enumerate() {
        if new != old {
            let _ = write!(difference, "line {}: `{old}` instead of `{new}`", line + 1);
            break;
        }
    }
    panic!("the page differs from the tables; run this test with {UPDATE}=1. {difference}");
}

#[test]
fn headings_of_the_page_are_unique() {
    let mut headings = HashSet::new();
    for line in page().lines().filter(|line| line.starts_with('#')) {
        assert!(
            headings.insert(anchor(line.trim_start_matches('#').trim())),
            "{line}"
        );
    }
}
