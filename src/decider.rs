//! The interface for a decider of your own.
//!
//! A [`Decider`] decides whether flows may run, for the [layer](crate::ApertureLayer) and for your
//! own code. An [`ApertureClient`](crate::ApertureClient) and an embedded engine are deciders.
//! [`Decider`] has an example.

pub use crate::flow::{
    Check, ControlPoint, ControlPointMemo, Decider, Denial, LabelLosses, LabelSource, Ticket,
    Verdict,
};
