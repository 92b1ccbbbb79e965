//! The types that all parts of the crate share: labels, parameters, decisions and ends of flows.
//!
//! This module does no I/O and does not depend on HTTP services, gRPC or policies.

pub(crate) mod baggage;
mod cache;
mod caches;
mod cause;
mod connection;
mod decider;
mod decision;
#[cfg(any(feature = "embedded", feature = "remote", test))]
pub(crate) mod encode;
mod end;
mod error;
#[cfg(any(feature = "embedded", feature = "remote"))]
pub(crate) mod first_seen;
pub(crate) mod headers;
pub(crate) mod http;
mod invalidation;
pub(crate) mod labels;
mod params;
mod quota;
pub(crate) mod shorten;
mod stats;
mod status;
mod trace;

pub use self::cache::{CacheChange, CacheLookup, CacheRefusal, CacheValue};
pub use self::caches::{CacheCall, CacheError, CacheEvent, CacheKey, Caches};
#[allow(unused_imports)] // Which errors have causes depends on the features.
pub(crate) use self::cause::{Cause, WithCauses};
pub use self::connection::{AgentStatus, ConnectionState};
pub use self::decider::{Check, Decider, Ticket, Verdict};
pub use self::decision::{Denial, FlowDecision, RejectReason, Rejection};
pub use self::end::{EndError, EndResponse, TokenReturn};
pub use self::error::{FlowError, FlowErrorKind};
pub use self::http::{HttpAttributes, HttpExtras};
pub use self::invalidation::{Invalidations, PendingInvalidation};
#[cfg(feature = "response-cache")]
pub(crate) use self::invalidation::{KeyHash, ResponseStamp};
pub use self::labels::{LabelLimits, Labels};
pub use self::params::FlowParams;
pub use self::quota::Quota;
pub use self::stats::ClientStats;
pub use self::status::{FlowOutcome, FlowStatus};
pub use self::trace::TraceContext;
#[cfg(feature = "telemetry")]
pub(crate) use self::trace::TraceParent;
