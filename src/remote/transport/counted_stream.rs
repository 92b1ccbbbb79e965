//! A TCP stream that counts its bytes and records the first ones of the peer, which show its
//! protocol.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::ClientTls;
use super::start_tls::Tls;

/// The number of first bytes that are recorded. They show the protocol of the peer.
const PEEKED_BYTES: usize = 5;

/// The byte counts and first bytes of a connection.
#[derive(Debug, Default)]
pub(super) struct WireStats {
    written: AtomicU64,
    read: AtomicU64,
    /// The first bytes that were read, up to five, with their number in the highest byte. Only the
    /// task that reads changes it.
    first: AtomicU64,
}

/// The protocol that the first bytes of a peer show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerProtocol {
    /// Nothing was read yet.
    NoBytes,
    Tls,
    Http1,
    Other,
}

impl WireStats {
    /// Returns the number of bytes that the kernel has accepted. A request made since this number
    /// last changed has not left the process.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    pub(super) fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Returns the peer's protocol by its first bytes.
    pub(super) fn peer_protocol(&self) -> PeerProtocol {
        let [len, _, _, first @ ..] = self.first.load(Relaxed).to_be_bytes();
        match &first[..usize::from(len).min(PEEKED_BYTES)] {
            [] => PeerProtocol::NoBytes,
            // The content types of TLS records, then the major version of all TLS versions.
            [0x14..=0x17] | [0x14..=0x17, 3, ..] => PeerProtocol::Tls,
            // A prefix suffices: h2 fails after three bytes, which are an invalid frame length.
            first if b"HTTP/".starts_with(first) => PeerProtocol::Http1,
            _ => PeerProtocol::Other,
        }
    }

    fn add_read(&self, new: &[u8]) {
        self.read.fetch_add(new.len() as u64, Relaxed);
        let mut known = self.first.load(Relaxed).to_be_bytes();
        let len = usize::from(known[0]);
        if len < PEEKED_BYTES && !new.is_empty() {
            let more = new.len().min(PEEKED_BYTES - len);
            let start = known.len() - PEEKED_BYTES + len;
            known[start..start + more].copy_from_slice(&new[..more]);
            // At most five.
            known[0] = (len + more) as u8;
            self.first.store(u64::from_be_bytes(known), Relaxed);
        }
    }
}

/// A TCP stream that counts its bytes in [`WireStats`].
#[derive(Debug)]
pub(super) struct CountedStream {
    stream: TcpStream,
    wire_stats: Arc<WireStats>,
}

impl CountedStream {
    pub(super) fn new(stream: TcpStream) -> (Self, Arc<WireStats>) {
        let wire_stats = Arc::<WireStats>::default();
        let counted = Arc::clone(&wire_stats);
        (
            Self {
                stream,
                wire_stats: counted,
            },
            wire_stats,
        )
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.wire_stats.written.fetch_add(*bytes as u64, Relaxed);
        }
        written
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let new = buf.filled().get(before..).unwrap_or_default();
        self.wire_stats.add_read(new);
        polled
    }
}

impl AsyncWrite for CountedStream {
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
pub(super) enum PlainOrTlsStream {
    Plain(CountedStream),
    Tls(Box<<ClientTls as Tls>::Stream>),
}

macro_rules! either {
    ($io:expr, $stream:ident => $call:expr) => {
        match $io {
            PlainOrTlsStream::Plain($stream) => $call,
            PlainOrTlsStream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for PlainOrTlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(&mut *self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for PlainOrTlsStream {
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
    fn the_first_bytes_show_the_protocol_in_chunks_of_any_size() {
        for (bytes, peer_protocol) in [
            (&b"HTTP/1.1 400 Bad Request"[..], PeerProtocol::Http1),
            (&[0x15, 3, 3, 0, 2, 2, 40], PeerProtocol::Tls),
            (&[0x16, 3, 1, 2, 0], PeerProtocol::Tls),
            (&[0, 0, 12, 4, 0, 0, 0, 0, 0], PeerProtocol::Other),
            (b"SSH-2.0-OpenSSH", PeerProtocol::Other),
            (&[0x15, 9, 9, 0, 0], PeerProtocol::Other),
        ] {
            for size in 1..=bytes.len() {
                let wire_stats = WireStats::default();
                assert_eq!(wire_stats.peer_protocol(), PeerProtocol::NoBytes);
                for chunk in bytes.chunks(size) {
                    wire_stats.add_read(chunk);
                    wire_stats.add_read(&[]);
                }
                assert_eq!(
                    wire_stats.peer_protocol(),
                    peer_protocol,
                    "{bytes:?} by {size}"
                );
                assert_eq!(wire_stats.read(), bytes.len() as u64);
            }
        }
    }
}
