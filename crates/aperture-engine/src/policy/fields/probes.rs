//! Checks each statement of the page of fields against the loader: whether a field is required,
//! which values it takes, its bounds and its default.

use std::collections::HashSet;

use crate::policy::blueprint::{BLUEPRINTS, VALUES};
use crate::policy::components::{CIRCUIT_KINDS, FLOW_CONTROL_KINDS};
use crate::policy::decode::{Absent, Bounds, Field, FieldValue, Given, Section};
use crate::policy::document::{POLICY, RESOURCE};
use crate::policy::{LoadedPolicy, PolicyError, load};

/// Makes a signal that changes.
const SIGNAL: &str =
    "{query: {promql: {query_string: up, out_ports: {output: {signal_name: SIGNAL}}}}}";
/// The in-ports of a control loop.
const LOOP_IN_PORTS: &str =
    "in_ports: {signal: {signal_name: SIGNAL}, setpoint: {constant_signal: {value: 1}}}";
const OUTPUT: &str = "out_ports: {output: {signal_name: OUTPUT}}";
/// Makes the signal `OUTPUT` matter.
const SINK: &str = "{flow_control: {sampler: {in_ports: {accept_percentage: {signal_name: OUTPUT}}, \
     parameters: {selectors: [{control_point: shop}]}}}}";
const LIMITER: &str = "{flow_control: {rate_limiter: {in_ports: {bucket_capacity: \
     {constant_signal: {value: 1}}, fill_amount: {constant_signal: {value: 1}}}, \
     parameters: {interval: 1s}, selectors: [{control_point: shop}]}}}";

/// Fields whose value changes nothing in the documents of this test, with the section.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    // Alerts and scaling have no effect at all.
    ("Alert", "severity"),
    ("Pod scaler", "dry_run"),
    ("Auto scaler", "dry_run"),
    ("Pod auto scaler", "dry_run"),
    // Only if `enabled` is true.
    ("", "num_sync"),
    // Without operands, the result of the comparison is known when the policy is read.
    ("Decider", "true_for"),
    // Its signal reaches no component that decides.
    ("", "evaluation_interval"),
    // A load ramp sets it.
    ("Parameters of a sampler", "ramp_mode"),
];

/// Makes a document from the text of a section.
type Document<'a> = &'a dyn Fn(&str) -> String;

/// Returns the text of a section with its required fields, `changed` in place of one of them, and
/// without `removed`.
fn text(section: &'static Section, changed: Option<(&str, &str)>, removed: Option<&str>) -> String {
    let mut entries = Vec::new();
    let changed_name = changed.map(|(name, _)| name);
    let fields = || section.fields.iter().copied().flatten();
    // A field that needs no other section, because that could be this section.
    let plain = |field: &&Field| !matches!(field.value, FieldValue::Section(_));
    let first = fields().find(plain).or_else(|| fields().next());
    let first = first.map(|field| field.name);
    for field in fields() {
        let needed = match section.given {
            Given::Any => matches!(field.absent, Absent::Refused),
            Given::AtMostOne => false,
            Given::AtLeastOne | Given::ExactlyOne => changed.is_none() && Some(field.name) == first,
        };
        if needed && changed_name != Some(field.name) && removed != Some(field.name) {
            entries.push(format!("{}: {}", field.name, sample(&field.value)));
        }
    }
    entries.extend(changed.map(|(name, value)| format!("{name}: {value}")));
    format!("{{{}}}", entries.join(", "))
}

