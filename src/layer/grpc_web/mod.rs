//! Reads the status of a gRPC-Web call from the trailer frame at the end of its response body.
//!
//! A gRPC-Web body is a sequence of frames: a flag byte, a length of four bytes (big endian), and
//! that many bytes of payload. The last frame has the flag bit 0x80 and holds the trailers, as the
//! lines of an HTTP/1 header block. In `application/grpc-web-text` all of it is base64.
//!
//! Data frames are skipped by their length. Only the trailers are copied, up to the limits in
//! [`trailers`], so the memory is bounded whatever lengths a body claims.

mod base64;
mod trailers;

use std::io::IoSlice;

use bytes::Buf;
use http::{HeaderMap, HeaderValue, header};

use self::base64::Base64;
use self::trailers::Trailers;
use super::head::GRPC_STATUS;

/// The flag bit of the trailer frame.
const TRAILER: u8 = 0x80;
/// The flag bit of a compressed frame.
const COMPRESSED: u8 = 0x01;
/// The code UNKNOWN, which clients report for a response without a status.
const UNKNOWN: HeaderValue = HeaderValue::from_static("2");
/// How many parts of one data buffer are looked at. What lies beyond is out of sight.
const PARTS: usize = 16;

/// Follows the frames of one response body.
pub(super) struct GrpcWeb {
    /// The decoder, where the body is base64.
    text: Option<Base64>,
    at: Position,
    trailers: Trailers,
    /// The head of the response has a `grpc-status`.
    status_in_head: bool,
}

/// The place in the body up to which it was read.
#[derive(Clone, Copy)]
enum Position {
    /// In the five bytes before a payload.
    Prefix { bytes: [u8; 5], read: usize },
    /// In the payload of a data frame.
    Data { left: u32 },
    /// In the payload of the trailer frame.
    Trailers { left: u32, compressed: bool },
    /// Behind the trailer frame.
    Complete { compressed: bool },
    /// Lost: part of a frame's header was out of sight.
    Unknown,
    /// In text that is not base64.
    Malformed,
}

impl Position {
    const START: Self = Self::Prefix {
        bytes: [0; 5],
        read: 0,
    };

    const fn after_prefix([flag, length @ ..]: [u8; 5]) -> Self {
        let left = u32::from_be_bytes(length);
        let compressed = flag & COMPRESSED != 0;
        match (flag & TRAILER != 0, left) {
            (false, 0) => Self::START,
            (false, left) => Self::Data { left },
            (true, 0) => Self::Complete { compressed },
            (true, left) => Self::Trailers { left, compressed },
        }
    }
}

impl GrpcWeb {
    /// Returns a reader for the body of a gRPC-Web response, `None` for any other response.
    pub(super) fn of(headers: &HeaderMap) -> Option<Box<Self>> {
        let content_type = headers.get(header::CONTENT_TYPE)?;
        let text = is_text(content_type.as_bytes())?.then(Base64::default);
        Some(Box::new(Self {
            text,
            at: Position::START,
            trailers: Trailers::default(),
            status_in_head: headers.contains_key(&GRPC_STATUS),
        }))
    }

    /// Reads the next data of the body. Returns true once the trailer frame is complete.
    pub(super) fn read(&mut self, data: &impl Buf) -> bool {
        let all = data.remaining();
        if data.chunk().len() >= all {
            self.read_part(data.chunk());
        } else {
            let mut parts = [IoSlice::new(&[]); PARTS];
            let count = data.chunks_vectored(&mut parts);
            let mut read = 0;
            for part in &parts[..count] {
                self.read_part(part);
                read += part.len();
            }
            if let Some(hidden) = all.checked_sub(read).filter(|hidden| *hidden > 0) {
                self.skip(hidden);
            }
        }
        matches!(self.at, Position::Complete { .. })
    }

    /// Returns the trailers to judge the call by at the end of its body, `None` where only the
    /// head of the response says how it went.
    ///
    /// A body that ends without a status counts as UNKNOWN, as it does for gRPC-Web clients.
    pub(super) fn into_trailers(self) -> Option<HeaderMap> {
        let mut trailers = self.trailers.into_map();
        let status = trailers.get(&GRPC_STATUS);
        match self.at {
            Position::Complete { compressed } => {
                if status.is_none() && compressed {
                    return None;
                }
                if status.is_none() && !self.status_in_head {
                    trailers.insert(GRPC_STATUS.clone(), UNKNOWN);
                }
            }
            Position::Unknown => return None,
            Position::Prefix { read: 0, .. } if self.status_in_head => return None,
            // Cut off, or not gRPC-Web: a success was not delivered.
            _ if status.is_none_or(|status| status == "0") => {
                trailers.insert(GRPC_STATUS.clone(), UNKNOWN);
            }
            _ => {}
        }
        Some(trailers)
    }

    fn read_part(&mut self, part: &[u8]) {
        let Some(mut text) = self.text.take() else {
            return self.read_frames(part);
        };
        let mut decoded = [0; 192];
        let mut rest = part;
        while !rest.is_empty() {
            let read = text.decode(&mut rest, &mut decoded);
            let (Ok(count) | Err(count)) = read;
            self.read_frames(&decoded[..count]);
            if matches!(self.at, Position::Complete { .. }) {
                break;
            }
            if read.is_err() {
                self.at = Position::Malformed;
                break;
            }
        }
        self.text = Some(text);
    }

    fn read_frames(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.at {
                Position::Prefix {
                    bytes: prefix,
                    read,
                } => {
                    let count = bytes.len().min(prefix.len() - *read);
                    prefix[*read..*read + count].copy_from_slice(&bytes[..count]);
                    *read += count;
                    bytes = &bytes[count..];
                    if *read == prefix.len() {
                        self.at = Position::after_prefix(*prefix);
                    }
                }
                Position::Data { left } => {
                    bytes = &bytes[advance(left, bytes.len())..];
                    if *left == 0 {
                        self.at = Position::START;
                    }
                }
                Position::Trailers { left, compressed } => {
                    let count = advance(left, bytes.len());
                    self.trailers.read(&bytes[..count]);
                    bytes = &bytes[count..];
                    if *left == 0 {
                        self.at = Position::Complete {
                            compressed: *compressed,
                        };
                    }
                }
                Position::Complete { .. } | Position::Unknown | Position::Malformed => return,
            }
        }
    }

    /// Passes over bytes that cannot be seen without taking them from the body.
    fn skip(&mut self, hidden: usize) {
        self.at = match self.at {
            Position::Complete { .. } | Position::Malformed => return,
            Position::Data { left } if self.text.is_none() => {
                match u32::try_from(hidden).ok().and_then(|n| left.checked_sub(n)) {
                    Some(0) => Position::START,
                    Some(left) => Position::Data { left },
                    None => Position::Unknown,
                }
            }
            _ => Position::Unknown,
        };
    }
}

/// Takes up to `available` bytes off what is left of a payload, and returns how many.
fn advance(left: &mut u32, available: usize) -> usize {
    let count = u32::try_from(available).unwrap_or(u32::MAX).min(*left);
    *left -= count;
    // No more than `available`, so it fits.
    count as usize
}

/// Returns whether a gRPC-Web content type is the one in base64, `None` for other types.
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
