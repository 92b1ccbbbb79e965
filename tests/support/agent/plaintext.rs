//! The fake Agent's plaintext server: tonic's own enforces `grpc-timeout`, so that no answer is late.

use std::convert::Infallible;

use futures_util::StreamExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::body::Body;
use tonic::transport::server::{Connected, TcpIncoming};
use tower::{Service, ServiceExt};

/// Bytes that a connection may have under way.
pub(super) const WINDOW: u32 = 16 * 1024 * 1024;

/// Serves connections until the runtime ends.
pub(super) async fn serve<S>(mut incoming: TcpIncoming, service: S, streams: Option<u32>)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    while let Some(stream) = incoming.next().await {
        let Ok(stream) = stream else { continue };
        let peer = stream.connect_info();
        let service = service.clone();
        let serve = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            service.clone().oneshot(request.map(Body::new))
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .initial_connection_window_size(WINDOW)
            .max_concurrent_streams(streams)
            .serve_connection(TokioIo::new(stream), serve);
        tokio::spawn(connection);
    }
}
