//! What clients do, through the [`metrics`](https://docs.rs/metrics) facade.
//!
//! Install a recorder before the first flow: a client asks for its handles when it first needs
//! them and keeps them. This crate never installs one, and without one nothing is recorded.
//!
//! ```
//! use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
//! use tower_aperture::metrics::{BUCKETS, CHECK_DURATION, FLOWS};
//! use tower_aperture::{ApertureClient, FlowParams};
//!
//! let recorder = PrometheusBuilder::new()
//!     .set_buckets_for_metric(Matcher::Full(CHECK_DURATION.to_owned()), &BUCKETS)?
//!     .build_recorder();
//! let scrape = recorder.handle();
//! // In a service: `.install_recorder()`, once.
//! metrics::with_local_recorder(&recorder, || {
//!     # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
//!     # runtime.block_on(async {
//!     let client = ApertureClient::disabled();
//!     drop(client.start_flow("checkout", FlowParams::new()).await);
//!     # });
//! });
//! assert!(scrape.render().contains(FLOWS));
//! # Ok::<(), metrics_exporter_prometheus::BuildError>(())
//! ```
//!
//! # Names
//!
//! | name | kind | labels | what |
//! |---|---|---|---|
//! | `tower_aperture_flows_total` | counter | `control_point`, `decision`, `reason` | flows that were decided about, or that nobody answered for |
//! | `tower_aperture_flows_ended_total` | counter | `control_point`, `status` | answered flows that have ended |
//! | `tower_aperture_flows_shadowed_total` | counter | `control_point` | rejected flows that ran all the same, in shadow mode |
//! | `tower_aperture_flows_undecided_total` | counter | `control_point` | accepted flows that no component of a policy decided about: they run without limits |
//! | `tower_aperture_flows_late_total` | counter | `control_point` | unreachable flows whose check was sent to an Agent and not answered in time |
//! | `tower_aperture_check_duration_seconds` | histogram | `control_point` | from the question to the decision, or to giving up on it |
//! | `tower_aperture_queue_duration_seconds` | histogram | `control_point` | how long flows waited in schedulers |
//! | `tower_aperture_checks_abandoned_total` | counter | `control_point` | decisions whose caller left before they came |
//! | `tower_aperture_labels_dropped_total` | counter | | labels that did not fit their limits |
//! | `tower_aperture_labels_shortened_total` | counter | | values of labels that were too long |
//! | `tower_aperture_cache_lookups_total` | counter | `cache`, `outcome` | keys looked up, with a flow or by a call |
//! | `tower_aperture_cache_answers_total` | counter | `outcome` | responses in the result cache: `answered` a request, or `unreadable` |
//! | `tower_aperture_cache_writes_total` | counter | `result` | changes to caches, made in the background |
//! | `tower_aperture_agent_given_up` | gauge | `agent` | clients that have given up this Agent |
//! | `tower_aperture_agents_given_up_total` | counter | | how often one was given up |
//! | `tower_aperture_probes_total` | counter | | calls that only asked whether an Agent answers |
//! | `tower_aperture_checks_spared_total` | counter | | flows that asked nobody, because no Agent answered |
//! | `tower_aperture_checks_moved_total` | counter | | checks asked of another Agent, because the first decided nothing |
//! | `tower_aperture_checks_unsettled_total` | counter | | checks that may have left a slot taken at an Agent |
//! | `tower_aperture_ends_total` | counter | `result` | ends of flows on their way to an Agent |
//! | `tower_aperture_ends_retried_total` | counter | | ends that were tried again |
//! | `tower_aperture_spans_total` | counter | `result` | spans on their way to an Agent |
#![cfg_attr(
    feature = "embedded",
    doc = "\
| `tower_aperture_engine_keys` | gauge | | keys with state; this and what follows by [`record_engine`] |
| `tower_aperture_engine_keys_evicted_total` | counter | | keys that made room for others |
| `tower_aperture_engine_reloads_total` | counter | `result` | `done` or `failed` |
| `tower_aperture_engine_load_multiplier` | gauge | `policy`, `component` | the share of the load that a load scheduler lets in |
| `tower_aperture_engine_accept_percentage` | gauge | `policy`, `component` | what a sampler or load ramp lets in |"
)]
//!
//! # Labels
//!
//! - `decision` is `accepted`, `rejected` or `unreachable`. `reason` is `none` for accepted flows,
//!   a [word](crate::RejectReason::as_str) for rejected ones, and the
//!   [kind of error](crate::FlowErrorKind::as_str) for unreachable ones.
//! - `status` is `ok`, `error` or `unset`.
//! - `cache` is `result` or `global`, `outcome` of a lookup is `hit`, `miss` or `refused`.
//! - `agent` is `host:port`, or `channel` for a channel you look after. An Agent counts as given up
//!   until it has answered a check.
//! - `result` is `delivered`, `failed` or `dropped`, as in [`ClientStats`](crate::ClientStats).
//! - `control_point` is its name. Hooks may make many: a client tells [`MAX_CONTROL_POINTS`]
//!   apart, and what comes later is [`OTHER`], which is logged once.
//!
//! Labels of flows, cache keys and anything else of a request are never labels of metrics.
//!
//! # What is counted where
//!
//! The client counts, so that flows of layers and flows by hand count once. A layer over a
//! [`Decider`](crate::Decider) of your own, or over an engine without a client, counts nothing.
//!
//! In process, a flow that is decided at once is not in the histogram of queues; with an Agent,
//! flows that went through a scheduler are, by what the Agent says it took for the decision.
//!
//! An accepted flow costs no allocation at a control point that is known, a few atomic operations
//! and two readings of the clock.

