//! The gRPC service `aperture.flowcontrol.checkhttp.v1`: checks of HTTP requests.

use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tonic::{Code, Status};

use super::call::{Call, CallResponse};
use super::delivery::SlotGrant;
use super::{Agent, convert};
use aperture_engine::engine::{HttpAnswer, HttpInput, HttpReport, HttpRequest, SocketAddress};
use tower_aperture::pb;
use tower_aperture::pb::check::CheckResponse;
use tower_aperture::pb::checkhttp::check_http_response::HttpResponse;
use tower_aperture::pb::checkhttp::{
    CheckHttpRequest, CheckHttpResponse, DeniedHttpResponse, OkHttpResponse,
    SocketAddress as SocketAddressPb,
};

/// The key in the dynamic metadata under which proxies find the check response.
const METADATA_KEY: &str = "aperture.check_response";

pub(super) async fn check_http(
    agent: Agent,
    call: Call<CheckHttpRequest>,
) -> Result<CallResponse<CheckHttpResponse>, Status> {
    let began = SystemTime::now();
    let timeout = convert::grpc_timeout(&call.headers)?;
    let charge = call.charge;
    let pending = {
        let message = call.message;
        let headers: Vec<(&str, &str)> = match &message.request {
            Some(http) => {
                convert::check_labels(&http.headers, agent.inner.limits.labels)?;
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
            .deadline(timeout);
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
        let pending = agent.inner.engine.start_http(&input);
        pending.map_err(|error| Status::new(Code::from(error.grpc_code()), error.to_string()))?
    };
    let (report, ticket) = agent.await_decision(pending, &charge).await;
    agent.inner.metrics.decided(&report.check);
    Ok(CallResponse {
        grant: SlotGrant::new(&report.check, ticket),
        message: response(report, began),
    })
}

fn address(address: &SocketAddressPb) -> SocketAddress<'_> {
    SocketAddress::new(&address.address, address.port).protocol(address.protocol)
}

/// Converts a report into the response. The copy in the metadata keeps the wait time and lacks the
/// timestamps.
fn response(report: HttpReport, began: SystemTime) -> CheckHttpResponse {
    let status = pb::rpc::Status {
        code: report.status_code(),
        ..pb::rpc::Status::default()
    };
    let HttpReport {
        answer,
        check,
        wait_time,
        ..
    } = report;
    let http_response = match answer {
        HttpAnswer::Ok { headers } => Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: headers.into_iter().collect(),
            ..OkHttpResponse::default()
        })),
        HttpAnswer::Denied { status, headers } => {
            Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
                status,
                headers: headers.into_iter().collect(),
                ..DeniedHttpResponse::default()
            }))
        }
        // The messages have no other response.
        _ => None,
    };
    let mut response = CheckResponse {
        wait_time: wait_time.and_then(|wait| wait.try_into().ok()),
        ..CheckResponse::from(check)
    };
    let copy = BASE64_STANDARD.encode(response.encode_to_vec());
    let kind = Some(Kind::StringValue(copy));
    response.wait_time = None;
    (response.start, response.end) = convert::decision_timestamps(began);
    CheckHttpResponse {
        status: Some(status),
        http_response,
        dynamic_metadata: Some(Struct {
            fields: [(METADATA_KEY.to_owned(), Value { kind })].into(),
        }),
        check_response: Some(response),
    }
}
