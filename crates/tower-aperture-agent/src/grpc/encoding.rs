//! The compression of messages that callers may choose: gzip, or none.
//!
//! Responses are not compressed: most are small, and compressing them costs more than sending them.

use std::io::Read;

use flate2::read::GzDecoder;
use http::HeaderMap;
use tonic::Status;
use tonic::metadata::MetadataValue;

use super::read::too_large;

const HEADER: &str = "grpc-encoding";

/// The encodings of compressed messages.
#[derive(Clone, Copy, Debug)]
pub(super) enum Encoding {
    Gzip,
}

impl Encoding {
    /// Returns the encoding that a call names, or `None` if its message is not compressed.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Status> {
        let Some(name) = headers.get(HEADER) else {
            return Ok(None);
        };
        match name.as_bytes() {
            b"identity" => Ok(None),
            b"gzip" => Ok(Some(Self::Gzip)),
            _ => {
                let mut status = Status::unimplemented(format!(
                    "the agent does not support the grpc-encoding {name:?}: send gzip or identity"
                ));
                let supported = MetadataValue::from_static("gzip,identity");
                status
                    .metadata_mut()
                    .insert("grpc-accept-encoding", supported);
                Err(status)
            }
        }
    }

    /// Decompresses a message to at most `max_len` bytes.
    pub(super) fn decompress(self, message: &[u8], max_len: usize) -> Result<Vec<u8>, Status> {
        let Self::Gzip = self;
        let mut decompressed = Vec::new();
        let mut reader = GzDecoder::new(message).take(max_len as u64 + 1);
        reader
            .read_to_end(&mut decompressed)
            .map_err(|error| Status::internal(format!("the message is not gzip: {error}")))?;
        match decompressed.len() > max_len {
            true => Err(too_large(max_len)),
            false => Ok(decompressed),
        }
    }
}
