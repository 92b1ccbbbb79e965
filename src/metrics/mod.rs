//! Metrics of clients, through the [`metrics`](https://docs.rs/metrics) facade.
//!
//! Install a recorder before the first flow: a client registers its metrics on first use and keeps
//! their handles. This crate never installs a recorder; without one, the metrics are discarded.
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
//! // A service calls `.install_recorder()` once instead.
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
//! | name | kind | labels | meaning |
//! |---|---|---|---|
//! | `tower_aperture_flows_total` | counter | `control_point`, `decision`, `reason` | flows, by decision |
//! | `tower_aperture_flows_ended_total` | counter | `control_point`, `status` | accepted and rejected flows that have ended |
//! | `tower_aperture_flows_shadowed_total` | counter | `control_point` | rejected flows that ran nevertheless, in shadow mode |
//! | `tower_aperture_flows_undecided_total` | counter | `control_point` | accepted flows that no component of a policy decided about: they run without limits |
//! | `tower_aperture_flows_late_total` | counter | `control_point` | unreachable flows whose check was sent to an Agent and not answered in time |
//! | `tower_aperture_check_duration_seconds` | histogram | `control_point` | the time from the start of a check to its decision or error |
//! | `tower_aperture_queue_duration_seconds` | histogram | `control_point` | the time that flows waited in schedulers |
//! | `tower_aperture_checks_abandoned_total` | counter | `control_point` | checks whose caller left before the decision |
//! | `tower_aperture_labels_dropped_total` | counter | | labels that were dropped because they did not fit their limits |
//! | `tower_aperture_labels_shortened_total` | counter | | values of labels that were shortened because they were too long |
//! | `tower_aperture_cache_lookups_total` | counter | `cache`, `outcome` | keys looked up in caches, with a check or by a call |
//! | `tower_aperture_cache_answers_total` | counter | `outcome` | values of the result cache: a response that `answered` a request, or `unreadable` |
//! | `tower_aperture_cache_writes_total` | counter | `result` | changes to caches in the background |
//! | `tower_aperture_agent_given_up` | gauge | `agent` | the number of clients that have given up this Agent |
//! | `tower_aperture_agents_given_up_total` | counter | | how often an Agent was given up |
//! | `tower_aperture_probes_total` | counter | | calls that only test whether an Agent answers |
//! | `tower_aperture_checks_spared_total` | counter | | flows whose check was not sent, because all Agents were given up |
//! | `tower_aperture_checks_moved_total` | counter | | checks sent to another Agent, because the first made no decision |
//! | `tower_aperture_checks_unsettled_total` | counter | | checks that may have left a slot taken at an Agent |
//! | `tower_aperture_ends_total` | counter | `result` | ends of flows sent to an Agent, by result |
//! | `tower_aperture_ends_retried_total` | counter | | ends that were retried |
//! | `tower_aperture_spans_total` | counter | `result` | spans sent to an Agent, by result |
#![cfg_attr(
    feature = "embedded",
    doc = "\
| `tower_aperture_engine_keys` | gauge | | keys with state; [`record_engine`] records this and the following metrics |
| `tower_aperture_engine_keys_evicted_total` | counter | | keys that were evicted to make room for others |
| `tower_aperture_engine_reloads_total` | counter | `result` | reloads, which are `done` or `failed` |
| `tower_aperture_engine_load_multiplier` | gauge | `policy`, `component` | the share of the load that a load scheduler accepts |
| `tower_aperture_engine_concurrency_limit` | gauge | `policy`, `component`, `statistic` | the flows in flight that a concurrency limiter allows, if it [finds its limit](crate::policy::AdaptiveConcurrency) |
| `tower_aperture_engine_accept_percentage` | gauge | `policy`, `component` | the percentage of flows that a sampler or load ramp accepts |"
)]
//!
//! # Labels
//!
//! - `decision` is `accepted`, `rejected` or `unreachable`. `reason` is `none` for accepted flows,
//!   a [word](crate::RejectReason::as_str) for rejected ones, and the
//!   [kind of error](crate::FlowErrorKind::as_str) for unreachable ones.
//! - `status` is `ok`, `error` or `unset`.
//! - `cache` is `result` or `global`, `outcome` of a lookup is `hit`, `miss` or `refused`.
//! - `agent` is `host:port`, or `channel` for a channel that the application supplied. An Agent
//!   counts as given up until it has answered a check.
//! - `result` is `delivered`, `failed` or `dropped`, as in [`ClientStats`](crate::ClientStats).
//! - `statistic` is `lowest`, `mean` or `highest`, over all keys of the limiter.
//! - `control_point` is the name of the control point. Hooks may make many names: a client
//!   distinguishes [`MAX_CONTROL_POINTS`] and counts flows of further ones as [`OTHER`], which it
//!   logs once.
//!
//! Labels of flows, cache keys and other data of a request are never labels of metrics.
//!
//! # Where flows are counted
//!
//! The client counts flows, so that each counts once, with or without a layer. A layer over a
//! [`Decider`](crate::Decider) of your own, or over an engine without a client, does not count.
//!
//! The queue histogram leaves out flows that the engine decides at once. With an Agent, it has the
//! flows that passed a scheduler, with the time that the Agent reports for the decision.
//!
//! After the first flow of a control point, an accepted flow costs no allocation, a few atomic
//! operations and two readings of the clock.

#[cfg(feature = "embedded")]
mod engine;

use metrics::Unit;

#[cfg(feature = "embedded")]
pub use self::engine::record_engine;

/// The number of control points that a client distinguishes.
pub const MAX_CONTROL_POINTS: usize = 200;

