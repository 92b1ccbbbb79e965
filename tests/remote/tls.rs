//! TLS to the Agent: which certificates the client trusts and presents, and that calls carry the
//! API key.
#![cfg(feature = "tls")]

use std::time::Duration;

use crate::support::agent::FakeAgent;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tower_aperture::{
    ApertureClient, ApertureClientBuilder, ConnectionState, FlowDecision, FlowErrorKind,
    FlowParams, FlowStatus,
};

/// A timeout that only a call that hangs reaches, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Returns a certificate for `name` and its key.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec![name.to_owned()])
            .expect("a name")
            .signed_by(&key, &self.0)
            .expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

/// Returns an authority, and an Agent with a certificate for `name` from that authority.
fn agent_with(name: &str, requires_client_certificates: bool) -> (Authority, FakeAgent) {
    let authority = Authority::new();
    let (pem, key) = authority.issue(name);
    let clients = requires_client_certificates.then(|| authority.pem());
    let agent = FakeAgent::start_tls(&pem, &key, clients.as_deref());
    (authority, agent)
}

fn agent(name: &str) -> (String, FakeAgent) {
    let (authority, agent) = agent_with(name, false);
    (authority.pem(), agent)
}

fn builder(agent: &FakeAgent) -> ApertureClientBuilder {
    ApertureClient::builder()
        .address(format!("localhost:{}", agent.port()))
        .connect_timeout(LONG)
        .check_timeout(LONG)
        .end_timeout(LONG)
}

#[tokio::test]
async fn every_call_over_tls_carries_the_api_key() {
    let (authority, agent) = agent("localhost");
    let client = builder(&agent)
        .ca_certificate(authority)
        .api_key("sesame")
        .build()
        .expect("a client");
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    assert_eq!(flow.error(), None);
    flow.finish(FlowStatus::Ok);
    assert_eq!(client.state(), ConnectionState::Ready);
    assert!(client.shutdown(LONG).await);
    let calls = agent.calls();
    if cfg!(feature = "telemetry") {
        assert_eq!(calls.len(), 2, "one check and one export");
    }
    for call in calls {
        assert_eq!(call.api_key.as_deref(), Some("sesame"), "{}", call.path);
    }
}

#[tokio::test]
async fn the_client_does_not_trust_an_unknown_authority() {
    let (_, agent) = agent("localhost");
    let (other_authority, _) = self::agent("localhost");
    // The client trusts the system's roots, then only an authority that did not sign.
    for builder in [
        builder(&agent),
        builder(&agent).ca_certificate(other_authority),
    ] {
        let client = builder.api_key("sesame").build().expect("a client");
        let flow = client.start_flow("checkout", FlowParams::new()).await;
        let error = flow.error().expect("unreachable");
        assert_eq!(error.kind(), FlowErrorKind::Unavailable, "{error}");
    }
    assert!(
        agent.calls().is_empty(),
        "the API key is not sent to an untrusted peer"
    );
}

#[tokio::test]
async fn the_certificate_must_match_the_host_or_the_configured_server_name() {
    let (authority, agent) = agent("agent.internal");
    let decision_with = |builder: ApertureClientBuilder| {
        let client = builder.ca_certificate(&*authority).build();
        async move {
            let client = client.expect("a client");
            let flow = client.start_flow("checkout", FlowParams::new()).await;
            flow.decision()
        }
    };
    assert_eq!(
        decision_with(builder(&agent)).await,
        FlowDecision::Unreachable
    );
    let named = builder(&agent).server_name("agent.internal");
    assert_eq!(decision_with(named).await, FlowDecision::Accepted);
}

#[tokio::test]
async fn a_client_presents_its_certificate_to_an_agent_that_requires_one() {
    let (authority, agent) = agent_with("localhost", true);
    let (pem, key) = authority.issue("client");
    let anonymous = builder(&agent).ca_certificate(authority.pem());
    let flow = anonymous.build().expect("a client");
    let flow = flow.start_flow("checkout", FlowParams::new()).await;
    assert_eq!(flow.decision(), FlowDecision::Unreachable);
    let identified = builder(&agent)
        .ca_certificate(authority.pem())
        .client_identity(pem, key)
        .build()
        .expect("a client");
    let flow = identified.start_flow("checkout", FlowParams::new()).await;
    assert_eq!(flow.error(), None);
}

#[tokio::test]
async fn the_client_does_not_fall_back_to_plaintext_when_tls_fails() {
    let agent = FakeAgent::start();
    let client = builder(&agent).build().expect("a client");
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    assert_eq!(flow.decision(), FlowDecision::Unreachable);
    assert!(agent.calls().is_empty());
}
