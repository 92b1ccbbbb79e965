//! One unary call on a connection: the request as one frame of data, the response message, and the
//! status that follows it.
//!
//! The call uses h2 and not tonic's client. With its channel, boxed bodies and copied metadata, a
//! bare call of tonic takes 1.5 to 2.3 times the processor time of the same call over h2 and 20 more
//! allocations (`cargo bench --bench remote`), and the rules of gRPC for one message and one status
//! are short. Calls that are compressed, and those over a channel of the application, still use
//! tonic. A call ends as it does with tonic, with two exceptions: a second message is an error,
//! because a unary call has one, and details that are not base64 are ignored.

use bytes::{Buf, Bytes};
use h2::RecvStream;
use http::{HeaderMap, Request, StatusCode};
use percent_encoding::percent_decode;
use tonic::{Code, Status};

use super::connection::Lease;
use super::request::{CallError, reports_unprocessed};
use crate::protobuf::GRPC_PREFIX_LEN;

const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";
const GRPC_ENCODING: &str = "grpc-encoding";

/// Sends a message and returns the response message, of at most `max_response` bytes and
/// uncompressed. `message` begins with its gRPC prefix. Dropping the future resets the stream, which
/// tells the peer to stop.
///
/// The result is the one of tonic's client: a status that the peer sent or that stands for an
/// invalid response, or an error of the connection with a [`CallError`] as its source.
pub(in crate::remote) async fn unary(
    lease: Lease,
    head: Request<()>,
    message: Bytes,
    max_response: usize,
) -> Result<Bytes, Status> {
    // The lease counts against the peer's limit, so it is dropped after the streams: as a parameter,
    // it outlives all variables.
    let connection = lease.connection();
    let wire_stats = &connection.state.wire_stats;
    let written = wire_stats.written();
    let sent = connection.sender().send_request(head, false);
    let (response, mut outgoing) = sent.map_err(|error| local(CallError::unsent(error)))?;
    // An error means that the stream has ended. The response future returns the reason.
    let _ = outgoing.send_data(message, true);
    drop(outgoing);
    let response = response.await.map_err(|error| {
        local(CallError {
            unprocessed: reports_unprocessed(&error) || wire_stats.written() == written,
            error: error.into(),
        })
    })?;

    let (head, mut body) = response.into_parts();
    // A response without a message may have its status in the head.
    let status_in_head = status(&head.headers).transpose()?.is_some();
    let message = read_message(&mut body, &head, max_response).await?;
    let trailers = body.trailers().await.map_err(broken)?;
    let trailing_status = trailers.as_ref().and_then(status).transpose()?;
    if trailing_status.is_none() && !status_in_head {
        return Err(missing_status(head.status));
    }
    message.ok_or_else(|| Status::internal("Missing response message."))
}

/// Returns the status for an error of the connection.
fn local(error: CallError) -> Status {
    Status::from_error(Box::new(error))
}

/// The peer began to respond, so it has processed the request.
fn broken(error: h2::Error) -> Status {
    local(CallError::broken(error))
}

/// Reads the message of a response up to the trailers.
async fn read_message(
    body: &mut RecvStream,
    head: &http::response::Parts,
    max_len: usize,
) -> Result<Option<Bytes>, Status> {
    let mut reader = MessageReader {
        head,
        max_len,
        received: Vec::new(),
    };
    while let Some(data) = body.data().await {
        let data = data.map_err(broken)?;
        // An error means that the stream has ended, which the next read returns.
        let _ = body.flow_control().release_capacity(data.len());
        reader.push(&data)?;
    }
    reader.finish()
}

/// Collects the message of a response from frames of data.
///
/// The message has a buffer of its own: it must not keep that of the connection. The buffer takes at
/// most `max_len` bytes and one frame.
struct MessageReader<'h> {
    head: &'h http::response::Parts,
    max_len: usize,
    received: Vec<u8>,
}