/// Returns a value that a field takes.
fn sample(value: &FieldValue) -> String {
    match value {
        FieldValue::Text | FieldValue::Name => "sample".to_owned(),
        FieldValue::Syntax(_, example) | FieldValue::Unchecked(_, example) => (*example).to_owned(),
        FieldValue::OneOf(names) => format!("'{}'", names[0]),
        FieldValue::StatusCode => "TooManyRequests".to_owned(),
        FieldValue::Boolean => "false".to_owned(),
        FieldValue::Number(bounds) | FieldValue::Count(bounds) => match bounds {
            Bounds::None | Bounds::NotZero => 7.0,
            Bounds::MoreThan(least) | Bounds::AtLeast(least) => least + 7.0,
            Bounds::Within(_, most) => *most,
        }
        .to_string(),
        FieldValue::Duration | FieldValue::PositiveDuration => "77s".to_owned(),
        FieldValue::Texts => "[sample]".to_owned(),
        FieldValue::Numbers => "[1, 2]".to_owned(),
        FieldValue::TextMap => "{sample: text}".to_owned(),
        FieldValue::Mapping => "{}".to_owned(),
        FieldValue::Section(section) => text(section, None, None),
        FieldValue::List(section) => format!("[{}]", text(section, None, None)),
        FieldValue::Map(section) => format!("{{sample: {}}}", text(section, None, None)),
        FieldValue::Components => "[]".to_owned(),
    }
}

/// Returns a value that a field refuses because of its type, if there is one.
fn of_wrong_type(value: &FieldValue) -> Option<&'static str> {
    match value {
        FieldValue::Unchecked(..) => None,
        FieldValue::Text | FieldValue::Name | FieldValue::Syntax(..) => Some("[]"),
        FieldValue::Duration | FieldValue::PositiveDuration => Some("5"),
        _ => Some("nonsense"),
    }
}

/// Returns values at the bounds of a field, each with whether the field takes it.
fn at_bounds(value: &FieldValue) -> Vec<(String, bool)> {
    let number = |value: f64, taken| (value.to_string(), taken);
    match value {
        FieldValue::Name => vec![("''".to_owned(), false)],
        FieldValue::Duration => vec![("0s".to_owned(), true), ("-1s".to_owned(), true)],
        FieldValue::PositiveDuration => vec![("0s".to_owned(), false), ("-1s".to_owned(), false)],
        FieldValue::Count(Bounds::MoreThan(least)) => {
            vec![
                number(*least, false),
                number(least + 1.0, true),
                number(1.5, false),
            ]
        }
        FieldValue::Number(bounds) | FieldValue::Count(bounds) => match *bounds {
            Bounds::None => vec![number(-1e9, true), number(1e9, true)],
            Bounds::NotZero => vec![number(0.0, false), number(-1.0, true)],
            Bounds::MoreThan(least) => vec![number(least, false), number(least + 0.5, true)],
            Bounds::AtLeast(least) => vec![number(least, true), number(least - 0.5, false)],
            Bounds::Within(least, most) => vec![
                number(least, true),
                number(most, true),
                number(least - 1.0, false),
                number(most + 1.0, false),
            ],
        },
        _ => Vec::new(),
    }
}

/// Returns a value that differs from the default, if the test knows one.
fn other_than(default: &str, value: &FieldValue) -> Option<String> {
    match value {
        FieldValue::Boolean => Some((default != "true").to_string()),
        FieldValue::OneOf(names) => names
            .iter()
            .find(|name| **name != default)
            .map(|name| (*name).to_owned()),
        // A number of the sample may be the default.
        FieldValue::Number(_) if sample(value) == default => None,
        _ => Some(sample(value)),
    }
}

fn loaded(text: &str) -> Result<LoadedPolicy, PolicyError> {
    load("p.yaml", text)
}

/// Returns what a policy consists of, apart from the hash of its text and positions in it.
fn content(text: &str) -> Result<String, String> {
    let mut policy = loaded(text).map_err(|error| error.to_string())?.policy;
    policy.hash = "".into();
    policy.unanswered_queries.clear();
    Ok(format!("{policy:?}"))
}

#[derive(Default)]
struct Probes {
    seen: HashSet<(*const Section, bool)>,
    fields: usize,
}

