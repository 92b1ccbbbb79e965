//! The RPCs that check a flow, and the messages of a plain check.

use prost::Message;

use super::call::CHECK;
use crate::flow::{FlowParams, HttpExtras};
use crate::messages::check::{CacheLookupRequest, CheckRequest, CheckResponse};

/// An RPC that checks a flow. The implementing type is its request.
pub(super) trait CheckRpc: Message + Clone + 'static {
    const PATH: &'static str;

    type Response: Message + Default + 'static;

    fn into_control_point(self) -> String;

    /// Splits a response into the decision and the additional values for HTTP.
    fn split_response(response: Self::Response) -> (CheckResponse, Option<Box<HttpExtras>>);
}

impl CheckRpc for CheckRequest {
    const PATH: &'static str = CHECK;

    type Response = CheckResponse;

    fn into_control_point(self) -> String {
        self.control_point
    }

    fn split_response(response: CheckResponse) -> (CheckResponse, Option<Box<HttpExtras>>) {
        (response, None)
    }
}

pub(super) fn build_request(control_point: &str, params: &FlowParams<'_>) -> CheckRequest {
    CheckRequest {
        control_point: control_point.to_owned(),
        labels: params
            .labels
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        ramp_mode: params.ramp_mode,
        // Always set, as by every other SDK. The Agent fills in the control point.
        cache_lookup_request: Some(CacheLookupRequest {
            control_point: String::new(),
            result_cache_key: params.result_cache_key.as_deref().unwrap_or("").to_owned(),
            global_cache_keys: params
                .global_cache_keys
                .iter()
                .map(|key| key.clone().into_owned())
                .collect(),
        }),
        expect_end: true,
    }
}
