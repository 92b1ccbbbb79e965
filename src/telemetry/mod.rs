//! Sends one span for each accepted or rejected flow, in the form that the Agent's collector accepts.
//!
//! A flow leaves only a record; a background task makes spans of the records in batches. This module
//! does not use a tracer provider.

mod buffer;
mod span;

pub(crate) use self::buffer::SpanBuffer;
pub(crate) use self::span::{SpanRecord, encode};
