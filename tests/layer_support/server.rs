//! Real hyper servers and clients on loopback.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tower::Service;

use super::body::BoxError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

pub const BOTH: [Version; 2] = [Version::Http1, Version::Http2];

/// Serves until the runtime of the test ends.
pub async fn serve<S, B>(version: Version, service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let io = TokioIo::new(stream);
            tokio::spawn(async move {
                // Connections may end with errors, because tests break them.
                let _ = match version {
                    Version::Http1 => {
                        let builder = hyper::server::conn::http1::Builder::new();
                        builder.serve_connection(io, service).with_upgrades().await
                    }
                    Version::Http2 => {
                        let mut builder =
                            hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        builder.enable_connect_protocol();
                        builder.serve_connection(io, service).await
                    }
                };
            });
        }
    });
    address
}

/// A client with one connection.
#[derive(Debug)]
pub enum Client {
    Http1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    /// Connects to a server; the connection ends with the client and its responses.
    pub async fn connect(version: Version, address: SocketAddr) -> Self {
        let io = TokioIo::new(TcpStream::connect(address).await.expect("a server"));
        match version {
            Version::Http1 => {
                let (client, connection) = hyper::client::conn::http1::handshake(io)
                    .await
                    .expect("HTTP/1");
                tokio::spawn(connection.with_upgrades());
                Self::Http1(client)
            }
            Version::Http2 => {
                let (client, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                        .await
                        .expect("HTTP/2");
                tokio::spawn(connection);
                Self::Http2(client)
            }
        }
    }

    pub async fn send(
        &mut self,
        request: http::request::Builder,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let request = request.body(Empty::new()).expect("a request");
        match self {
            Self::Http1(client) => client.send_request(request).await,
            Self::Http2(client) => client.send_request(request).await,
        }
    }

    pub async fn get(&mut self) -> Result<Response<Incoming>, hyper::Error> {
        let uri = match self {
            Self::Http1(_) => "/",
            Self::Http2(_) => "http://shop.example/",
        };
        self.send(Request::get(uri).header("host", "shop.example"))
            .await
    }
}
