//! The Agent's messages and services, generated from `proto/`.
//!
//! [`Flow::check_response`](crate::Flow::check_response) returns them, and a fake Agent for tests
//! can be built with them. The module is part of the feature `raw-protocol`. Its contents follow the
//! Agent's protocol and the versions of `prost` and `tonic`, and are not covered by this crate's
//! stability promise.
//!
//! ```
//! use tower_aperture::pb::check::CheckResponse;
//!
//! let response = CheckResponse { control_point: "checkout".into(), ..Default::default() };
//! assert_eq!(response.limiter_decisions.len(), 0);
//! ```

use crate::messages::generated;

/// The encoded `FileDescriptorSet` of all these messages and services, for gRPC reflection and for
/// access to messages by name.
///
/// ```
/// assert!(!tower_aperture::pb::FILE_DESCRIPTORS.is_empty());
/// ```
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// `aperture.flowcontrol.check.v1`: checks, ends of flows, caches.
pub use generated::aperture::flowcontrol::check::v1 as check;
/// `aperture.flowcontrol.checkhttp.v1`: checks by HTTP attributes.
pub use generated::aperture::flowcontrol::checkhttp::v1 as checkhttp;
/// `google.rpc`: the status in a CheckHTTP response.
pub use generated::google::rpc;
/// `opentelemetry.proto.collector.trace.v1`: the export of spans.
pub use generated::opentelemetry::proto::collector::trace::v1 as trace_collector;
/// `opentelemetry.proto.common.v1`: attributes of spans.
pub use generated::opentelemetry::proto::common::v1 as common;
/// `opentelemetry.proto.resource.v1`: the resource that spans come from.
pub use generated::opentelemetry::proto::resource::v1 as resource;
/// `opentelemetry.proto.trace.v1`: spans.
pub use generated::opentelemetry::proto::trace::v1 as trace;
