//! The attributes of gRPC calls that the layer passes to a decider.

use std::sync::{Arc, Mutex};

use crate::grpc::{channel, say, start};
use tonic::Code;
use tonic::transport::server::TcpConnectInfo;
use tower_aperture::layer::{ClientAddress, grpc_service};
use tower_aperture::{
    ApertureLayer, Check, Decider, Denial, FlowOutcome, FlowParams, HttpAttributes, RejectReason,
    Ticket, Verdict,
};

/// A decider that records the attributes and addresses of calls.
#[derive(Clone, Default)]
struct AttributeRecorder(Arc<Mutex<Vec<String>>>);

struct NoTicket;

impl Ticket for NoTicket {
    fn end(self, _: FlowOutcome) {}
}

impl Decider for AttributeRecorder {
    type Ticket = NoTicket;
    type Pending = std::future::Ready<Verdict<NoTicket>>;

    fn decide(&self, _: &str, _: &FlowParams<'_>) -> Check<NoTicket, Self::Pending> {
        panic!("the layer must send attributes")
    }

    fn decide_http(
        &self,
        control_point: &str,
        _: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
    ) -> Check<NoTicket, Self::Pending> {
        let source = request.source.expect("tonic provides it").ip();
        let destination = request.destination.expect("tonic provides it").port();
        self.0
            .lock()
            .expect("the lock is not poisoned")
            .push(format!(
                "{control_point}: {} {} {} {} {} from {source} to {destination}",
                request.method, request.path, request.protocol, request.scheme, request.size,
            ));
        Check::Ready(Verdict::Rejected(
            Denial::new(RejectReason::NoTokens),
            NoTicket,
        ))
    }
}

#[tokio::test]
async fn checks_of_a_tonic_server_have_the_attributes_and_both_addresses() {
    let recorder = AttributeRecorder::default();
    let layer = ApertureLayer::with_control_point(recorder.clone(), grpc_service)
        .check_http()
        .source(ClientAddress::of(TcpConnectInfo::remote_addr))
        .destination(|info: &TcpConnectInfo| info.local_addr());
    let address = start(layer).await;
    let status = say(channel(address).await, "hello")
        .await
        .expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable);
    let expected = format!(
        "test.Echo: POST /test.Echo/Say HTTP/2 http -1 from 127.0.0.1 to {}",
        address.port()
    );
    assert_eq!(
        *recorder.0.lock().expect("the lock is not poisoned"),
        [expected]
    );
}
