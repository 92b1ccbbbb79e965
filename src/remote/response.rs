//! The Agent's response to a check: the fields that the client reads, and the bytes of all.

use bytes::Bytes;
use prost::{DecodeError, Message};

use super::end_job::take_inflight_refs;
use crate::messages::check::{
    CacheLookupResponse, CheckResponse, InflightRequestRef, LimiterDecision,
};

/// The response to a check.
///
/// Labels and names of services are most of a response and are only for telemetry: the span gets
/// the bytes as they came, and nothing else decodes them unless the application asks for the whole
/// response.
pub(super) struct AgentResponse {
    decision: CheckResponse,
    /// The whole response, encoded.
    encoded: Bytes,
}

/// The fields of `CheckResponse` that the client reads. The enums are integers here.
#[derive(Clone, PartialEq, Message)]
struct Decision {
    #[prost(message, optional, tag = "1")]
    start: Option<prost_types::Timestamp>,
    #[prost(message, optional, tag = "2")]
    end: Option<prost_types::Timestamp>,
    #[prost(int32, tag = "8")]
    decision_type: i32,
    #[prost(int32, tag = "9")]
    reject_reason: i32,
    #[prost(message, repeated, tag = "12")]
    limiter_decisions: Vec<LimiterDecision>,
    #[prost(message, optional, tag = "13")]
    wait_time: Option<prost_types::Duration>,
    #[prost(int32, tag = "14")]
    denied_response_status_code: i32,
    #[prost(message, optional, tag = "15")]
    cache_lookup_response: Option<CacheLookupResponse>,
}

impl From<Decision> for CheckResponse {
    fn from(decision: Decision) -> Self {
        Self {
            start: decision.start,
            end: decision.end,
            decision_type: decision.decision_type,
            reject_reason: decision.reject_reason,
            limiter_decisions: decision.limiter_decisions,
            wait_time: decision.wait_time,
            denied_response_status_code: decision.denied_response_status_code,
            cache_lookup_response: decision.cache_lookup_response,
            ..Self::default()
        }
    }
}

impl AgentResponse {
    /// Decodes what the client reads of a response.
    pub(super) fn decode(encoded: Bytes) -> Result<Self, DecodeError> {
        Ok(Self {
            decision: Decision::decode(&*encoded)?.into(),
            encoded,
        })
    }

    /// Returns the decision: the times, what limiters decided, the rejection and the cache lookup.
    /// The other fields are empty.
    pub(super) const fn decision(&self) -> &CheckResponse {
        &self.decision
    }

    /// Decodes the whole response. If a field that the client does not read is invalid, all of these
    /// fields are empty.
    pub(super) fn decode_whole(&self) -> CheckResponse {
        let whole = CheckResponse::decode(&*self.encoded);
        whole.unwrap_or_else(|_| self.decision.clone())
    }

    /// Takes the values that the caches returned. What is left has only the outcomes of the lookup.
    pub(super) fn take_lookup(&mut self) -> Option<CacheLookupResponse> {
        let lookup = self.decision.cache_lookup_response.as_mut()?;
        let mut outcomes = lookup.clone();
        if remove_values(&mut outcomes) {
            std::mem::swap(lookup, &mut outcomes);
            self.remove_encoded_values();
        }
        Some(outcomes)
    }

    /// Takes the references to the slots that the flow holds.
    pub(super) fn take_inflight_refs(&mut self) -> Vec<InflightRequestRef> {
        take_inflight_refs(&mut self.decision)
    }

    /// Returns the bytes of the response, at most `max_len` of them unless it is larger without the
    /// values of the caches.
    pub(super) fn into_encoded(mut self, max_len: usize) -> Bytes {
        if self.encoded.len() > max_len {
            self.remove_encoded_values();
        }
        self.encoded
    }

    fn remove_encoded_values(&mut self) {
        let mut whole = self.decode_whole();
        if let Some(lookup) = &mut whole.cache_lookup_response {
            remove_values(lookup);
        }
        self.encoded = whole.encode_to_vec().into();
    }
}

