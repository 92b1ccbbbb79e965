//! One span for each answered flow, in the form the Agent's collector takes.
//!
//! Flows only leave a record; spans are made of them in batches, in the background. Nothing here
//! knows or touches a tracer provider.

mod buffer;
mod span;

pub(crate) use self::buffer::SpanBuffer;
pub(crate) use self::span::{SpanRecord, encode};