impl Probes {
    /// Probes the fields of a section and of those within it. `document` makes a whole document
    /// from the text of the section.
    fn section(&mut self, section: &'static Section, strict: bool, document: Document<'_>) {
        if !self.seen.insert((section, strict)) {
            return;
        }
        let minimal = document(&text(section, None, None));
        if let Err(error) = loaded(&minimal) {
            panic!("{}: {error}\n{minimal}", section.name);
        }
        self.known_keys(section, document);
        self.choice(section, document);
        for field in section.fields.iter().copied().flatten() {
            self.fields += 1;
            self.field(section, field, strict, document);
            let within = |inner: &str| {
                let value = match field.value {
                    FieldValue::List(_) => format!("[{inner}]"),
                    FieldValue::Map(_) => format!("{{sample: {inner}}}"),
                    _ => inner.to_owned(),
                };
                document(&text(section, Some((field.name, &value)), None))
            };
            if let FieldValue::Section(inner) | FieldValue::List(inner) | FieldValue::Map(inner) =
                field.value
            {
                self.section(inner, strict, &within);
            }
        }
    }

    /// The loader reads the section where the page says, and no other keys.
    fn known_keys(&self, section: &'static Section, document: Document<'_>) {
        let unknown = document(&with_entry(&text(section, None, None), "zzzzzzzz: 1"));
        let reported = match loaded(&unknown) {
            Err(error) => error.to_string(),
            Ok(loaded) => loaded.warnings.iter().map(ToString::to_string).collect(),
        };
        assert!(
            reported.contains("zzzzzzzz: unknown key"),
            "{}: {reported}\n{unknown}",
            section.name
        );
    }

    /// The rule for how many fields are given holds.
    fn choice(&self, section: &'static Section, document: Document<'_>) {
        let fields: Vec<Field> = section.fields.iter().copied().flatten().copied().collect();
        let none = loaded(&document("{}"));
        let both = || {
            let pair = &fields[..2];
            let pair = pair
                .iter()
                .map(|field| format!("{}: {}", field.name, sample(&field.value)));
            loaded(&document(&format!(
                "{{{}}}",
                pair.collect::<Vec<_>>().join(", ")
            )))
        };
        let (none_taken, both_taken) = match section.given {
            Given::Any => return,
            Given::AtLeastOne => (false, true),
            Given::AtMostOne => (true, false),
            Given::ExactlyOne => (false, false),
        };
        assert_eq!(none.is_ok(), none_taken, "{}: no field", section.name);
        assert_eq!(both().is_ok(), both_taken, "{}: two fields", section.name);
    }

    fn field(
        &self,
        section: &'static Section,
        field: &Field,
        strict: bool,
        document: Document<'_>,
    ) {
        // Without the feature, the loader does not read modules.
        if cfg!(not(feature = "rego")) && section.name == "Rego module" {
            return;
        }
        let name = field.name;
        let place = format!("{}.{name}", section.name);
        let with = |value: &str| document(&text(section, Some((name, value)), None));
        // Values files refuse the old names of fields.
        if strict && field.meaning.contains("Values files refuse it") {
            assert!(loaded(&with(&sample(&field.value))).is_err(), "{place}");
            return;
        }
        if let Err(error) = loaded(&with(&sample(&field.value))) {
            panic!("{place}: {error}\n{}", with(&sample(&field.value)));
        }
        if section.given == Given::Any {
            let absent = loaded(&document(&text(section, None, Some(name))));
            let required = matches!(field.absent, Absent::Refused);
            assert_eq!(absent.is_err(), required, "{place}: absent");
        }
        if let Some(wrong) = of_wrong_type(&field.value) {
            assert!(loaded(&with(wrong)).is_err(), "{place}: takes {wrong}");
        }
        for (value, taken) in at_bounds(&field.value) {
            let result = loaded(&with(&value));
            assert_eq!(
                result.is_ok(),
                taken,
                "{place}: {value}, {:?}",
                result.err()
            );
        }
        if let Absent::Default(default) = field.absent {
            let absent = content(&document(&text(section, None, Some(name))));
            assert_eq!(
                content(&with(default)),
                absent,
                "{place}: is not {default} by default"
            );
            if WITHOUT_EFFECT.contains(&(section.name, name)) {
                return;
            }
            if let Some(other) = other_than(default, &field.value) {
                assert_ne!(
                    content(&with(&other)),
                    absent,
                    "{place}: {other} has no effect"
                );
            }
        }
    }
}