impl MessageReader<'_> {
    fn push(&mut self, data: &[u8]) -> Result<(), Status> {
        self.received.extend_from_slice(data);
        match self.message_len()? {
            Some(len) if self.received.len() > GRPC_PREFIX_LEN + len => {
                Err(Status::internal("the response has more than one message"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the message, or `None` if the response has none.
    fn finish(self) -> Result<Option<Bytes>, Status> {
        match self.message_len()? {
            None if self.received.is_empty() => Ok(None),
            Some(len) if self.received.len() == GRPC_PREFIX_LEN + len => {
                let mut message = Bytes::from(self.received);
                message.advance(GRPC_PREFIX_LEN);
                Ok(Some(message))
            }
            _ => Err(Status::internal("the response ends within its message")),
        }
    }

    /// Returns the length of the message by its prefix, or `None` if the prefix is not complete.
    fn message_len(&self) -> Result<Option<usize>, Status> {
        let Some([compressed, len @ ..]) = self.received.first_chunk::<GRPC_PREFIX_LEN>() else {
            return Ok(None);
        };
        match (compressed, self.head.headers.get(GRPC_ENCODING)) {
            (0, _) => {}
            (1, Some(_)) => {
                let message = "the response is compressed, which the request did not allow";
                return Err(Status::unimplemented(message));
            }
            (flag, _) => {
                let status = self.head.status;
                return Err(Status::internal(format!(
                    "the response, of HTTP status {status}, is no gRPC message: its first byte is \
                     {flag}"
                )));
            }
        }
        let len = usize::try_from(u32::from_be_bytes(*len)).unwrap_or(usize::MAX);
        let max_len = self.max_len;
        if len > max_len {
            return Err(Status::out_of_range(format!(
                "the response has {len} bytes, and the limit is {max_len} bytes"
            )));
        }
        Ok(Some(len))
    }
}

/// Returns the status in the fields of a head or of trailers, if they have one: an error unless it
/// is `OK`.
fn status(headers: &HeaderMap) -> Option<Result<(), Status>> {
    let code = Code::from_bytes(headers.get(GRPC_STATUS)?.as_bytes());
    if code == Code::Ok {
        return Some(Ok(()));
    }
    let message = headers
        .get(GRPC_MESSAGE)
        .map_or(&b""[..], |message| message.as_bytes());
    let message = percent_decode(message).decode_utf8_lossy();
    Some(Err(Status::new(code, message)))
}

/// Returns the status of a response that has none, by gRPC's mapping of HTTP status codes.
fn missing_status(status: StatusCode) -> Status {
    let code = match status {
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(
        code,
        format!("the response has no grpc-status; its HTTP status is {status}"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protobuf::grpc_prefix;

    fn head() -> http::response::Parts {
        http::Response::new(()).into_parts().0
    }

    /// Reads a message from these frames of data.
    fn read<'d>(
        frames: impl IntoIterator<Item = &'d [u8]>,
        max_len: usize,
    ) -> Result<Option<Bytes>, Code> {
        let head = head();
        let mut reader = MessageReader {
            head: &head,
            max_len,
            received: Vec::new(),
        };
        for frame in frames {
            let pushed = reader.push(frame);
            assert!(reader.received.len() <= GRPC_PREFIX_LEN + max_len + frame.len());
            pushed.map_err(|status| status.code())?;
        }
        reader.finish().map_err(|status| status.code())
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        [&grpc_prefix(message.len()), message].concat()
    }

    proptest! {
        #[test]
        fn a_message_does_not_depend_on_the_frames_that_carry_it(
            message in prop::collection::vec(any::<u8>(), 0..300),
            frame_len in 1_usize..310,
        ) {
            let framed = framed(&message);
            let read_message = read(framed.chunks(frame_len), message.len());
            prop_assert_eq!(read_message, Ok(Some(Bytes::from(message))));
        }

        #[test]
        fn a_message_that_is_cut_too_long_or_followed_by_more_is_an_error(
            message in prop::collection::vec(any::<u8>(), 1..300),
            more in prop::collection::vec(any::<u8>(), 1..20),
            frame_len in 1_usize..310,
            cut in any::<prop::sample::Index>(),
        ) {
            let len = message.len();
            let mut framed = framed(&message);
            let cut = 1 + cut.index(framed.len() - 1);
            prop_assert_eq!(read(framed[..cut].chunks(frame_len), len), Err(Code::Internal));
            prop_assert_eq!(read(framed.chunks(frame_len), len - 1), Err(Code::OutOfRange));
            framed.extend(more);
            prop_assert_eq!(read(framed.chunks(frame_len), len), Err(Code::Internal));
        }

        #[test]
        fn arbitrary_bytes_are_a_message_only_behind_its_prefix(
            data in prop::collection::vec(any::<u8>(), 0..40),
            small in any::<bool>(),
        ) {
            let mut data = data;
            if small {
                // Otherwise hardly any prefix has a length that fits.
                for byte in data.iter_mut().take(4) {
                    *byte = 0;
                }
            }
            match read([&data[..]], 30) {
                Ok(Some(message)) => prop_assert_eq!(framed(&message), data),
                Ok(None) => prop_assert!(data.is_empty()),
                Err(code) => {
                    prop_assert!(matches!(code, Code::Internal | Code::OutOfRange), "{:?}", code);
                }
            }
        }

        #[test]
        fn a_status_is_read_as_tonic_reads_it_where_its_text_is_utf_8(
            code in "[0-9]{1,3}|[ -~]{0,4}",
            message in "[ -~]{0,30}",
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_STATUS, code.parse().expect("visible"));
            headers.insert(GRPC_MESSAGE, message.parse().expect("visible"));
            let expected = Status::from_header_map(&headers).expect("a status");
            let is_utf_8 = percent_decode(message.as_bytes()).decode_utf8().is_ok();
            match status(&headers).expect("a status") {
                // gRPC: a text that cannot be decoded is no error. Tonic replaces the code by it.
                read if !is_utf_8 => {
                    let read_code = read.map_or_else(|status| status.code(), |()| Code::Ok);
                    prop_assert_eq!(read_code, Code::from_bytes(code.as_bytes()));
                }
                Ok(()) => prop_assert_eq!(expected.code(), Code::Ok),
                Err(status) => {
                    prop_assert_eq!(status.code(), expected.code());
                    prop_assert_eq!(status.message(), expected.message());
                }
            }
        }
    }

    #[test]
    fn a_response_without_a_status_has_an_error() {
        for status in 200..600 {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_ne!(missing_status(status).code(), Code::Ok);
        }
        assert!(status(&HeaderMap::new()).is_none());
    }
}
