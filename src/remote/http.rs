//! Checks of HTTP requests: `CheckHTTP` messages from and to the types of the crate.

use std::net::SocketAddr;

use crate::flow::{FlowParams, HttpAttributes, HttpExtras};
use crate::messages::check::CheckResponse;
use crate::messages::check::check_response::DecisionType;
use crate::messages::checkhttp::check_http_request::HttpRequest;
use crate::messages::checkhttp::check_http_response::HttpResponse;
use crate::messages::checkhttp::socket_address::Protocol;
use crate::messages::checkhttp::{
    CheckHttpRequest, CheckHttpResponse, DeniedHttpResponse, SocketAddress,
};

pub(super) fn build_request(
    control_point: &str,
    params: &FlowParams<'_>,
    request: &HttpAttributes<'_>,
    baggage: Option<String>,
) -> CheckHttpRequest {
    let headers = request
        .plain_headers()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .chain(baggage.map(|baggage| ("baggage".to_owned(), baggage)));
    CheckHttpRequest {
        // Omitted if unknown: an Agent refuses an empty address.
        source: request.source.map(address),
        destination: request.destination.map(address),
        request: Some(HttpRequest {
            method: request.method.to_owned(),
            headers: headers.collect(),
            path: request.path.to_owned(),
            host: request.host.to_owned(),
            scheme: request.scheme.to_owned(),
            size: request.size,
            protocol: request.protocol.to_owned(),
            body: request.body.to_owned(),
        }),
        control_point: control_point.to_owned(),
        ramp_mode: params.ramp_mode,
        expect_end: true,
    }
}

fn address(address: SocketAddr) -> SocketAddress {
    SocketAddress {
        protocol: Protocol::Tcp as i32,
        address: address.ip().to_canonical().to_string(),
        port: address.port().into(),
    }
}

/// Splits a response into the decision, in the form of a plain check, and the additional values for
/// HTTP.
pub(super) fn split(answer: CheckHttpResponse) -> (CheckResponse, Option<Box<HttpExtras>>) {
    let mut response = answer.check_response.unwrap_or_default();
    let rejected = answer.status.is_some_and(|status| status.code != 0);
    let (denied, extras) = match answer.http_response {
        Some(HttpResponse::DeniedResponse(denied)) => {
            let DeniedHttpResponse {
                status,
                headers,
                body,
            } = denied;
            if status != 0 {
                response.denied_response_status_code = status;
            }
            // For a denied request the Agent sends the wait only in this header.
            if response.wait_time.is_none() {
                response.wait_time = seconds(headers.get("retry-after"));
            }
            (true, HttpExtras::new(headers, body))
        }
        Some(HttpResponse::OkResponse(ok)) => (false, HttpExtras::new(ok.headers, "")),
        None => (false, HttpExtras::default()),
    };
    if denied || rejected {
        response.decision_type = DecisionType::Rejected as i32;
    }
    (response, extras.boxed_unless_empty())
}

fn seconds(header: Option<&String>) -> Option<prost_types::Duration> {
    let seconds = header?.trim().parse().ok()?;
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::checkhttp::OkHttpResponse;
    use crate::messages::generated::google::rpc::Status;

    #[test]
    fn a_denied_response_and_an_error_status_are_both_rejections() {
        let denied = CheckHttpResponse {
            http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
                status: 418,
                ..DeniedHttpResponse::default()
            })),
            ..CheckHttpResponse::default()
        };
        let (response, extras) = split(denied);
        assert_eq!(response.decision_type, DecisionType::Rejected as i32);
        assert_eq!(response.denied_response_status_code, 418);
        assert!(extras.is_none());

        let rejected = CheckHttpResponse {
            status: Some(Status {
                code: 14,
                ..Status::default()
            }),
            ..CheckHttpResponse::default()
        };
        assert_eq!(
            split(rejected).0.decision_type,
            DecisionType::Rejected as i32
        );
    }

    #[test]
    fn an_accepted_response_without_headers_has_no_extras() {
        let fine = CheckHttpResponse {
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
            ..CheckHttpResponse::default()
        };
        let (response, extras) = split(fine);
        assert_eq!(response, CheckResponse::default());
        assert!(extras.is_none());
    }

    #[test]
    fn a_retry_after_that_is_no_number_is_ignored() {
        assert_eq!(
            seconds(Some(&" 3 ".to_owned())).map(|wait| wait.seconds),
            Some(3)
        );
        assert!(seconds(Some(&"Fri, 31 Dec".to_owned())).is_none());
        assert!(seconds(None).is_none());
    }
}
