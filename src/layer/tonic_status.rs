//! Converts rejections to `tonic::Status`.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::grpc;
use super::reject::NO_STORE;
use crate::flow::Rejection;

/// Returns the status that the layer sends to a gRPC client for the same rejection: code, message,
/// error details and, if the wait is known, `retry-after` and `grpc-retry-pushback-ms`; see
/// [`DefaultReject`](crate::layer::DefaultReject).
///
/// The [headers](Rejection::headers) of the rejection become metadata, and `cache-control` is
/// `no-store`. The rejection is the [source](std::error::Error::source) of the status.
///
/// Handlers that call [`ApertureClient::guard`](crate::ApertureClient::guard) can return it with
/// `?`:
///
/// ```
/// use tower_aperture::{ApertureClient, FlowParams};
///
/// async fn render(client: &ApertureClient) -> Result<String, tonic::Status> {
///     Ok(client.guard("render", FlowParams::new(), async { "done".to_owned() }).await?)
/// }
/// ```
impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        let mut headers = HeaderMap::new();
        let grpc = HeaderValue::from_static("application/grpc");
        grpc::write_rejection(&mut headers, grpc, &rejection, false);
        headers.remove(header::CONTENT_TYPE);
        // The headers of the rejection are added later: they may be malformed and must not be
        // parsed here.
        let mut status = Self::from_header_map(&headers)
            .unwrap_or_else(|| Self::new(Code::Unknown, "rejected by flow control"));
        let mut metadata = std::mem::take(status.metadata_mut()).into_headers();
        metadata.insert(header::CACHE_CONTROL, NO_STORE);
        if let Some(more) = rejection.headers() {
            for name in more.keys() {
                if is_own(name.as_str()) || metadata.contains_key(name) {
                    continue;
                }
                for value in more.get_all(name) {
                    // The map is full at 32768 values; further ones are omitted.
                    let _ = metadata.try_append(name, value.clone());
                }
            }
        }
        if let Some(secs) = rejection.retry_after_secs() {
            metadata.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        *status.metadata_mut() = MetadataMap::from_headers(metadata);
        status.set_source(Arc::new(rejection));
        status
    }
}

/// Returns true for the fields that the status itself sets.
fn is_own(name: &str) -> bool {
    name == "content-type" || name.starts_with("grpc-")
}
