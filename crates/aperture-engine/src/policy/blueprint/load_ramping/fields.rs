//! The fields of `load-ramping/base`.

use crate::policy::blueprint::BASE;
use crate::policy::decode::{Bounds, Field, FieldValue, Section};
use crate::policy::resources::FLUX_METER;
use crate::policy::{components, selector};

/// The fields under `policy`.
pub(in crate::policy::blueprint) static FIELDS: Section = Section::new(
    "Load ramping",
    &[
        BASE,
        &[
            Field::required(
                "load_ramp",
                FieldValue::Section(&components::LOAD_RAMP_PARAMETERS),
                "The ramp.",
            ),
            Field::with_default(
                "start",
                FieldValue::Boolean,
                "false",
                "Whether the ramp moves. Dynamic configuration sets it by the key `start`, and the \
                 key `reset` moves the ramp to its start.",
            ),
            Field::optional(
                "drivers",
                FieldValue::Section(&DRIVERS),
                "What moves the ramp forward and backward. Without drivers, it moves forward.",
            ),
            Field::optional(
                "kubelet_metrics",
                FieldValue::Unchecked("an empty mapping", "{}"),
                "Not supported: any content is refused.",
            ),
        ],
    ],
);

pub(super) static DRIVERS: Section = Section::new(
    "Drivers",
    &[&[
        Field::optional(
            "promql_drivers",
            FieldValue::List(&PROMQL_DRIVER),
            "Compare the result of a query.",
        ),
        Field::optional(
            "average_latency_drivers",
            FieldValue::List(&AVERAGE_LATENCY_DRIVER),
            "Compare the mean latency of the last 30 seconds, in milliseconds.",
        ),
        Field::optional(
            "percentile_latency_drivers",
            FieldValue::List(&PERCENTILE_LATENCY_DRIVER),
            "Compare a percentile of the latency of the last 30 seconds, in milliseconds.",
        ),
    ]],
);

pub(super) static PROMQL_DRIVER: Section = Section::new(
    "Query driver",
    &[&[
        Field::required("query_string", FieldValue::Text, "The query in PromQL."),
        Field::required(
            "criteria",
            FieldValue::Section(&QUERY_CRITERIA),
            "When to move.",
        ),
    ]],
);

pub(super) static AVERAGE_LATENCY_DRIVER: Section = Section::new(
    "Average latency driver",
    &[&[
        selector::SELECTORS,
        Field::required(
            "criteria",
            FieldValue::Section(&LATENCY_CRITERIA),
            "When to move.",
        ),
    ]],
);

pub(super) static PERCENTILE_LATENCY_DRIVER: Section = Section::new(
    "Percentile latency driver",
    &[&[
        Field::required(
            "flux_meter",
            FieldValue::Section(&FLUX_METER),
            "The measured flows.",
        ),
        Field::required(
            "percentile",
            FieldValue::Number(Bounds::Within(0.0, 1.0)),
            "The share of the flows that are faster, such as 0.95.",
        ),
        Field::required(
            "criteria",
            FieldValue::Section(&LATENCY_CRITERIA),
            "When to move.",
        ),
    ]],
);

pub(super) static QUERY_CRITERIA: Section = Section::new(
    "Criteria of a query driver",
    &[&[
        Field::optional(
            "forward",
            FieldValue::Section(&COMPARISON),
            "Moves forward.",
        ),
        Field::optional(
            "backward",
            FieldValue::Section(&COMPARISON),
            "Moves backward.",
        ),
        Field::optional(
            "reset",
            FieldValue::Section(&COMPARISON),
            "Moves to the start.",
        ),
    ]],
);

pub(super) static LATENCY_CRITERIA: Section = Section::new(
    "Criteria of a latency driver",
    &[&[
        Field::optional(
            "forward",
            FieldValue::Section(&THRESHOLD),
            "Moves forward while the latency is less.",
        ),
        Field::optional(
            "backward",
            FieldValue::Section(&THRESHOLD),
            "Moves backward while the latency is more.",
        ),
        Field::optional(
            "reset",
            FieldValue::Section(&THRESHOLD),
            "Moves to the start while the latency is more.",
        ),
    ]],
);

const THRESHOLD_FIELD: Field = Field::required(
    "threshold",
    FieldValue::Number(Bounds::None),
    "The number to compare with.",
);

pub(super) static THRESHOLD: Section = Section::new("", &[&[THRESHOLD_FIELD]]);

pub(super) static COMPARISON: Section = Section::new(
    "",
    &[&[
        Field::required(
            "operator",
            FieldValue::OneOf(&["gt", "lt", "gte", "lte", "eq", "neq"]),
            "The comparison of the result with the threshold.",
        ),
        THRESHOLD_FIELD,
    ]],
);
