//! The layer with an Agent's CheckHTTP: the contents of the check, and the effect of the Agent's
//! response.
#![cfg(feature = "remote")]

mod message_size;
mod request_contents;
mod responses;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::layer_support::server::{BOTH, Client, Version as Spoken, serve};
use crate::support::agent::{FakeAgent, Gate, Reply, answer, give_up};
use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::layer::{AgentReject, ClientAddress};
use tower_aperture::pb::check::CheckResponse;
use tower_aperture::pb::check::check_response::{DecisionType, RejectReason as Reason};
use tower_aperture::pb::checkhttp::check_http_response::HttpResponse;
use tower_aperture::pb::checkhttp::{
    CheckHttpRequest, CheckHttpResponse, DeniedHttpResponse, OkHttpResponse,
};
use tower_aperture::pb::rpc::Status;
use tower_aperture::{
    ApertureClient, ApertureLayer, FailureMode, RejectReason, Rejection, RequestHead,
};

const LONG: Duration = Duration::from_secs(60);

fn client(agent: &FakeAgent) -> ApertureClient {
    ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .connect_timeout(LONG)
        .check_timeout(LONG)
        .end_timeout(LONG)
        .build()
        .expect("a client")
}

fn layer(agent: &FakeAgent) -> ApertureLayer<ApertureClient, AgentReject> {
    ApertureLayer::http(client(agent), "ingress")
}

/// Records the heads of the requests that reach the inner service.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<HeaderMap>>>);

impl Seen {
    fn heads(&self) -> Vec<HeaderMap> {
        self.0.lock().expect("the lock is not poisoned").clone()
    }

    fn service<B>(
        &self,
    ) -> impl Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
    where
        B: Send + 'static,
    {
        let seen = self.clone();
        service_fn(move |request: Request<B>| {
            let headers = request.headers().clone();
            seen.0
                .lock()
                .expect("the lock is not poisoned")
                .push(headers);
            async { Ok(Response::new(Full::from("hello"))) }
        })
    }
}

async fn send<R>(
    layer: &ApertureLayer<ApertureClient, R>,
    request: Request<()>,
) -> (u16, HeaderMap, String)
where
    R: tower_aperture::layer::OnReject<Full<Bytes>>,
{
    let service = layer.layer(Seen::default().service());
    let response = service.oneshot(request).await.expect("a response");
    let (head, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .map_err(|_| ())
        .expect("a body")
        .to_bytes();
    let text = String::from_utf8(body.into()).expect("text");
    (head.status.as_u16(), head.headers, text)
}

fn plain() -> Request<()> {
    Request::new(())
}

fn only_check(agent: &FakeAgent) -> CheckHttpRequest {
    let mut checks = agent.http_checks();
    assert_eq!(checks.len(), 1);
    assert!(agent.checks().is_empty(), "CheckHTTP replaces Check");
    checks.remove(0)
}

fn attributes(agent: &FakeAgent) -> tower_aperture::pb::checkhttp::check_http_request::HttpRequest {
    only_check(agent).request.expect("attributes")
}

fn denied(status: i32, headers: &[(&str, &str)], body: &str) -> CheckHttpResponse {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    CheckHttpResponse {
        status: Some(Status {
            code: 14,
            ..Status::default()
        }),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status,
            headers: headers.collect(),
            body: body.into(),
        })),
        check_response: Some(CheckResponse {
            decision_type: DecisionType::Rejected as i32,
            reject_reason: Reason::RateLimited as i32,
            expect_end: true,
            ..CheckResponse::default()
        }),
        ..CheckHttpResponse::default()
    }
}
