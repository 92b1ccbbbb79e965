//! Reads the message of a unary call.

use std::future::poll_fn;
use std::pin::pin;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::Body;
use tonic::Status;

use super::PREFIX_LEN;
use super::encoding::Encoding;
use crate::body::BoxError;

/// Reads the body of a call to its end, and returns its only message.
///
/// # Errors
///
/// - `RESOURCE_EXHAUSTED`, if the message has more than `max_len` bytes, after decompression too.
/// - `UNIMPLEMENTED`, if it is compressed in a way that the agent does not support.
/// - `INTERNAL`, if there is no message or more than one, or if it is malformed.
/// - The error of the body.
pub(super) async fn read_message<B>(
    headers: &HeaderMap,
    body: B,
    max_len: usize,
) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    let encoding = Encoding::of(headers)?;
    let mut body = pin!(body);
    let mut received = Received::default();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(Status::from_error)?;
        if let Ok(data) = frame.into_data() {
            received.push(data, body.is_end_stream());
            received.message_len(max_len)?;
        }
    }
    received.finish(encoding, max_len)
}

/// The bytes of a call that have arrived: at most the message with its prefix, and one frame.
#[derive(Default)]
struct Received {
    /// All bytes, if the call arrived in one frame.
    whole: Bytes,
    /// Otherwise a copy of the frames, because a frame may keep a buffer of the connection alive
    /// that is much larger than itself, and the rest of the call may take long to arrive.
    parts: Vec<u8>,
}

impl Received {
    fn push(&mut self, frame: Bytes, is_last: bool) {
        if is_last && self.parts.is_empty() {
            self.whole = frame;
        } else {
            self.parts.extend_from_slice(&frame);
        }
    }

    fn bytes(&self) -> &[u8] {
        match self.parts.is_empty() {
            true => &self.whole,
            false => &self.parts,
        }
    }

    /// Returns the length of the message by its prefix, or `None` if the prefix is not complete.
    fn message_len(&self, max_len: usize) -> Result<Option<usize>, Status> {
        let Some([_, len @ ..]) = self.bytes().first_chunk::<PREFIX_LEN>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_be_bytes(*len)).unwrap_or(usize::MAX);
        if len > max_len {
            return Err(too_large(max_len));
        }
        if self.bytes().len() - PREFIX_LEN > len {
            return Err(Status::internal("the call has more than one message"));
        }
        Ok(Some(len))
    }

    /// Returns the message.
    fn finish(self, encoding: Option<Encoding>, max_len: usize) -> Result<Bytes, Status> {
        let len = self.message_len(max_len)?;
        if len.is_none_or(|len| self.bytes().len() < PREFIX_LEN + len) {
            return Err(Status::internal(match self.bytes().is_empty() {
                true => "the call has no message",
                false => "the call ends within its message",
            }));
        }
        let mut message = match self.parts.is_empty() {
            true => self.whole,
            false => Bytes::from(self.parts),
        };
        let flag = message[0];
        message.advance(PREFIX_LEN);
        match (flag, encoding) {
            (0, _) => Ok(message),
            (1, Some(encoding)) => Ok(encoding.decompress(&message, max_len)?.into()),
            (1, None) => Err(Status::internal(
                "the message is compressed, and the call has no grpc-encoding",
            )),
            _ => Err(Status::internal(format!(
                "the message is malformed: its first byte is {flag} instead of 0 or 1"
            ))),
        }
    }
}

