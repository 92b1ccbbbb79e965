//! Reads the status of a gRPC-Web call from the trailer frame at the end of its response body.
//!
//! A gRPC-Web body is a sequence of frames: a flag byte, a length of four bytes (big endian), and
//! that many bytes of payload. The last frame has the flag bit 0x80 and holds the trailers, as the
//! lines of an HTTP/1 header block. In `application/grpc-web-text` all of it is base64.
//!
//! Data frames are skipped by their length. Only the trailers are copied, up to the limits in
//! [`trailers`], so that memory is bounded whatever lengths a body declares.

mod base64;
mod trailers;

use std::io::IoSlice;

use bytes::Buf;
use http::{HeaderMap, HeaderValue, header};

use self::base64::Base64Decoder;
use self::trailers::TrailerLines;
use super::head::GRPC_STATUS;

/// The flag bit of the trailer frame.
const TRAILER_FLAG: u8 = 0x80;
/// The flag bit of a compressed frame.
const COMPRESSED_FLAG: u8 = 0x01;
/// The status code UNKNOWN, which clients report for a response without a status.
const UNKNOWN: HeaderValue = HeaderValue::from_static("2");
/// The number of chunks that are read of one data buffer. Further chunks are skipped.
const MAX_CHUNKS: usize = 16;

/// Parses the frames of one response body while it is sent.
pub(super) struct GrpcWebReader {
    /// The decoder, if the body is base64.
    base64: Option<Base64Decoder>,
    position: FramePosition,
    trailers: TrailerLines,
    /// The head of the response has a `grpc-status`.
    status_in_head: bool,
}

/// The position in the body up to which it was parsed.
#[derive(Clone, Copy)]
enum FramePosition {
    /// Within the five bytes before a payload.
    Prefix { bytes: [u8; 5], read: usize },
    /// In the payload of a data frame.
    Data { left: u32 },
    /// In the payload of the trailer frame.
    Trailers { left: u32, compressed: bool },
    /// After the trailer frame.
    Complete { compressed: bool },
    /// Lost, because part of a frame's prefix or of the trailers was skipped.
    Unknown,
    /// In text that is not base64.
    Malformed,
}

impl FramePosition {
    const START: Self = Self::Prefix {
        bytes: [0; 5],
        read: 0,
    };

    const fn after_prefix([flag, length @ ..]: [u8; 5]) -> Self {
        let left = u32::from_be_bytes(length);
        let compressed = flag & COMPRESSED_FLAG != 0;
        match (flag & TRAILER_FLAG != 0, left) {
            (false, 0) => Self::START,
            (false, left) => Self::Data { left },
            (true, 0) => Self::Complete { compressed },
            (true, left) => Self::Trailers { left, compressed },
        }
    }
}

impl GrpcWebReader {
    /// Returns a reader for the body of a gRPC-Web response, `None` for any other response.
    pub(super) fn for_response(headers: &HeaderMap) -> Option<Box<Self>> {
        let content_type = headers.get(header::CONTENT_TYPE)?;
        let base64 = is_text(content_type.as_bytes())?.then(Base64Decoder::default);
        Some(Box::new(Self {
            base64,
            position: FramePosition::START,
            trailers: TrailerLines::default(),
            status_in_head: headers.contains_key(&GRPC_STATUS),
        }))
    }

    /// Reads the next data of the body. Returns true once the trailer frame is complete.
    pub(super) fn read(&mut self, data: &impl Buf) -> bool {
        let all = data.remaining();
        if data.chunk().len() >= all {
            self.read_chunk(data.chunk());
        } else {
            let mut chunks = [IoSlice::new(&[]); MAX_CHUNKS];
            let count = data.chunks_vectored(&mut chunks);
            let mut read = 0;
            for chunk in &chunks[..count] {
                self.read_chunk(chunk);
                read += chunk.len();
            }
            if let Some(unread) = all.checked_sub(read).filter(|unread| *unread > 0) {
                self.skip(unread);
            }
        }
        matches!(self.position, FramePosition::Complete { .. })
    }

