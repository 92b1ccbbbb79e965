//! Starts and stops a served agent, and has policies and requests for its tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tower_aperture::Engine;
use tower_aperture::pb::check::flow_control_service_client::FlowControlServiceClient;
use tower_aperture::pb::check::limiter_decision::Details;
use tower_aperture::pb::check::{CheckRequest, CheckResponse, FlowEndRequest, InflightRequestRef};
use tower_aperture_agent::{Agent, AgentBuilder, Tls};

/// A policy that gives each user two tokens.
pub(crate) const TWO: &str = "
blueprint: rate-limiting/base
policy:
  policy_name: two
  rate_limiter:
    bucket_capacity: 2
    fill_amount: 0.001
    parameters: {interval: 60s, limit_by_label_key: user_id}
    selectors: [{control_point: checkout}]
";

/// A policy that runs one flow at a time. Others wait for up to a minute.
pub(crate) const ONE_AT_A_TIME: &str = "
circuit:
  components:
  - flow_control:
      concurrency_scheduler:
        selectors: [{control_point: render}]
        in_ports: {max_concurrency: {constant_signal: {value: 1}}}
        concurrency_limiter: {max_inflight_duration: 600s}
        scheduler: {default_workload_parameters: {queue_timeout: 60s}}
";

pub(crate) fn engine(policy: &str) -> Engine {
    let engine = Engine::builder().policy_text("policy.yaml", policy).build();
    engine.expect("a valid policy")
}

pub(crate) fn request(control_point: &str) -> CheckRequest {
    CheckRequest {
        control_point: control_point.into(),
        labels: [("user_id".into(), "42".into())].into(),
        expect_end: true,
        ..CheckRequest::default()
    }
}

/// Returns the end that returns everything an answer granted.
pub(crate) fn end_of(answer: &CheckResponse) -> FlowEndRequest {
    let slots = answer.limiter_decisions.iter().filter_map(|decision| {
        let (label, request_id) = match &decision.details {
            Some(Details::ConcurrencySchedulerInfo(info)) => (&info.label, &info.request_id),
            Some(Details::ConcurrencyLimiterInfo(info)) => (&info.label, &info.request_id),
            _ => return None,
        };
        (!decision.dropped).then(|| InflightRequestRef {
            policy_name: decision.policy_name.clone(),
            policy_hash: decision.policy_hash.clone(),
            component_id: decision.component_id.clone(),
            label: label.clone(),
            request_id: request_id.clone(),
            tokens: 1.0,
        })
    });
    FlowEndRequest {
        control_point: answer.control_point.clone(),
        inflight_requests: slots.collect(),
    }
}

/// An authority, and a certificate from it with its key, as PEM.
pub(crate) struct Certificates {
    pub(crate) authority: String,
    pub(crate) authority_der: rcgen::Certificate,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Certificates {
    /// Makes a new authority and its certificate for `localhost`.
    pub(crate) fn new() -> Self {
        let authority_key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = parameters
            .self_signed(&authority_key)
            .expect("an authority");
        let issuer = Issuer::new(parameters, authority_key);
        let key = KeyPair::generate().expect("a key");
        let own = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let certificate = own.signed_by(&key, &issuer).expect("a certificate");
        Self {
            authority: authority.pem(),
            authority_der: authority,
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// An agent that serves until it is stopped or dropped.
pub(crate) struct Served {
    pub(crate) agent: Agent,
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Served {
    pub(crate) async fn start(policy: &str) -> Self {
        Self::with(policy, |agent| agent, None).await
    }

    pub(crate) async fn with(
        policy: &str,
        set: impl FnOnce(AgentBuilder) -> AgentBuilder,
        tls: Option<Tls>,
    ) -> Self {
        Self::with_engine(engine(policy), set, tls).await
    }

    pub(crate) async fn with_engine(
        engine: Engine,
        set: impl FnOnce(AgentBuilder) -> AgentBuilder,
        tls: Option<Tls>,
    ) -> Self {
        let agent = set(Agent::builder(engine)).build();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (stop, stopped) = oneshot::channel::<()>();
        let own = agent.clone();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            let served = match tls {
                None => own.serve(listener, stopped).await,
                Some(tls) => own.serve_tls(listener, tls, stopped).await,
            };
            served.expect("the agent serves");
        });
        Self {
            agent,
            address,
            stop: Some(stop),
            task,
        }
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        let endpoint = endpoint.expect("an address");
        endpoint.connect().await.expect("the agent listens")
    }

    pub(crate) async fn checks(&self) -> FlowControlServiceClient<Channel> {
        FlowControlServiceClient::new(self.channel().await)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a request over HTTP/1.1: a POST if it has a body. Returns the status and the body of
    /// the response, or an error if the connection broke.
    pub(crate) async fn http(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Result<(u16, String), String> {
        let mut call = http::Request::builder().uri(self.url(path));
        if body.is_some() {
            call = call.method("POST");
        }
        for (name, value) in headers {
            call = call.header(*name, *value);
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default().to_owned()));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(call.body(body).expect("a call")).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Returns the value of a series that has only the labels common to all series.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.agent.metrics();
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let line = lines.find(|line| line.split('{').next() == Some(name));
        let value = line.and_then(|line| line.rsplit(' ').next());
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or(f64::NAN)
    }

    /// Waits until `flows` flows wait in queues.
    pub(crate) async fn until_waiting(&self, flows: f64) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.metric("tower_aperture_agent_waiting") != flows {
            assert!(
                Instant::now() < deadline,
                "the number of waiting flows is never {flows}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Starts the graceful shutdown.
    pub(crate) fn begin_shutdown(&mut self) {
        self.stop.take();
    }

    /// Shuts the agent down and waits until it has ended.
    pub(crate) async fn stopped(mut self) {
        self.stop.take();
        let ended = tokio::time::timeout(Duration::from_secs(60), self.task).await;
        ended.expect("the agent ends in time").expect("no panic");
    }
}
