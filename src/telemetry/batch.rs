//! A batch of spans in the form in which it is sent: one message to the collector.

use bytes::{Buf, Bytes};

use super::attribute::put_text;
use crate::protobuf::{GRPC_PREFIX_LEN, grpc_prefix, put_bytes, put_len, put_message};

const LIBRARY: &str = "tower-aperture";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The most bytes of spans in one message, well below the 4 MiB that servers commonly accept.
pub(super) const MAX_BATCH_BYTES: usize = 1024 * 1024;

const SERVICE_NAME: &str = "service.name";
const SERVICE_VERSION: &str = "service.version";

/// The bytes that are free before the spans for what precedes them in the message: the library's
/// name and version twice, the keys of both attributes, and less than 64 bytes of gRPC prefix, keys
/// and lengths.
const HEAD_ROOM: usize =
    64 + 2 * (LIBRARY.len() + VERSION.len()) + SERVICE_NAME.len() + SERVICE_VERSION.len();

/// Spans, encoded one after the other as fields of one message. They take at most
/// [`MAX_BATCH_BYTES`].
pub(crate) struct SpanBatch {
    /// [`HEAD_ROOM`] bytes, then the spans.
    buffer: Vec<u8>,
    spans: usize,
}

impl SpanBatch {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; HEAD_ROOM],
            spans: 0,
        }
    }

    /// Returns the number of spans.
    pub(crate) const fn len(&self) -> usize {
        self.spans
    }

    /// Returns the bytes of the spans.
    pub(super) const fn span_bytes(&self) -> usize {
        self.buffer.len() - HEAD_ROOM
    }

    /// Adds a span, which is encoded as a field of the message.
    pub(super) fn push(&mut self, span: &[u8]) {
        self.extend(span);
        self.spans += 1;
    }

    /// Adds all spans of another batch.
    pub(super) fn append(&mut self, other: &Self) {
        self.extend(&other.buffer[HEAD_ROOM..]);
        self.spans += other.spans;
    }

    /// Adds bytes. The buffer doubles like that of any vector, up to the size of a full batch.
    fn extend(&mut self, spans: &[u8]) {
        let len = self.buffer.len() + spans.len();
        if len > self.buffer.capacity() {
            let doubled = (2 * self.buffer.capacity()).min(HEAD_ROOM + MAX_BATCH_BYTES);
            self.buffer
                .reserve_exact(doubled.max(len) - self.buffer.len());
        }
        self.buffer.extend_from_slice(spans);
    }

    /// Returns the message with its gRPC prefix, in the buffer of the batch.
    pub(crate) fn into_message(mut self) -> Bytes {
        let (mut resource, mut scope) = (Vec::new(), Vec::new());
        put_message(&mut resource, 1, |resource| {
            put_text(resource, 1, SERVICE_NAME, LIBRARY);
            put_text(resource, 1, SERVICE_VERSION, VERSION);
        });
        put_message(&mut scope, 1, |scope| {
            put_bytes(scope, 1, LIBRARY);
            put_bytes(scope, 2, VERSION);
        });
        let scope_spans_len = scope.len() + self.span_bytes();
        let mut scope_spans = Vec::new();
        put_len(&mut scope_spans, 2, scope_spans_len);
        let resource_spans_len = resource.len() + scope_spans.len() + scope_spans_len;
        let mut resource_spans = Vec::new();
        put_len(&mut resource_spans, 1, resource_spans_len);

        let head = [resource_spans, resource, scope_spans, scope].concat();
        let message_start = HEAD_ROOM - head.len();
        let start = message_start - GRPC_PREFIX_LEN;
        self.buffer[message_start..HEAD_ROOM].copy_from_slice(&head);
        let prefix = grpc_prefix(self.buffer.len() - message_start);
        self.buffer[start..message_start].copy_from_slice(&prefix);
        let mut message = Bytes::from(self.buffer);
        message.advance(start);
        message
    }
}
