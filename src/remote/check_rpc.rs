//! The RPCs that check a flow, and the messages of a plain check.

use bytes::Bytes;
use prost::{DecodeError, Message};

use super::call::{CHECK, CHECK_HTTP};
use super::http;
use super::message::OutgoingMessage;
use super::response::AgentResponse;
use crate::flow::{FlowParams, HttpExtras};
use crate::messages::checkhttp::CheckHttpResponse;
use crate::protobuf::{put_bytes, put_bytes_unless_empty, put_message, put_true};

/// An RPC that checks a flow.
#[derive(Clone, Copy, Debug)]
pub(super) enum CheckRpc {
    Check,
    CheckHttp,
}

impl CheckRpc {
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Check => CHECK,
            Self::CheckHttp => CHECK_HTTP,
        }
    }

    /// Decodes a response into the decision and the additional values for HTTP.
    pub(super) fn decode(
        self,
        response: Bytes,
    ) -> Result<(AgentResponse, Option<Box<HttpExtras>>), DecodeError> {
        match self {
            Self::Check => Ok((AgentResponse::decode(response)?, None)),
            Self::CheckHttp => {
                let (response, extras) = http::split(CheckHttpResponse::decode(response)?);
                Ok((response.into(), extras))
            }
        }
    }
}

/// Encodes a `CheckRequest`, straight from the labels of the flow.
pub(super) fn encode_request(control_point: &str, params: &FlowParams<'_>) -> OutgoingMessage {
    const FIXED: usize = 64;
    const PER_LABEL: usize = 16;
    let labels = params.labels.iter();
    let label_len = labels.map(|(key, value)| key.len() + value.len() + PER_LABEL);
    let len = FIXED + control_point.len() + label_len.sum::<usize>();
    OutgoingMessage::build(len, |request| {
        put_bytes_unless_empty(request, 1, control_point);
        for (key, value) in params.labels.iter() {
            put_message(request, 2, |label| {
                put_bytes_unless_empty(label, 1, key);
                put_bytes_unless_empty(label, 2, value);
            });
        }
        put_true(request, 3, params.ramp_mode);
        // Always set, as by every other SDK. The Agent fills in the control point.
        put_message(request, 4, |lookup| {
            let key = params.result_cache_key.as_deref().unwrap_or("");
            put_bytes_unless_empty(lookup, 2, key);
            for key in &params.global_cache_keys {
                put_bytes(lookup, 3, &**key);
            }
        });
        // The client promises to end the flow.
        put_true(request, 5, true);
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::messages::check::{CacheLookupRequest, CheckRequest};

    proptest! {
        #[test]
        fn any_labels_and_keys_are_encoded_as_prost_encodes_them(
            labels in prop::collection::hash_map(".{0,9}", ".{0,200}", 0..9),
            control_point in ".{0,200}",
            global_keys in prop::collection::vec(".{0,9}", 0..4),
        ) {
            let mut params = FlowParams::new();
            for (key, value) in &labels {
                params = params.label(key, value);
            }
            for key in &global_keys {
                params = params.global_cache_key(key);
            }
            let encoded = encode_request(&control_point, &params).unframed();
            let expected = CheckRequest {
                control_point,
                labels: labels.clone(),
                ramp_mode: false,
                cache_lookup_request: Some(CacheLookupRequest {
                    global_cache_keys: global_keys.clone(),
                    ..CacheLookupRequest::default()
                }),
                expect_end: true,
            };
            prop_assert_eq!(encoded.len(), expected.encoded_len());
            prop_assert_eq!(CheckRequest::decode(encoded).ok(), Some(expected));
        }
    }

    #[test]
    fn a_request_has_the_fields_of_the_flow() {
        let long = "x".repeat(300);
        for (labels, ramp_mode, result_key, global_keys) in [
            (vec![], false, None, vec![]),
            (
                vec![("user", "42"), ("tier", "gold")],
                true,
                Some("cart"),
                vec!["a", "b"],
            ),
            (
                vec![("empty", ""), (&*long, &*long)],
                false,
                Some(""),
                vec![""],
            ),
        ] {
            let mut params = FlowParams::new().ramp_mode(ramp_mode);
            for (key, value) in &labels {
                params = params.label(*key, *value);
            }
            if let Some(key) = result_key {
                params = params.result_cache_key(key);
            }
            for key in &global_keys {
                params = params.global_cache_key(*key);
            }
            let labels = labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let expected = CheckRequest {
                control_point: "checkout".to_owned(),
                labels: labels.collect(),
                ramp_mode,
                cache_lookup_request: Some(CacheLookupRequest {
                    control_point: String::new(),
                    result_cache_key: result_key.unwrap_or_default().to_owned(),
                    global_cache_keys: global_keys.into_iter().map(str::to_owned).collect(),
                }),
                expect_end: true,
            };
            let encoded = encode_request("checkout", &params).unframed();
            assert_eq!(encoded.len(), expected.encoded_len());
            assert_eq!(CheckRequest::decode(encoded).ok(), Some(expected));
        }
    }
}
