//! Parses the lines of a trailer frame.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::layer::head::GRPC_STATUS;

/// The longest line, in bytes. A longer line is skipped.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// The bound on the size of all trailers that are kept, in bytes. Beyond it only `grpc-status` is
/// kept.
const MAX_BYTES: usize = 16 * 1024;
/// The bytes that each trailer counts in addition to its name and value, as in HTTP/2 (RFC 9113,
/// section 6.5.2).
const OVERHEAD: usize = 32;

/// An incremental parser of lines of `name: value`. The text may be split at any byte.
#[derive(Debug, Default)]
pub(super) struct TrailerLines {
    map: HeaderMap,
    /// The beginning of the current line.
    line: Vec<u8>,
    /// The current line is too long.
    too_long: bool,
    /// The size of all trailers in `map`.
    bytes: usize,
}

impl TrailerLines {
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
    }

    /// Returns the trailers. The last line need not be terminated.
    pub(super) fn into_map(mut self) -> HeaderMap {
        self.end_line();
        self.map
    }

    fn extend(&mut self, part: &[u8]) {
        if self.too_long || self.line.len() + part.len() > MAX_LINE_BYTES {
            self.too_long = true;
            self.line.clear();
        } else {
            self.line.extend_from_slice(part);
        }
    }

    fn end_line(&mut self) {
        if !std::mem::take(&mut self.too_long) {
            self.add_line();
        }
        self.line.clear();
    }

    /// Adds the current line to the trailers. Names are case-insensitive, and blanks around values
    /// are removed.
    fn add_line(&mut self) -> Option<()> {
        let colon = self.line.iter().position(|byte| *byte == b':')?;
        let name = self.line[..colon].trim_ascii();
        let value = self.line[colon + 1..].trim_ascii();
        let bytes = (self.bytes).saturating_add(name.len() + value.len() + OVERHEAD);
        let is_status = name.eq_ignore_ascii_case(GRPC_STATUS.as_str().as_bytes());
        let status_is_missing = is_status && !self.map.contains_key(&GRPC_STATUS);
        if bytes <= MAX_BYTES || status_is_missing {
            let name = HeaderName::from_bytes(name).ok()?;
            let value = HeaderValue::from_bytes(value).ok()?;
            self.map.append(name, value);
            self.bytes = bytes;
        }
        Some(())
    }
}