impl From<CheckResponse> for AgentResponse {
    fn from(decision: CheckResponse) -> Self {
        Self {
            encoded: decision.encode_to_vec().into(),
            decision,
        }
    }
}

/// Returns `true` if there was any value.
fn remove_values(lookup: &mut CacheLookupResponse) -> bool {
    let result = lookup.result_cache_response.iter_mut();
    let global = lookup.global_cache_responses.iter_mut();
    let mut any = false;
    for key in result.chain(global.filter_map(|entry| entry.value.as_mut())) {
        any |= !std::mem::take(&mut key.value).is_empty();
    }
    any
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::encoding::{
        DecodeContext, WireType, decode_key, encode_key, encode_varint, skip_field,
    };

    use super::*;
    use crate::messages::check::KeyLookupResponse;
    use crate::messages::check::check_response::{DecisionType, RejectReason};

    fn response(value: &'static [u8]) -> CheckResponse {
        CheckResponse {
            start: Some(prost_types::Timestamp {
                seconds: 7,
                nanos: 1,
            }),
            end: Some(prost_types::Timestamp {
                seconds: 7,
                nanos: 2,
            }),
            services: vec!["shop".to_owned()],
            control_point: "checkout".to_owned(),
            telemetry_flow_labels: [("user".to_owned(), "42".to_owned())].into(),
            decision_type: DecisionType::Rejected as i32,
            reject_reason: RejectReason::NoTokens as i32,
            limiter_decisions: vec![LimiterDecision {
                policy_name: "per-user".to_owned(),
                ..LimiterDecision::default()
            }],
            wait_time: Some(prost_types::Duration {
                seconds: 3,
                nanos: 0,
            }),
            denied_response_status_code: 429,
            cache_lookup_response: Some(CacheLookupResponse {
                result_cache_response: Some(KeyLookupResponse {
                    value: Bytes::from_static(value),
                    lookup_status: 1,
                    ..KeyLookupResponse::default()
                }),
                ..CacheLookupResponse::default()
            }),
            ..CheckResponse::default()
        }
    }

    fn decode(message: &CheckResponse) -> AgentResponse {
        AgentResponse::decode(message.encode_to_vec().into()).expect("a message")
    }

    #[test]
    fn the_decision_has_all_fields_that_the_client_reads() {
        let message = response(b"cached");
        let decoded = decode(&message);
        let expected = CheckResponse {
            services: Vec::new(),
            control_point: String::new(),
            telemetry_flow_labels: Default::default(),
            ..message.clone()
        };
        assert_eq!(*decoded.decision(), expected);
        assert_eq!(decoded.decode_whole(), message);
        assert_eq!(decoded.into_encoded(usize::MAX), message.encode_to_vec());
    }

    #[test]
    fn cached_values_that_were_taken_or_are_too_large_are_not_sent_back() {
        let message = response(b"cached");
        let without = response(b"");
        let mut taken = decode(&message);
        let lookup = taken.take_lookup();
        assert_eq!(lookup, message.cache_lookup_response);
        assert_eq!(taken.decode_whole(), without);
        assert_eq!(taken.take_lookup(), without.cache_lookup_response);
        let lookup = &taken.decision().cache_lookup_response;
        assert_eq!(*lookup, without.cache_lookup_response);
        assert_eq!(taken.into_encoded(usize::MAX), without.encode_to_vec());

        let len = message.encoded_len();
        assert_eq!(decode(&message).into_encoded(len).len(), len);
        let encoded = decode(&message).into_encoded(len - 1);
        assert_eq!(encoded, without.encode_to_vec());
    }

    #[test]
    fn an_invalid_field_that_the_client_does_not_read_leaves_the_decision() {
        // The tag 5, the control point, with a byte that is not UTF-8.
        let mut encoded = response(b"").encode_to_vec();
        encoded.extend([5 << 3 | 2, 1, 0xff]);
        let decoded = AgentResponse::decode(encoded.into()).expect("a decision");
        assert_eq!(decoded.decode_whole(), *decoded.decision());
        let reason = decoded.decision().reject_reason;
        assert_eq!(reason, RejectReason::NoTokens as i32);
    }

    /// Returns messages that have all fields, and their bytes with unknown fields, repetitions and
    /// changed bytes.
    fn messages() -> impl Strategy<Value = Vec<u8>> {
        let fields = (0_usize..4, any::<i32>(), ".{0,9}", any::<[u8; 2]>());
        let unknown = prop::collection::vec((16_u32..400, any::<u64>()), 0..3);
        let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
        (fields, unknown, any::<bool>(), changes).prop_map(
            |((limiters, number, text, cached), unknown, twice, changes)| {
                let mut message = response(b"");
                message.reject_reason = number;
                message.denied_response_status_code = number;
                message.control_point.clone_from(&text);
                message.telemetry_flow_labels = [(text.clone(), text.clone())].into();
                let decision = LimiterDecision {
                    policy_name: text,
                    dropped: number > 0,
                    ..LimiterDecision::default()
                };
                message.limiter_decisions = vec![decision; limiters];
                if let Some(lookup) = &mut message.cache_lookup_response
                    && let Some(result) = &mut lookup.result_cache_response
                {
                    result.value = Bytes::copy_from_slice(&cached);
                }
                let mut encoded = message.encode_to_vec();
                for (tag, value) in unknown {
                    encode_key(tag, WireType::Varint, &mut encoded);
                    encode_varint(value, &mut encoded);
                }
                if twice {
                    encoded.extend_from_within(..);
                }
                for (at, byte) in changes {
                    let at = at.index(encoded.len());
                    encoded[at] = byte;
                }
                encoded
            },
        )
    }

    /// Returns true if `telemetry_flow_labels` has another wire type than a map.
    ///
    /// Prost reads such a field as a map nevertheless, so that it also disagrees about the fields
    /// behind it.
    fn has_a_malformed_map(mut encoded: &[u8]) -> bool {
        while let Ok((tag, wire_type)) = decode_key(&mut encoded) {
            if tag == 7 && wire_type != WireType::LengthDelimited {
                return true;
            }
            if skip_field(wire_type, tag, &mut encoded, DecodeContext::default()).is_err() {
                break;
            }
        }
        false
    }

    proptest! {
        #[test]
        fn a_decision_is_decoded_as_the_whole_message_is(
            encoded in messages(),
            cut in any::<prop::sample::Index>(),
            is_cut in any::<bool>(),
        ) {
            let mut encoded = encoded;
            if is_cut {
                encoded.truncate(cut.index(encoded.len()));
            }
            prop_assume!(!has_a_malformed_map(&encoded));
            let whole = CheckResponse::decode(&*encoded);
            let decoded = AgentResponse::decode(encoded.clone().into());
            match (whole, decoded) {
                (Ok(whole), Ok(decoded)) => {
                    prop_assert_eq!(&decoded.decode_whole(), &whole);
                    let read = CheckResponse {
                        services: Vec::new(),
                        control_point: String::new(),
                        flow_label_keys: Vec::new(),
                        telemetry_flow_labels: Default::default(),
                        classifier_infos: Vec::new(),
                        flux_meter_infos: Vec::new(),
                        expect_end: false,
                        ..whole
                    };
                    prop_assert_eq!(decoded.decision(), &read);
                    prop_assert_eq!(decoded.into_encoded(usize::MAX), encoded);
                }
                // A field that the client does not read is invalid.
                (Err(_), Ok(decoded)) => prop_assert_eq!(&decoded.decode_whole(), decoded.decision()),
                (Ok(_), Err(error)) => prop_assert!(false, "only the whole message decodes: {}", error),
                (Err(_), Err(_)) => {}
            }
        }
    }
}
