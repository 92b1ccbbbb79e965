//! `aperture.flowcontrol.checkhttp.v1`: checks of HTTP requests.

use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tonic::{Code, Request, Response, Status};

use super::budget::Charge;
use super::delivery::Granted;
use super::{Agent, convert};
use crate::engine::{HttpAnswer, HttpInput, HttpReport, HttpRequest, SocketAddress};
use crate::pb::check::CheckResponse;
use crate::pb::checkhttp::check_http_response::HttpResponse;
use crate::pb::checkhttp::flow_control_service_http_server::FlowControlServiceHttp;
use crate::pb::checkhttp::{
    CheckHttpRequest, CheckHttpResponse, DeniedHttpResponse, OkHttpResponse,
    SocketAddress as SocketAddressPb,
};
use crate::{pb, wire};

/// Where proxies find the answer.
const METADATA: &str = "aperture.check_response";

/// The service.
pub(super) struct HttpChecks(pub(super) Agent);

#[tonic::async_trait]
impl FlowControlServiceHttp for HttpChecks {
    async fn check_http(
        &self,
        request: Request<CheckHttpRequest>,
    ) -> Result<Response<CheckHttpResponse>, Status> {
        let began = SystemTime::now();
        let left = convert::time_left(request.metadata().as_ref())?;
        let charge = Charge::of(request.extensions());
        let Self(agent) = self;
        let starting = {
            let message = request.into_inner();
            let headers: Vec<(&str, &str)> = match &message.request {
                Some(http) => {
                    convert::within(&http.headers, agent.inner.limits.labels)?;
                    let headers = http.headers.iter();
                    headers
                        .map(|(name, value)| (name.as_str(), value.as_str()))
                        .collect()
                }
                None => Vec::new(),
            };
            let mut input = HttpInput::new(&message.control_point)
                .ramp_mode(message.ramp_mode)
                .expect_end(message.expect_end)
                .deadline(left);
            if let Some(source) = &message.source {
                input = input.source(address(source));
            }
            if let Some(destination) = &message.destination {
                input = input.destination(address(destination));
            }
            if let Some(http) = &message.request {
                input = input.request(HttpRequest {
                    method: &http.method,
                    path: &http.path,
                    host: &http.host,
                    scheme: &http.scheme,
                    protocol: &http.protocol,
                    size: http.size,
                    body: &http.body,
                    headers: &headers,
                });
            }
            let starting = agent.inner.engine.start_http(&input);
            starting
                .map_err(|error| Status::new(Code::from(error.grpc_code()), error.to_string()))?
        };
        let (report, ticket) = agent.answer(starting, charge.as_ref()).await;
        agent.inner.metrics.decided(&report.check);
        let granted = Granted::new(&report.check, ticket);
        Ok(granted.deliver(response(report, began)))
    }
}

fn address(address: &SocketAddressPb) -> SocketAddress<'_> {
    SocketAddress::new(&address.address, address.port).protocol(address.protocol)
}

/// The copy in the metadata is made before the answer is stamped, and while it has its wait.
fn response(report: HttpReport, began: SystemTime) -> CheckHttpResponse {
    let status = pb::rpc::Status {
        code: report.status_code(),
        ..pb::rpc::Status::default()
    };
    let HttpReport {
        answer,
        check,
        wait_time,
    } = report;
    let http_response = match answer {
        HttpAnswer::Ok { headers } => HttpResponse::OkResponse(OkHttpResponse {
            headers: headers.into_iter().collect(),
            ..OkHttpResponse::default()
        }),
        HttpAnswer::Denied { status, headers } => {
            HttpResponse::DeniedResponse(DeniedHttpResponse {
                status,
                headers: headers.into_iter().collect(),
                ..DeniedHttpResponse::default()
            })
        }
    };
    let mut response = CheckResponse {
        wait_time: wait_time.and_then(|wait| wait.try_into().ok()),
        ..wire::check_response(check)
    };
    let copy = BASE64_STANDARD.encode(response.encode_to_vec());
    let kind = Some(Kind::StringValue(copy));
    response.wait_time = None;
    (response.start, response.end) = convert::stamps(began);
    CheckHttpResponse {
        status: Some(status),
        http_response: Some(http_response),
        dynamic_metadata: Some(Struct {
            fields: [(METADATA.to_owned(), Value { kind })].into(),
        }),
        check_response: Some(response),
    }
}