#[cfg(feature = "embedded")]
mod engine;

use metrics::Unit;

#[cfg(feature = "embedded")]
pub use self::engine::record_engine;

/// How many control points a client tells apart.
pub const MAX_CONTROL_POINTS: usize = 200;

/// The control point of flows beyond [`MAX_CONTROL_POINTS`].
pub const OTHER: &str = "other";

/// Bounds for the histograms, in seconds: from decisions in process to flows that wait for long.
///
/// They are yours to set, on the recorder; without any, the exporter of Prometheus makes summaries,
/// which the dashboard in `examples/grafana` cannot show.
pub const BUCKETS: [f64; 15] = [
    0.000_001, 0.000_01, 0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 5.0,
];

macro_rules! names {
    ($($(#[$of:meta])* $name:ident $method:ident $text:literal $unit:ident $what:literal;)+) => {
        $(
            $(#[$of])*
            #[doc = concat!("`", $text, "`: ", $what, ". See the [table](self#names).")]
            pub const $name: &str = $text;
        )+

        /// Tells the current recorder what the metrics are. Telling it again changes nothing.
        pub(crate) fn describe() {
            $(
                $(#[$of])*
                metrics::$method!($name, Unit::$unit, $what);
            )+
        }
    };
}

names! {
    FLOWS describe_counter "tower_aperture_flows_total" Count
        "Flows that were decided about, or that nobody answered for";
    FLOWS_ENDED describe_counter "tower_aperture_flows_ended_total" Count
        "Answered flows that have ended";
    FLOWS_SHADOWED describe_counter "tower_aperture_flows_shadowed_total" Count
        "Rejected flows that ran all the same, in shadow mode";
    FLOWS_UNDECIDED describe_counter "tower_aperture_flows_undecided_total" Count
        "Accepted flows that no component of a policy decided about";
    FLOWS_LATE describe_counter "tower_aperture_flows_late_total" Count
        "Unreachable flows whose check was sent to an Agent and not answered in time";
    CHECK_DURATION describe_histogram "tower_aperture_check_duration_seconds" Seconds
        "Seconds from the question to the decision, or to giving up on it";
    QUEUE_DURATION describe_histogram "tower_aperture_queue_duration_seconds" Seconds
        "Seconds that flows waited in schedulers";
    CHECKS_ABANDONED describe_counter "tower_aperture_checks_abandoned_total" Count
        "Decisions whose caller left before they came";
    LABELS_DROPPED describe_counter "tower_aperture_labels_dropped_total" Count
        "Labels of flows that did not fit their limits";
    LABELS_SHORTENED describe_counter "tower_aperture_labels_shortened_total" Count
        "Values of labels that were too long and were shortened";
    CACHE_LOOKUPS describe_counter "tower_aperture_cache_lookups_total" Count
        "Keys looked up in caches";
    CACHE_ANSWERS describe_counter "tower_aperture_cache_answers_total" Count
        "Responses in the result cache that answered a request, or were none";
    CACHE_WRITES describe_counter "tower_aperture_cache_writes_total" Count
        "Changes to caches, made in the background";
    #[cfg(feature = "remote")]
    AGENT_GIVEN_UP describe_gauge "tower_aperture_agent_given_up" Count
        "Clients that have given up this Agent";
    #[cfg(feature = "remote")]
    AGENTS_GIVEN_UP describe_counter "tower_aperture_agents_given_up_total" Count
        "How often an Agent was given up";
    #[cfg(feature = "remote")]
    PROBES describe_counter "tower_aperture_probes_total" Count
        "Calls that only asked whether an Agent answers";
    #[cfg(feature = "remote")]
    CHECKS_SPARED describe_counter "tower_aperture_checks_spared_total" Count
        "Flows that asked nobody, because no Agent answered";
    #[cfg(feature = "remote")]
    CHECKS_MOVED describe_counter "tower_aperture_checks_moved_total" Count
        "Checks asked of another Agent, because the first decided nothing";
    #[cfg(feature = "remote")]
    CHECKS_UNSETTLED describe_counter "tower_aperture_checks_unsettled_total" Count
        "Checks that may have left a slot taken at an Agent";
    #[cfg(feature = "remote")]
    ENDS describe_counter "tower_aperture_ends_total" Count
        "Ends of flows on their way to an Agent";
    #[cfg(feature = "remote")]
    ENDS_RETRIED describe_counter "tower_aperture_ends_retried_total" Count
        "Ends of flows that were tried again";
    #[cfg(feature = "remote")]
    SPANS describe_counter "tower_aperture_spans_total" Count
        "Spans on their way to an Agent";
    #[cfg(feature = "embedded")]
    ENGINE_KEYS describe_gauge "tower_aperture_engine_keys" Count
        "Keys with state in the engine";
    #[cfg(feature = "embedded")]
    ENGINE_KEYS_EVICTED describe_counter "tower_aperture_engine_keys_evicted_total" Count
        "Keys of the engine that made room for others";
    #[cfg(feature = "embedded")]
    ENGINE_RELOADS describe_counter "tower_aperture_engine_reloads_total" Count
        "How often changed policies were put in force, or refused";
    #[cfg(feature = "embedded")]
    ENGINE_LOAD_MULTIPLIER describe_gauge "tower_aperture_engine_load_multiplier" Count
        "The share of the load that a load scheduler lets in";
    #[cfg(feature = "embedded")]
    ENGINE_ACCEPT_PERCENTAGE describe_gauge "tower_aperture_engine_accept_percentage" Percent
        "The percentage of flows that a sampler or load ramp lets in";
}
