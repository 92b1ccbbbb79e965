//! Checks made of HTTP attributes.

use tonic::{Request, Response, Status};
use tower_aperture::pb::check::CheckResponse;
use tower_aperture::pb::checkhttp::check_http_response::HttpResponse;
use tower_aperture::pb::checkhttp::flow_control_service_http_server::FlowControlServiceHttp;
use tower_aperture::pb::checkhttp::{CheckHttpRequest, CheckHttpResponse, OkHttpResponse};

use super::state::State;
use super::{answer, lock};

/// Yes, and nothing more.
pub(super) fn accepted(request: &CheckHttpRequest) -> CheckHttpResponse {
    CheckHttpResponse {
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
        check_response: Some(CheckResponse {
            control_point: request.control_point.clone(),
            expect_end: request.expect_end,
            ..CheckResponse::default()
        }),
        ..CheckHttpResponse::default()
    }
}

#[tonic::async_trait]
impl FlowControlServiceHttp for State {
    async fn check_http(
        &self,
        request: Request<CheckHttpRequest>,
    ) -> Result<Response<CheckHttpResponse>, Status> {
        let request = request.into_inner();
        lock(&self.http_checks).push(request.clone());
        Self::play(&self.on_check_http, &request, |answer| {
            if let Some(check) = &answer.check_response {
                lock(&self.tokens).extend(answer::request_ids(check));
            }
        })
        .await
    }
}