/// The control point of flows beyond [`MAX_CONTROL_POINTS`].
pub const OTHER: &str = "other";

/// Suggested bounds for the histograms in seconds, from decisions in process to flows with a long
/// wait.
///
/// Set them on the recorder. Without bounds, the Prometheus exporter makes summaries, which the
/// dashboard in `examples/grafana` cannot show.
pub const BUCKETS: [f64; 15] = [
    0.000_001, 0.000_01, 0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 5.0,
];

/// Defines the names in groups, each with attributes that apply to all of its names.
macro_rules! names {
    ($($(#[$attribute:meta])* { $($group:tt)+ })+) => {
        $(name_constants! { [$(#[$attribute])*] $($group)+ })+

        /// Describes the metrics to the current recorder. Repeated calls have no further effect.
        pub(crate) fn describe() {
            $($(#[$attribute])* { describe_names! { $($group)+ } })+
        }
    };
}

macro_rules! name_constants {
    ($attributes:tt $($name:ident $method:ident $text:literal $unit:ident $help:literal;)+) => {
        $(name_constant! { $attributes $name $text $help })+
    };
}

macro_rules! name_constant {
    ([$($attribute:tt)*] $name:ident $text:literal $help:literal) => {
        $($attribute)*
        #[doc = concat!("`", $text, "`: ", $help, ". See the [table](self#names).")]
        pub const $name: &str = $text;
    };
}

macro_rules! describe_names {
    ($($name:ident $method:ident $text:literal $unit:ident $help:literal;)+) => {
        $(metrics::$method!($name, Unit::$unit, $help);)+
    };
}

names! {
    {
        FLOWS describe_counter "tower_aperture_flows_total" Count
            "Flows, by decision";
        FLOWS_ENDED describe_counter "tower_aperture_flows_ended_total" Count
            "Accepted and rejected flows that have ended";
        FLOWS_SHADOWED describe_counter "tower_aperture_flows_shadowed_total" Count
            "Rejected flows that ran nevertheless, in shadow mode";
        FLOWS_UNDECIDED describe_counter "tower_aperture_flows_undecided_total" Count
            "Accepted flows that no component of a policy decided about";
        FLOWS_LATE describe_counter "tower_aperture_flows_late_total" Count
            "Unreachable flows whose check was sent to an Agent and not answered in time";
        CHECK_DURATION describe_histogram "tower_aperture_check_duration_seconds" Seconds
            "Seconds from the start of a check to its decision or error";
        QUEUE_DURATION describe_histogram "tower_aperture_queue_duration_seconds" Seconds
            "Seconds that flows waited in schedulers";
        CHECKS_ABANDONED describe_counter "tower_aperture_checks_abandoned_total" Count
            "Checks whose caller left before the decision";
        LABELS_DROPPED describe_counter "tower_aperture_labels_dropped_total" Count
            "Labels of flows that were dropped because they did not fit their limits";
        LABELS_SHORTENED describe_counter "tower_aperture_labels_shortened_total" Count
            "Values of labels that were shortened because they were too long";
        CACHE_LOOKUPS describe_counter "tower_aperture_cache_lookups_total" Count
            "Keys looked up in caches";
        CACHE_ANSWERS describe_counter "tower_aperture_cache_answers_total" Count
            "Values of the result cache that answered a request or were unreadable";
        CACHE_WRITES describe_counter "tower_aperture_cache_writes_total" Count
            "Changes to caches in the background";
    }
    #[cfg(feature = "remote")] {
        AGENT_GIVEN_UP describe_gauge "tower_aperture_agent_given_up" Count
            "Clients that have given up this Agent";
        AGENTS_GIVEN_UP describe_counter "tower_aperture_agents_given_up_total" Count
            "How often an Agent was given up";
        PROBES describe_counter "tower_aperture_probes_total" Count
            "Calls that only test whether an Agent answers";
        CHECKS_SPARED describe_counter "tower_aperture_checks_spared_total" Count
            "Flows whose check was not sent, because all Agents were given up";
        CHECKS_MOVED describe_counter "tower_aperture_checks_moved_total" Count
            "Checks sent to another Agent, because the first made no decision";
        CHECKS_UNSETTLED describe_counter "tower_aperture_checks_unsettled_total" Count
            "Checks that may have left a slot taken at an Agent";
        ENDS describe_counter "tower_aperture_ends_total" Count
            "Ends of flows sent to an Agent, by result";
        ENDS_RETRIED describe_counter "tower_aperture_ends_retried_total" Count
            "Ends of flows that were retried";
        SPANS describe_counter "tower_aperture_spans_total" Count
            "Spans sent to an Agent, by result";
    }
    #[cfg(feature = "embedded")] {
        ENGINE_KEYS describe_gauge "tower_aperture_engine_keys" Count
            "Keys with state in the engine";
        ENGINE_KEYS_EVICTED describe_counter "tower_aperture_engine_keys_evicted_total" Count
            "Keys of the engine that were evicted to make room for others";
        ENGINE_RELOADS describe_counter "tower_aperture_engine_reloads_total" Count
            "Reloads of changed policies, by result";
        ENGINE_LOAD_MULTIPLIER describe_gauge "tower_aperture_engine_load_multiplier" Count
            "The share of the load that a load scheduler accepts";
        ENGINE_CONCURRENCY_LIMIT describe_gauge "tower_aperture_engine_concurrency_limit" Count
            "The flows in flight that a concurrency limiter allows, if it finds its limit";
        ENGINE_ACCEPT_PERCENTAGE describe_gauge "tower_aperture_engine_accept_percentage" Percent
            "The percentage of flows that a sampler or load ramp accepts";
    }
}