const RESOURCES: &str =
    "resources: {flow_control: {flux_meters: {meter: {selectors: [{control_point: shop}]}}}}";

/// Returns a policy with components and, because a policy that only scales is refused, a limiter.
fn circuit(components: &str) -> String {
    format!("{{circuit: {{components: [{SIGNAL}, {components}, {LIMITER}]}}}}")
}

/// Adds an entry to the text of a mapping.
fn with_entry(mapping: &str, entry: &str) -> String {
    match mapping.strip_prefix('{') {
        Some("}") => format!("{{{entry}}}"),
        Some(rest) => format!("{{{entry}, {rest}"),
        None => panic!("no mapping: {mapping}"),
    }
}

/// Adds a signal that changes to the circuit of a policy, and a sampler that follows it.
fn with_changing_signal(policy: &str) -> String {
    let circuit = policy
        .find("circuit: {")
        .map(|start| start + "circuit: ".len());
    match circuit {
        Some(start) if !policy.contains("components:") => {
            let sampler = SINK.replace("OUTPUT", "SIGNAL");
            let components = format!("components: [{SIGNAL}, {sampler}]");
            policy[..start].to_owned() + &with_entry(&policy[start..], &components)
        }
        _ => policy.to_owned(),
    }
}

/// Returns whether a component has one output.
fn has_output(section: &'static Section) -> bool {
    let mut fields = section.fields.iter().copied().flatten();
    let outputs = fields.find(|field| field.name == "out_ports");
    outputs.is_some_and(|outputs| match outputs.value {
        FieldValue::Section(ports) => ports.names().any(|name| name == "output"),
        _ => false,
    })
}

#[test]
fn the_loader_reads_each_field_as_the_page_says() {
    let mut probes = Probes::default();
    for (kind, support) in FLOW_CONTROL_KINDS {
        let Some((_, section)) = support else {
            continue;
        };
        probes.section(section, false, &|text| {
            let text = match kind.ends_with("_load_scheduler") && !text.contains("in_ports") {
                true => with_entry(text, LOOP_IN_PORTS),
                false => text.to_owned(),
            };
            circuit(&format!("{{flow_control: {{{kind}: {text}}}}}"))
        });
    }
    for (kind, support) in CIRCUIT_KINDS {
        let Some((_, section)) = support else {
            continue;
        };
        if section.fields.is_empty() {
            continue;
        }
        probes.section(section, false, &|text| {
            if kind.starts_with("nested_signal") {
                let inner = format!("[{SIGNAL}, {{{kind}: {text}}}]");
                return circuit(&format!("{{nested_circuit: {{components: {inner}}}}}"));
            }
            // The output feeds a sampler, unless the text has outputs of its own.
            match has_output(section) && !text.contains("out_ports") {
                true => circuit(&format!("{{{kind}: {}}}, {SINK}", with_entry(text, OUTPUT))),
                false => circuit(&format!("{{{kind}: {text}}}")),
            }
        });
    }
    for (name, _, section) in BLUEPRINTS {
        probes.section(section, true, &|text| {
            let text = match (*name, text.contains("resources:")) {
                // A policy that only scales is refused.
                ("auto-scaling/pod-auto-scaler", false) => with_entry(text, RESOURCES),
                ("auto-scaling/pod-auto-scaler", true) => {
                    with_entry(text, &format!("components: [{LIMITER}]"))
                }
                _ => text.to_owned(),
            };
            format!("{{blueprint: {name}, policy: {text}}}")
        });
    }
    probes.section(&VALUES, true, &str::to_owned);
    probes.section(&RESOURCE, false, &with_changing_signal);
    probes.section(&POLICY, false, &with_changing_signal);
    assert!(probes.fields > 300, "{} fields were probed", probes.fields);
}
