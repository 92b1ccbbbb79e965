//! The fields of `load-scheduling/…`.

use crate::policy::blueprint::BASE;
use crate::policy::components;
use crate::policy::decode::{Bounds, Field, FieldValue, Section};
use crate::policy::resources::FLUX_METER;

/// The fields under `policy` of `load-scheduling/average-latency`.
pub(in crate::policy::blueprint) static AVERAGE_LATENCY: Section = Section::new(
    "Load scheduling by average latency",
    &[
        BASE,
        &[
            Field::required(
                "load_scheduling_core",
                FieldValue::Section(&AIMD_CORE),
                "The control loop.",
            ),
            Field::required(
                "latency_baseliner",
                FieldValue::Section(&BASELINER),
                "The usual latency.",
            ),
        ],
    ],
);

pub(super) static AIMD_CORE: Section = Section::new(
    "Core by average latency",
    &[
        &[Field::required(
            "aimd_load_scheduler",
            FieldValue::Section(&components::AIMD_PARAMETERS),
            "The load scheduler and its loop.",
        )],
        CORE,
    ],
);

pub(super) static AIAD_CORE: Section = Section::new("Core", &[AIAD, CORE]);

pub(super) static AIAD_CORE_WITH_SETPOINT: Section = Section::new(
    "Core with a setpoint",
    &[
        AIAD,
        CORE,
        &[Field::required(
            "setpoint",
            FieldValue::Number(Bounds::None),
            "The value above which there is an overload, in the unit of the blueprint.",
        )],
    ],
);

const AIAD: &[Field] = &[Field::required(
    "aiad_load_scheduler",
    FieldValue::Section(&components::AIAD_PARAMETERS),
    "The load scheduler and its loop.",
)];

const CORE: &[Field] = &[
    Field::optional(
        "overload_confirmations",
        FieldValue::List(&CONFIRMATION),
        "Queries that must all confirm an overload.",
    ),
    Field::with_default(
        "dry_run",
        FieldValue::Boolean,
        "false",
        "Whether every flow passes. Dynamic configuration sets it by the key `dry_run`.",
    ),
    Field::optional(
        "kubelet_overload_confirmations",
        FieldValue::Unchecked("a mapping with `criteria` and `infra_context`", "{}"),
        "`criteria.pod_cpu` and `criteria.pod_memory`, each with `enabled` and `threshold`, must \
         confirm an overload for the pods of `infra_context`: `kind`, `name` and `namespace`.",
    ),
];

pub(super) static CONFIRMATION: Section = Section::new(
    "Overload confirmation",
    &[&[
        Field::required("query_string", FieldValue::Text, "The query in PromQL."),
        Field::required(
            "threshold",
            FieldValue::Number(Bounds::None),
            "The number to compare the result with.",
        ),
        Field::required(
            "operator",
            FieldValue::OneOf(&["gt", "lt", "gte", "lte", "eq", "neq"]),
            "The comparison that confirms an overload.",
        ),
    ]],
);

pub(super) static BASELINER: Section = Section::new(
    "Latency baseliner",
    &[&[
        Field::required(
            "flux_meter",
            FieldValue::Section(&FLUX_METER),
            "The measured flows.",
        ),
        Field::with_default(
            "latency_tolerance_multiplier",
            FieldValue::Number(Bounds::None),
            "1.25",
            "How many times the usual latency the current one may be. The current one is the mean \
             of 30 seconds.",
        ),
        Field::with_default(
            "long_term_query_interval",
            FieldValue::Syntax("a duration of PromQL", "10m"),
            "1800s",
            "The time whose mean latency is the usual one.",
        ),
        Field::with_default(
            "long_term_query_periodic_interval",
            FieldValue::PositiveDuration,
            "30s",
            "The time between two measurements of the usual latency.",
        ),
    ]],
);

/// The fields under `policy` of `load-scheduling/promql`.
pub(in crate::policy::blueprint) static PROMQL: Section = Section::new(
    "Load scheduling by a query",
    &[
        BASE,
        &[
            Field::required("promql_query", FieldValue::Text, "The query in PromQL."),
            Field::required(
                "setpoint",
                FieldValue::Number(Bounds::None),
                "The number to compare the result with.",
            ),
            Field::required(
                "overload_condition",
                FieldValue::OneOf(components::OVERLOAD_CONDITIONS),
                "The comparison of the result with the setpoint that means overload.",
            ),
        ],
        CORE_FIELD,
    ],
);

const CORE_FIELD: &[Field] = &[Field::required(
    "load_scheduling_core",
    FieldValue::Section(&AIAD_CORE),
    "The control loop.",
)];

const CORE_WITH_SETPOINT: &[Field] = &[Field::required(
    "load_scheduling_core",
    FieldValue::Section(&AIAD_CORE_WITH_SETPOINT),
    "The control loop.",
)];

/// The fields under `policy` of `load-scheduling/postgresql`.
pub(in crate::policy::blueprint) static POSTGRESQL: Section = Section::new(
    "Load scheduling for PostgreSQL",
    &[
        BASE,
        &[
            Field::required("postgresql", FieldValue::Mapping, RECEIVER),
            Field::required(
                "connections_used_threshold",
                FieldValue::Number(Bounds::None),
                "The share of connections in use above which there is an overload, in percent.",
            ),
        ],
        CORE_FIELD,
    ],
);

const RECEIVER: &str = "The receiver of the metrics, for the Agent. Not used here.";

/// The fields under `policy` of `load-scheduling/elasticsearch`.
pub(in crate::policy::blueprint) static ELASTICSEARCH: Section = Section::new(
    "Load scheduling for Elasticsearch",
    &[
        BASE,
        &[
            Field::required("elasticsearch", FieldValue::Mapping, RECEIVER),
            Field::required(
                "search_queue_threshold",
                FieldValue::Number(Bounds::None),
                "The number of waiting searches above which there is an overload.",
            ),
        ],
        CORE_FIELD,
    ],
);

/// The fields under `policy` of `load-scheduling/java-gc-…`.
pub(in crate::policy::blueprint) static JAVA_GC: Section = Section::new(
    "Load scheduling by Java garbage collection",
    &[
        BASE,
        &[Field::required("jmx", FieldValue::Mapping, RECEIVER)],
        CORE_WITH_SETPOINT,
    ],
);

/// The fields under `policy` of `load-scheduling/cpu-overload-protection-k8s`.
pub(in crate::policy::blueprint) static CPU: Section = Section::new(
    "Load scheduling by CPU of pods",
    &[
        BASE,
        &[Field::required(
            "kubernetes_object_selector",
            FieldValue::Unchecked(
                "a mapping with `name` and `namespace`",
                "{name: shop, namespace: default}",
            ),
            "The deployment whose pods are measured.",
        )],
        CORE_WITH_SETPOINT,
    ],
);