pub(super) fn too_large(max_len: usize) -> Status {
    Status::resource_exhausted(format!(
        "the message is too large: it may have {max_len} bytes, after decompression too"
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http::HeaderValue;
    use http_body::Frame;
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;

    /// A body of these frames. Only sometimes does it know that a frame is the last one.
    struct Frames(VecDeque<Bytes>, bool);

    impl Body for Frames {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(self.0.pop_front().map(|frame| Ok(Frame::data(frame))))
        }

        fn is_end_stream(&self) -> bool {
            self.1 && self.0.is_empty()
        }
    }

    fn read(
        data: &[u8],
        frame_len: usize,
        knows_end: bool,
        encoding: Option<&'static str>,
        max_len: usize,
    ) -> Result<Bytes, Code> {
        let frames = data.chunks(frame_len).map(Bytes::copy_from_slice);
        let mut headers = HeaderMap::new();
        if let Some(encoding) = encoding {
            headers.insert("grpc-encoding", HeaderValue::from_static(encoding));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let body = Frames(frames.collect(), knows_end);
        let message = read_message(&headers, body, max_len);
        let message = runtime.expect("a runtime starts").block_on(message);
        message.map_err(|status| status.code())
    }

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let len = u32::try_from(message.len()).expect("a small message");
        [&[flag], &len.to_be_bytes()[..], message].concat()
    }

    fn gzip(message: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(message).expect("a buffer takes it");
        encoder.finish().expect("a buffer takes it")
    }

    proptest! {
        #[test]
        fn a_message_does_not_depend_on_its_frames_and_its_compression(
            message in prop::collection::vec(any::<u8>(), 0..300),
            frame_len in 1_usize..310,
            knows_end in any::<bool>(),
            compressed in any::<bool>(),
        ) {
            let data = match compressed {
                true => framed(1, &gzip(&message)),
                false => framed(0, &message),
            };
            for encoding in [Some("gzip"), (!compressed).then_some("identity")] {
                let Some(encoding) = encoding else { continue };
                let read = read(&data, frame_len, knows_end, Some(encoding), 1000);
                prop_assert_eq!(read, Ok(Bytes::from(message.clone())));
            }
        }

        #[test]
        fn a_message_that_is_cut_too_large_or_followed_by_more_is_an_error(
            message in prop::collection::vec(any::<u8>(), 1..300),
            more in prop::collection::vec(any::<u8>(), 1..20),
            frame_len in 1_usize..310,
            knows_end in any::<bool>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let read = |data: &[u8], max_len| read(data, frame_len, knows_end, None, max_len);
            let len = message.len();
            let mut data = framed(0, &message);
            let cut = cut.index(data.len());
            prop_assert_eq!(read(&data[..cut], len), Err(Code::Internal));
            prop_assert_eq!(read(&data, len - 1), Err(Code::ResourceExhausted));
            data.extend(more);
            prop_assert_eq!(read(&data, len), Err(Code::Internal));
        }

        #[test]
        fn arbitrary_bytes_are_a_message_only_behind_its_prefix(
            data in prop::collection::vec(any::<u8>(), 0..40),
            small in any::<bool>(),
            frame_len in 1_usize..40,
            gzip in any::<bool>(),
        ) {
            let mut data = data;
            if small {
                // Otherwise hardly any prefix has a length that fits.
                for byte in data.iter_mut().take(4) {
                    *byte = 0;
                }
            }
            match read(&data, frame_len, true, gzip.then_some("gzip"), 30) {
                Ok(message) => prop_assert_eq!(framed(0, &message), data),
                Err(code) => {
                    let known = matches!(code, Code::Internal | Code::ResourceExhausted);
                    prop_assert!(known, "{:?}", code);
                }
            }
        }
    }

    #[test]
    fn a_small_message_that_decompresses_to_a_large_one_is_refused() {
        let data = framed(1, &gzip(&vec![0; 10_000_000]));
        assert!(data.len() < 100_000);
        let read = read(&data, data.len(), true, Some("gzip"), 1_000_000);
        assert_eq!(read, Err(Code::ResourceExhausted));
    }

    #[test]
    fn an_unknown_encoding_is_not_supported_and_a_flag_needs_an_encoding() {
        let read = |flag, encoding| read(&framed(flag, b"a"), 6, true, encoding, 10);
        assert_eq!(read(0, Some("br")), Err(Code::Unimplemented));
        assert_eq!(read(1, None), Err(Code::Internal));
        assert_eq!(read(1, Some("identity")), Err(Code::Internal));
        assert_eq!(read(2, Some("gzip")), Err(Code::Internal));
    }
}
