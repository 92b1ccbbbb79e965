//! The Agent's messages and services, as the client uses them.

/// The generated modules, nested like the packages because the generated paths rely on that. The
/// client uses only a part of them.
#[allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    unused_qualifications,
    rust_2018_idioms
)]
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::uninlined_format_args
)]
#[allow(rustdoc::all)]
pub(crate) mod generated {
    include!(concat!(env!("OUT_DIR"), "/pb.rs"));
}

pub(crate) use self::generated::aperture::flowcontrol::check::v1 as check;
pub(crate) use self::generated::aperture::flowcontrol::checkhttp::v1 as checkhttp;
pub(crate) use self::generated::opentelemetry::proto::collector::trace::v1 as trace_collector;
