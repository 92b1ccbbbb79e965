//! The calls to compare: a bare unary call of tonic, one of h2 alone, and flows.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use prost::Message;
use tonic::transport::Channel;
use tower_aperture::pb::check::flow_control_service_client::FlowControlServiceClient;
use tower_aperture::pb::check::{CacheLookupRequest, CheckRequest, CheckResponse};
use tower_aperture::{ApertureClient, FlowParams, FlowStatus};

const CHECK: &str = "/aperture.flowcontrol.check.v1.FlowControlService/Check";

/// A kind of call to measure.
#[derive(Clone)]
pub(super) enum CallKind {
    /// The call that an application makes without this crate.
    Bare(FlowControlServiceClient<Channel>),
    /// The same messages over h2, without tonic.
    Raw(RawClient),
    Flow(ApertureClient, &'static str),
}

impl CallKind {
    pub(super) async fn call(&mut self) {
        match self {
            Self::Bare(client) => {
                client.check(request()).await.expect("the agent responds");
            }
            Self::Raw(client) => {
                let response = client.check(&request()).await;
                assert_eq!(response.control_point, "checkout");
            }
            Self::Flow(client, control_point) => {
                let params = FlowParams::new()
                    .label("user_id", "42")
                    .label("tier", "gold");
                let flow = client.start_flow(control_point, params).await;
                assert!(flow.is_decided(), "{:?}", flow.error());
                flow.finish(FlowStatus::Ok);
            }
        }
    }
}

fn request() -> CheckRequest {
    CheckRequest {
        control_point: "checkout".to_owned(),
        labels: [
            ("user_id".to_owned(), "42".to_owned()),
            ("tier".to_owned(), "gold".to_owned()),
        ]
        .into(),
        expect_end: true,
        cache_lookup_request: Some(CacheLookupRequest::default()),
        ..CheckRequest::default()
    }
}

/// The least that a gRPC call over h2 needs: no timeout, no metadata, no errors.
#[derive(Clone)]
pub(super) struct RawClient {
    sender: SendRequest<Bytes>,
    uri: http::Uri,
}

impl RawClient {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await;
        let stream = stream.expect("the agent listens");
        stream.set_nodelay(true).expect("TCP has the option");
        // The windows of the client, so that many small responses may wait to be read.
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(2 << 20);
        builder.initial_connection_window_size(16 << 20);
        let (sender, connection) = builder.handshake(stream).await.expect("HTTP/2");
        tokio::spawn(connection);
        let uri = format!("http://{address}{CHECK}").parse();
        Self {
            sender,
            uri: uri.expect("a valid URI"),
        }
    }

    async fn check(&mut self, message: &CheckRequest) -> CheckResponse {
        let len = message.encoded_len();
        let mut framed = BytesMut::with_capacity(5 + len);
        framed.put_u8(0);
        framed.put_u32(u32::try_from(len).expect("it is small"));
        message.encode(&mut framed).expect("the buffer grows");
        let request = http::Request::post(self.uri.clone())
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(())
            .expect("a valid request");
        let mut ready = self.sender.clone().ready().await.expect("it is open");
        let sent = ready.send_request(request, false);
        let (response, mut body) = sent.expect("a stream is free");
        body.send_data(framed.freeze(), true)
            .expect("the stream is open");
        let mut body = response.await.expect("the agent responds").into_body();
        let mut received = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.expect("no error");
            let _ = body.flow_control().release_capacity(data.len());
            received.extend_from_slice(&data);
        }
        let response = CheckResponse::decode(&received[5..]).expect("a response");
        let trailers = body.trailers().await.expect("no error").expect("a status");
        assert_eq!(trailers["grpc-status"], "0");
        response
    }
}
