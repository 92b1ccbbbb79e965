//! Flow control for Tower services with FluxNinja Aperture.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use]
mod log;

mod client;
#[cfg(feature = "embedded")]
pub mod engine;
mod flow;
pub mod layer;
#[cfg(feature = "remote")]
pub mod pb;
#[cfg(feature = "embedded")]
pub mod policy;
#[cfg(feature = "remote")]
mod remote;
#[cfg(feature = "telemetry")]
mod telemetry;

#[doc(inline)]
pub use self::flow::{
    Check, ClientStats, ConnectionState, Decider, Denial, EndError, EndResponse, FlowDecision,
    FlowError, FlowErrorKind, FlowOutcome, FlowParams, FlowStatus, LabelLimits, Labels,
    RejectReason, Rejection, Ticket, TokenReturn, Verdict,
};
#[cfg(feature = "embedded")]
#[doc(inline)]
pub use self::policy::{PolicyError, PolicyWarning};
