//! What the layer tells of calls to those who want to know the attributes of requests.

#[path = "layer_support/grpc.rs"]
mod grpc;
mod layer_support;

use std::sync::{Arc, Mutex};

use grpc::{channel, say, start};
use tonic::Code;
use tonic::transport::server::TcpConnectInfo;
use tower_aperture::layer::{ClientAddress, grpc_service};
use tower_aperture::{
    ApertureLayer, Check, Decider, Denial, FlowOutcome, FlowParams, HttpAttributes, RejectReason,
    Ticket, Verdict,
};

/// Notes who asks and for what.
#[derive(Clone, Default)]
struct Asker(Arc<Mutex<Vec<String>>>);

struct Nothing;

impl Ticket for Nothing {
    fn end(self, _: FlowOutcome) {}
}

impl Decider for Asker {
    type Ticket = Nothing;
    type Pending = std::future::Ready<Verdict<Nothing>>;

    fn decide(&self, _: &str, _: &FlowParams<'_>) -> Check<Nothing, Self::Pending> {
        panic!("asked without attributes")
    }

    fn decide_http(
        &self,
        control_point: &str,
        _: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
    ) -> Check<Nothing, Self::Pending> {
        let source = request.source.expect("tonic knows it").ip();
        let destination = request.destination.expect("tonic knows it").port();
        self.0.lock().expect("no test panics here").push(format!(
            "{control_point}: {} {} {} {} {} from {source} to {destination}",
            request.method, request.path, request.protocol, request.scheme, request.size,
        ));
        Check::Ready(Verdict::Rejected(
            Denial::new(RejectReason::NoTokens),
            Nothing,
        ))
    }
}

#[tokio::test]
async fn a_server_tells_the_attributes_of_calls_and_both_addresses() {
    let asker = Asker::default();
    let layer = ApertureLayer::with_control_point(asker.clone(), grpc_service)
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
    assert_eq!(*asker.0.lock().expect("no test panics here"), [expected]);
}
