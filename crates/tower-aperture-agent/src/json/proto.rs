//! Converts protobuf messages to and from their JSON mapping.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};

use tower_aperture::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheLookupRequest, CacheLookupResponse,
    CacheUpsertRequest, CacheUpsertResponse, CheckRequest, CheckResponse, FlowEndRequest,
    FlowEndResponse,
};
use tower_aperture::pb::checkhttp::{CheckHttpRequest, CheckHttpResponse};
use tower_aperture::pb::trace_collector::ExportTraceServiceRequest;

/// The descriptors of all messages.
pub(crate) static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(tower_aperture::pb::FILE_DESCRIPTORS)
        .expect("the build script generates valid descriptors")
});

/// A message with its full protobuf name.
pub(crate) trait NamedMessage: Message + Default {
    const NAME: &str;
}

macro_rules! named {
    ($package:literal: $($message:ident = $name:literal),* $(,)?) => {
        $(impl NamedMessage for $message {
            const NAME: &str = concat!($package, ".", $name);
        })*
    };
}

named!("aperture.flowcontrol.check.v1":
    CheckRequest = "CheckRequest",
    CheckResponse = "CheckResponse",
    FlowEndRequest = "FlowEndRequest",
    FlowEndResponse = "FlowEndResponse",
    CacheLookupRequest = "CacheLookupRequest",
    CacheLookupResponse = "CacheLookupResponse",
    CacheUpsertRequest = "CacheUpsertRequest",
    CacheUpsertResponse = "CacheUpsertResponse",
    CacheDeleteRequest = "CacheDeleteRequest",
    CacheDeleteResponse = "CacheDeleteResponse",
);
named!("aperture.flowcontrol.checkhttp.v1":
    CheckHttpRequest = "CheckHTTPRequest",
    CheckHttpResponse = "CheckHTTPResponse",
);
named!("opentelemetry.proto.collector.trace.v1":
    ExportTraceServiceRequest = "ExportTraceServiceRequest",
);

fn descriptor<M: NamedMessage>() -> prost_reflect::MessageDescriptor {
    POOL.get_message_by_name(M::NAME)
        .expect("the build script includes all messages")
}

/// Decodes a message. Accepts field names in camel and snake case, and enums by name or number;
/// ignores unknown fields. An empty text is an empty message.
pub(crate) fn decode<M: NamedMessage>(text: &[u8]) -> Result<M, serde_json::Error> {
    if text.is_empty() {
        return Ok(M::default());
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(descriptor::<M>(), &mut json, &options)?;
    json.end()?;
    message.transcode_to().map_err(serde::de::Error::custom)
}

/// Encodes a message with every field, as the gateway of an Agent does.
pub(crate) fn encode<M: NamedMessage>(message: &M) -> Result<Vec<u8>, String> {
    let mut dynamic = DynamicMessage::new(descriptor::<M>());
    dynamic
        .transcode_from(message)
        .map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    let options = SerializeOptions::new().skip_default_fields(false);
    dynamic
        .serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options)
        .map_err(|error| error.to_string())?;
    Ok(text)
}
