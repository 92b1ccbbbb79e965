//! The fields of `resources`.

use crate::policy::decode::{Bounds, Field, FieldValue, Given, Section};
use crate::policy::selector;

/// The `resources` of a policy or a values file.
pub(in crate::policy) const RESOURCES: Field = Field::optional(
    "resources",
    FieldValue::Section(&RESOURCES_SECTION),
    "Classifiers and flux meters.",
);

pub(super) static RESOURCES_SECTION: Section = Section::new(
    "Resources",
    &[&[
        Field::optional(
            "flow_control",
            FieldValue::Section(&FLOW_CONTROL),
            "The resources of flow control.",
        ),
        Field::optional(
            "infra_meters",
            FieldValue::Unchecked("a mapping", "{}"),
            "Has no effect: the receivers of metrics of an Agent.",
        ),
    ]],
);

pub(super) static FLOW_CONTROL: Section = Section::new(
    "",
    &[&[
        Field::optional(
            "classifiers",
            FieldValue::List(&CLASSIFIER),
            "Make labels from the attributes of HTTP requests.",
        ),
        Field::optional(
            "flux_meters",
            FieldValue::Map(&FLUX_METER),
            "Measure flows, by the names of the meters.",
        ),
    ]],
);

pub(super) static CLASSIFIER: Section = Section::new(
    "Classifier",
    &[&[
        selector::SELECTORS,
        Field::optional(
            "rules",
            FieldValue::Map(&RULE),
            "The rule of each label. The name of a label has letters, digits and `_`, and does not \
             begin with a digit.",
        ),
        Field::optional("rego", FieldValue::Section(&REGO), "A Rego module."),
    ]],
);

pub(super) static RULE: Section = Section::new(
    "Rule",
    &[&[
        Field::optional(
            "extractor",
            FieldValue::Section(&EXTRACTOR),
            "The source of the value. Without it, the label is never set.",
        ),
        Field::with_default(
            "telemetry",
            FieldValue::Boolean,
            "true",
            "Whether telemetry has the label.",
        ),
    ]],
);

pub(super) static REGO: Section = Section::new(
    "Rego module",
    &[&[
        Field::required(
            "module",
            FieldValue::Syntax("the text of a module", "package example"),
            "The module. It is evaluated with the feature `rego`.",
        ),
        Field::optional(
            "labels",
            FieldValue::Map(&REGO_LABEL),
            "The labels that the module sets.",
        ),
    ]],
);

pub(super) static REGO_LABEL: Section = Section::new(
    "Label of a Rego module",
    &[&[Field::with_default(
        "telemetry",
        FieldValue::Boolean,
        "true",
        "Whether telemetry has the label.",
    )]],
);

pub(super) static EXTRACTOR: Section = Section::choice(
    "Extractor",
    Given::AtMostOne,
    &[&[
        Field::optional("from", ATTRIBUTE, "The value of an attribute."),
        Field::optional(
            "json",
            FieldValue::Section(&JSON),
            "A value in an attribute that is a JSON document.",
        ),
        Field::optional(
            "jwt",
            FieldValue::Section(&JWT),
            "A value in the payload of a JSON web token, whose signature is not verified.",
        ),
        Field::optional(
            "address",
            FieldValue::Section(&ADDRESS),
            "The IP address of the source or the destination.",
        ),
        Field::optional(
            "path_templates",
            FieldValue::Section(&PATH_TEMPLATES),
            "The value of the template that the path matches.",
        ),
    ]],
);

const ATTRIBUTE: FieldValue = FieldValue::Syntax("an attribute", "request.http.method");
const POINTER: FieldValue = FieldValue::Syntax("a JSON pointer", "/user/name");

pub(super) static JSON: Section = Section::new(
    "",
    &[&[
        Field::required("from", ATTRIBUTE, "The attribute."),
        Field::with_default("pointer", POINTER, "''", "The place in the document."),
    ]],
);

pub(super) static JWT: Section = Section::new(
    "",
    &[&[
        Field::required(
            "from",
            ATTRIBUTE,
            "The attribute, such as `request.http.bearer`.",
        ),
        Field::with_default("json_pointer", POINTER, "''", "The place in the payload."),
    ]],
);

pub(super) static ADDRESS: Section = Section::new(
    "",
    &[&[Field::required(
        "from",
        FieldValue::OneOf(&["source.address", "destination.address"]),
        "The side of the connection.",
    )]],
);

pub(super) static PATH_TEMPLATES: Section = Section::new(
    "",
    &[&[Field::required(
        "template_values",
        FieldValue::TextMap,
        "Templates such as `/users/{id}` with their values; at least one. A template has literal \
         segments, then parameters, then optionally `*`.",
    )]],
);

/// The fields of a flux meter.
pub(in crate::policy) static FLUX_METER: Section = Section::new(
    "Flux meter",
    &[&[
        selector::SELECTORS,
        Field::with_default(
            "attribute_key",
            FieldValue::Text,
            "workload_duration_ms",
            "What is measured: the duration of the flow, in milliseconds.",
        ),
        Field::optional(
            "static_buckets",
            FieldValue::Section(&STATIC_BUCKETS),
            "Buckets of the histogram. One of the four kinds of buckets may be given.",
        ),
        Field::optional(
            "linear_buckets",
            FieldValue::Section(&LINEAR_BUCKETS),
            "Buckets of the same width.",
        ),
        Field::optional(
            "exponential_buckets",
            FieldValue::Section(&EXPONENTIAL_BUCKETS),
            "Buckets of which each is wider than the previous one by a factor.",
        ),
        Field::optional(
            "exponential_buckets_range",
            FieldValue::Section(&EXPONENTIAL_RANGE),
            "The same, between two bounds.",
        ),
    ]],
);

pub(super) static STATIC_BUCKETS: Section = Section::new(
    "",
    &[&[Field::with_default(
        "buckets",
        FieldValue::Numbers,
        "[5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000]",
        "The upper bounds.",
    )]],
);

pub(super) static LINEAR_BUCKETS: Section = Section::new(
    "",
    &[&[
        Field::with_default(
            "start",
            FieldValue::Number(Bounds::None),
            "0",
            "The upper bound of the first bucket.",
        ),
        Field::with_default(
            "width",
            FieldValue::Number(Bounds::None),
            "0",
            "The width of a bucket.",
        ),
        COUNT,
    ]],
);

pub(super) static EXPONENTIAL_BUCKETS: Section = Section::new(
    "",
    &[&[
        Field::required(
            "start",
            FieldValue::Number(Bounds::MoreThan(0.0)),
            "The upper bound of the first bucket.",
        ),
        Field::required(
            "factor",
            FieldValue::Number(Bounds::MoreThan(1.0)),
            "The factor from one upper bound to the next.",
        ),
        COUNT,
    ]],
);

pub(super) static EXPONENTIAL_RANGE: Section = Section::new(
    "",
    &[&[
        Field::required(
            "min",
            FieldValue::Number(Bounds::MoreThan(0.0)),
            "The upper bound of the first bucket.",
        ),
        Field::with_default(
            "max",
            FieldValue::Number(Bounds::None),
            "0",
            "The upper bound of the last bucket.",
        ),
        COUNT,
    ]],
);

/// The maximum number of buckets of a histogram, to bound its memory.
pub(super) const MAX_BUCKETS: u32 = 10_000;

const COUNT: Field = Field::required(
    "count",
    FieldValue::Count(Bounds::Within(1.0, MAX_BUCKETS as f64)),
    "The number of buckets.",
);
