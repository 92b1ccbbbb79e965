//! The Agent's messages and services, generated from `proto/`.
//!
//! [`Flow::check_response`](crate::Flow::check_response) returns them, and a fake Agent for tests
//! can be built with them. The feature `raw-protocol` makes the module public. Its contents follow
//! the Agent's protocol and the versions of `prost` and `tonic`, and are not covered by this crate's
//! stability promise.
//!
//! ```
//! use tower_aperture::pb::check::CheckResponse;
//!
//! let response = CheckResponse { control_point: "checkout".into(), ..Default::default() };
//! assert_eq!(response.limiter_decisions.len(), 0);
//! ```

// Without the feature, the client uses only a part of the messages.
#![cfg_attr(
    not(feature = "raw-protocol"),
    allow(dead_code, unreachable_pub, unused_imports)
)]

/// The generated modules, nested like the packages because the generated paths rely on that.
#[allow(missing_docs, unreachable_pub, unused_qualifications, rust_2018_idioms)]
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::uninlined_format_args
)]
#[allow(rustdoc::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/pb.rs"));
}

/// The encoded `FileDescriptorSet` of all these messages and services, for gRPC reflection and for
/// access to messages by name.
///
/// ```
/// assert!(!tower_aperture::pb::FILE_DESCRIPTORS.is_empty());
/// ```
#[cfg(feature = "raw-protocol")]
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// `aperture.flowcontrol.check.v1`: checks, ends of flows, caches.
pub use self::generated::aperture::flowcontrol::check::v1 as check;
/// `aperture.flowcontrol.checkhttp.v1`: checks by HTTP attributes.
pub use self::generated::aperture::flowcontrol::checkhttp::v1 as checkhttp;
/// `google.rpc`: the status in a CheckHTTP response.
pub use self::generated::google::rpc;
/// `opentelemetry.proto.collector.trace.v1`: the export of spans.
pub use self::generated::opentelemetry::proto::collector::trace::v1 as trace_collector;
/// `opentelemetry.proto.common.v1`: attributes of spans.
pub use self::generated::opentelemetry::proto::common::v1 as common;
/// `opentelemetry.proto.resource.v1`: the resource that spans come from.
pub use self::generated::opentelemetry::proto::resource::v1 as resource;
/// `opentelemetry.proto.trace.v1`: spans.
pub use self::generated::opentelemetry::proto::trace::v1 as trace;
