//! The bytes of one connection: counted on their way to the kernel, and looked at when they begin
//! to come back.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The number of a peer's first bytes that show its protocol.
const FIRST: usize = 5;

/// Counts the bytes of a connection.
#[derive(Debug, Default)]
pub(super) struct Wire {
    written: AtomicU64,
    read: AtomicU64,
    /// The first bytes that were read, up to five, and their number in the highest byte. Only the
    /// task that reads changes it.
    first: AtomicU64,
}

/// Protocols other than plain HTTP/2 that the first bytes of a peer show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Nothing,
    Tls,
    Http1,
    Other,
}

impl Wire {
    /// Returns the number of bytes that the kernel has taken. A request that was made since this
    /// number last changed has not left the process.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    pub(super) fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Tells what the peer speaks by its first bytes.
    pub(super) fn spoken(&self) -> Spoken {
        let [len, _, _, first @ ..] = self.first.load(Relaxed).to_be_bytes();
        match &first[..usize::from(len).min(FIRST)] {
            [] => Spoken::Nothing,
            // The content types of TLS records, and the major version of all TLS versions.
            [0x14..=0x17] | [0x14..=0x17, 3, ..] => Spoken::Tls,
            // HTTP/2 fails at the third byte, which would be a length.
            first if b"HTTP/".starts_with(first) => Spoken::Http1,
            _ => Spoken::Other,
        }
    }

    fn add_read(&self, new: &[u8]) {
        self.read.fetch_add(new.len() as u64, Relaxed);
        let mut known = self.first.load(Relaxed).to_be_bytes();
        let len = usize::from(known[0]);
        if len < FIRST && !new.is_empty() {
            let more = new.len().min(FIRST - len);
            let at = known.len() - FIRST + len;
            known[at..at + more].copy_from_slice(&new[..more]);
            // At most five.
            known[0] = (len + more) as u8;
            self.first.store(u64::from_be_bytes(known), Relaxed);
        }
    }
}

/// A TCP stream that counts in [`Wire`].
#[derive(Debug)]
pub(super) struct WiredStream {
    stream: TcpStream,
    wire: Arc<Wire>,
}

impl WiredStream {
    pub(super) fn new(stream: TcpStream) -> (Self, Arc<Wire>) {
        let wire = Arc::<Wire>::default();
        let counted = Arc::clone(&wire);
        (
            Self {
                stream,
                wire: counted,
            },
            wire,
        )
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.wire.written.fetch_add(*bytes as u64, Relaxed);
        }
        written
    }
}

impl AsyncRead for WiredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let new = buf.filled().get(before..).unwrap_or_default();
        self.wire.add_read(new);
        polled
    }
}

impl AsyncWrite for WiredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A connection with or without TLS.
#[derive(Debug)]
pub(super) enum Io {
    Plain(WiredStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<WiredStream>>),
}

macro_rules! either {
    ($io:expr, $stream:ident => $call:expr) => {
        match $io {
            Io::Plain($stream) => $call,
            #[cfg(feature = "tls")]
            Io::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(&mut *self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(&mut *self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(&mut *self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut *self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut *self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_show_the_protocol_however_they_are_split() {
        for (bytes, spoken) in [
            (&b"HTTP/1.1 400 Bad Request"[..], Spoken::Http1),
            (&[0x15, 3, 3, 0, 2, 2, 40], Spoken::Tls),
            (&[0x16, 3, 1, 2, 0], Spoken::Tls),
            (&[0, 0, 12, 4, 0, 0, 0, 0, 0], Spoken::Other),
            (b"SSH-2.0-OpenSSH", Spoken::Other),
            (&[0x15, 9, 9, 0, 0], Spoken::Other),
        ] {
            for size in 1..=bytes.len() {
                let wire = Wire::default();
                assert_eq!(wire.spoken(), Spoken::Nothing);
                for chunk in bytes.chunks(size) {
                    wire.add_read(chunk);
                    wire.add_read(&[]);
                }
                assert_eq!(wire.spoken(), spoken, "{bytes:?} by {size}");
                assert_eq!(wire.read(), bytes.len() as u64);
            }
        }
    }
}
