//! The request messages of calls, encoded once.

use bytes::Bytes;
use prost::Message;

use crate::protobuf::{GRPC_PREFIX_LEN, grpc_prefix};

/// An encoded message with its gRPC prefix. Clones share the bytes, so that a message can be sent
/// again.
#[derive(Clone)]
pub(super) struct OutgoingMessage(Bytes);

impl OutgoingMessage {
    pub(super) fn new(message: &impl Message) -> Self {
        Self::build(message.encoded_len(), |buffer| {
            // Only a buffer that cannot grow makes this fail.
            let _ = message.encode(buffer);
        })
    }

    /// Encodes a message of about `len` bytes, whose fields `write` writes.
    pub(super) fn build(len: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut buffer = Vec::with_capacity(GRPC_PREFIX_LEN + len);
        buffer.resize(GRPC_PREFIX_LEN, 0);
        write(&mut buffer);
        let prefix = grpc_prefix(buffer.len() - GRPC_PREFIX_LEN);
        buffer[..GRPC_PREFIX_LEN].copy_from_slice(&prefix);
        Self(buffer.into())
    }

    /// Takes bytes that begin with the prefix of their message.
    pub(super) const fn from_framed(framed: Bytes) -> Self {
        Self(framed)
    }

    /// Returns the prefix and the message.
    pub(super) fn framed(&self) -> Bytes {
        self.0.clone()
    }

    /// Returns the message without the prefix.
    pub(super) fn unframed(&self) -> Bytes {
        self.0.slice(GRPC_PREFIX_LEN..)
    }
}