    /// Returns the trailers that determine the status of the call at the end of its body. `None` if
    /// only the head of the response determines it.
    ///
    /// A body that ends without a status counts as UNKNOWN, as it does for gRPC-Web clients.
    pub(super) fn into_trailers(self) -> Option<HeaderMap> {
        let mut trailers = self.trailers.into_map();
        let status = trailers.get(&GRPC_STATUS);
        match self.position {
            FramePosition::Complete { compressed } => {
                if status.is_none() && compressed {
                    return None;
                }
                if status.is_none() && !self.status_in_head {
                    trailers.insert(GRPC_STATUS.clone(), UNKNOWN);
                }
            }
            FramePosition::Unknown => return None,
            FramePosition::Prefix { read: 0, .. } if self.status_in_head => return None,
            // The body is truncated or not gRPC-Web, so a success did not reach the client.
            _ if status.is_none_or(|status| status == "0") => {
                trailers.insert(GRPC_STATUS.clone(), UNKNOWN);
            }
            _ => {}
        }
        Some(trailers)
    }

    fn read_chunk(&mut self, chunk: &[u8]) {
        let Some(mut decoder) = self.base64.take() else {
            return self.read_frames(chunk);
        };
        let mut decoded = [0; 192];
        let mut rest = chunk;
        while !rest.is_empty() {
            let read = decoder.decode(&mut rest, &mut decoded);
            let (Ok(count) | Err(count)) = read;
            self.read_frames(&decoded[..count]);
            if matches!(self.position, FramePosition::Complete { .. }) {
                break;
            }
            if read.is_err() {
                self.position = FramePosition::Malformed;
                break;
            }
        }
        self.base64 = Some(decoder);
    }

    fn read_frames(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.position {
                FramePosition::Prefix {
                    bytes: prefix,
                    read,
                } => {
                    let count = bytes.len().min(prefix.len() - *read);
                    prefix[*read..*read + count].copy_from_slice(&bytes[..count]);
                    *read += count;
                    bytes = &bytes[count..];
                    if *read == prefix.len() {
                        self.position = FramePosition::after_prefix(*prefix);
                    }
                }
                FramePosition::Data { left } => {
                    bytes = &bytes[advance(left, bytes.len())..];
                    if *left == 0 {
                        self.position = FramePosition::START;
                    }
                }
                FramePosition::Trailers { left, compressed } => {
                    let count = advance(left, bytes.len());
                    self.trailers.read(&bytes[..count]);
                    bytes = &bytes[count..];
                    if *left == 0 {
                        self.position = FramePosition::Complete {
                            compressed: *compressed,
                        };
                    }
                }
                FramePosition::Complete { .. }
                | FramePosition::Unknown
                | FramePosition::Malformed => return,
            }
        }
    }

    /// Skips bytes that cannot be read without consuming them from the body.
    fn skip(&mut self, unread: usize) {
        self.position = match self.position {
            FramePosition::Complete { .. } | FramePosition::Malformed => return,
            FramePosition::Data { left } if self.base64.is_none() => {
                match u32::try_from(unread).ok().and_then(|n| left.checked_sub(n)) {
                    Some(0) => FramePosition::START,
                    Some(left) => FramePosition::Data { left },
                    None => FramePosition::Unknown,
                }
            }
            _ => FramePosition::Unknown,
        };
    }
}

/// Subtracts up to `available` bytes from `left`, the rest of a payload, and returns their number.
fn advance(left: &mut u32, available: usize) -> usize {
    let count = u32::try_from(available).unwrap_or(u32::MAX).min(*left);
    *left -= count;
    // At most `available`, which is a `usize`.
    count as usize
}

/// Returns true for a gRPC-Web content type in base64, false for one in binary, and `None` for any
/// other content type.
fn is_text(content_type: &[u8]) -> Option<bool> {
    let essence = content_type.split(|byte| *byte == b';').next()?;
    let rest = strip_prefix(essence.trim_ascii(), b"application/grpc-web")?;
    let (rest, text) = match strip_prefix(rest, b"-text") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    matches!(rest, [] | [b'+', ..]).then_some(text)
}

fn strip_prefix<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}
