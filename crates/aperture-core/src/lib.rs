//! The types that all crates of [`tower-aperture`] share: labels, parameters, decisions and ends of
//! flows, and the [`Decider`] trait between a layer and what decides.
//!
//! Applications use them through `tower-aperture`, which exports them under its own name. Depend on
//! this crate to write a decider without the layer, the client and the engine. It does no I/O and
//! does not depend on Tower, gRPC or policies.
//!
//! The modules and the items that are hidden from the docs serve the other crates of the
//! workspace. They follow the version of `tower-aperture` and may change with it.
//!
//! The feature `tracing` enables the log events of all these crates.
//!
//! [`tower-aperture`]: https://docs.rs/tower-aperture
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod baggage;
mod cache;
mod caches;
mod cause;
mod connection;
mod control_point;
mod decider;
mod decision;
#[doc(hidden)]
pub mod decision_counters;
pub mod encode;
mod end;
mod error;
pub mod first_seen;
pub mod headers;
pub mod http;
mod invalidation;
pub mod labels;
mod log;
mod params;
#[doc(hidden)]
pub mod quota;
mod settle;
pub mod shorten;
mod stats;
mod status;
mod trace;

pub use self::cache::{CacheChange, CacheLookup, CacheRefusal, CacheValue};
pub use self::caches::{CacheCall, CacheError, CacheEvent, CacheKey, Caches};
pub use self::cause::{Cause, WithCauses};
pub use self::connection::{AgentStatus, ConnectionState};
pub use self::control_point::{ControlPoint, ControlPointMemo};
pub use self::decider::{Check, Decider, Ticket, Verdict};
pub use self::decision::{Denial, FlowDecision, RejectReason};
pub use self::end::{EndError, EndResponse, TokenReturn};
pub use self::error::{FlowError, FlowErrorKind};
pub use self::http::{HttpAttributes, HttpExtras};
pub use self::invalidation::{Invalidations, KeyHash, PendingInvalidation, ResponseStamp};
pub use self::labels::{LabelLimits, LabelLosses, LabelSource, Labels};
pub use self::log::WaitSpan;
pub use self::params::FlowParams;
pub use self::quota::Quota;
pub use self::settle::SettleError;
pub use self::stats::ClientStats;
pub use self::status::{FlowOutcome, FlowStatus};
pub use self::trace::{TraceContext, TraceParent};

/// For the macro [`log_event`].
#[cfg(feature = "tracing")]
#[doc(hidden)]
pub use tracing as __tracing;
