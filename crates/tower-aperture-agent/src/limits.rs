//! The limits that the section "The budget" of the crate's documentation lists.

use std::time::Duration;

use tower_aperture::LabelLimits;

/// Limits on what callers may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct AgentLimits {
    pub(super) message_size: usize,
    pub(super) labels: LabelLimits,
    pub(super) streams: u32,
    pub(super) connections: usize,
    pub(super) waiting: usize,
    pub(super) buffered: usize,
    pub(super) idle: Duration,
    pub(super) answer: Duration,
}

/// The defaults of [`AgentBuilder`].
pub(super) const DEFAULT_LIMITS: AgentLimits = AgentLimits {
    message_size: 4 << 20,
    labels: LabelLimits {
        count: 1024,
        bytes: 64 << 10,
    },
    streams: 1024,
    connections: 4096,
    waiting: 65_536,
    buffered: 64 << 20,
    idle: Duration::from_secs(60),
    answer: Duration::from_secs(30),
};
/// Bytes of each kind that a connection may hold before the shared limit applies, so that callers
/// with small calls are answered even while others hold all shared memory.
pub(super) const ALLOWANCE_BYTES: usize = 8 << 10;
/// Bytes of decoded calls, per process.
pub(super) const MAX_DECODED_BYTES: usize = 64 << 20;
/// Bytes of waiting flows, per process.
pub(super) const MAX_WAITING_BYTES: usize = 64 << 20;
/// Bytes that a waiting flow counts for in addition to its texts.
pub(super) const WAITING_FLOW_BYTES: usize = 512;
/// Bytes of responses that callers have not read, per process.
pub(super) const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// Repeated elements in one message: labels, keys, references, spans, attributes and the like.
pub(super) const MAX_ELEMENTS: usize = 65_536;
/// Bytes that one such element counts for when it is decoded.
pub(super) const ELEMENT_BYTES: usize = 512;
/// Members of objects and items of lists in one JSON message.
pub(super) const MAX_JSON_ELEMENTS: usize = 8192;
/// Bytes that one JSON member or item counts for.
pub(super) const JSON_ELEMENT_BYTES: usize = 4096;
/// Elements in the decision that a span carries.
pub(super) const MAX_DECISION_ELEMENTS: usize = 4096;
/// Bytes of the headers of one call.
pub(super) const MAX_HEADER_BYTES: u32 = 16 << 10;
/// Bytes that HTTP/1 reads and writes at a time, headers included.
pub(super) const HTTP1_BUFFER_BYTES: usize = 32 << 10;
/// Streams that may be reset for errors of the peer, per concurrent stream, before hyper closes the
/// connection. Reset streams hold no memory.
pub(super) const RESETS_PER_STREAM: usize = 16;
