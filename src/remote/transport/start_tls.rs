//! How connections start TLS. Without the feature `tls`, there are no settings of TLS.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite};

use super::ClientTls;
use super::counted_stream::{CountedStream, WireStats};
use super::error::ConnectError;
use crate::flow::Cause;

/// The settings of TLS, which have been validated.
pub(super) trait Tls: Sized {
    /// A connection with TLS.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + fmt::Debug;

    /// Validates the settings for these addresses. Certificates and the key are PEM. Returns `None`
    /// if this build has no TLS.
    ///
    /// # Errors
    ///
    /// Returns the name of a setting that cannot be used, with the reason.
    fn new(
        ca: Option<Vec<u8>>,
        identity: Option<(Vec<u8>, Vec<u8>)>,
        server_name: Option<String>,
        uris: &[Uri],
    ) -> Result<Option<Self>, (&'static str, Cause)>;

    /// Performs the handshake.
    fn start(
        self: &Arc<Self>,
        uri: &Uri,
        stream: CountedStream,
        wire_stats: &WireStats,
    ) -> impl Future<Output = Result<Self::Stream, ConnectError>> + Send;
}

/// Validates settings of TLS like [`Tls::new`].
pub(crate) fn tls_settings(
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
    uris: &[Uri],
) -> Result<Option<ClientTls>, (&'static str, Cause)> {
    ClientTls::new(ca, identity, server_name, uris)
}

impl Tls for Infallible {
    type Stream = CountedStream;

    fn new(
        _: Option<Vec<u8>>,
        _: Option<(Vec<u8>, Vec<u8>)>,
        _: Option<String>,
        _: &[Uri],
    ) -> Result<Option<Self>, (&'static str, Cause)> {
        Ok(None)
    }

    async fn start(
        self: &Arc<Self>,
        _: &Uri,
        _: CountedStream,
        _: &WireStats,
    ) -> Result<CountedStream, ConnectError> {
        match **self {}
    }
}
