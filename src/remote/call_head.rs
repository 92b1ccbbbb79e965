//! The heads of requests: path, timeout and metadata.

use std::time::Duration;

use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::config::RemoteConfig;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The most fields of a request that this client makes.
const MAX_FIELDS: usize = 6;

/// The values that the heads of all requests have in common.
pub(super) struct CallHeads {
    api_key: Option<HeaderValue>,
    /// The timeout of a check that sets none, with its value on the wire.
    check_timeout: Option<(Duration, HeaderValue)>,
}

impl CallHeads {
    pub(super) fn new(config: &RemoteConfig) -> Self {
        let api_key = config.api_key.as_ref().and_then(|key| {
            let mut value = HeaderValue::from_bytes(key.as_bytes()).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        let check_timeout = config
            .check_timeout
            .and_then(|timeout| Some((timeout, timeout_value(timeout)?)));
        Self {
            api_key,
            check_timeout,
        }
    }

    /// Returns the head of a request over HTTP/2.
    pub(super) fn request(
        &self,
        origin: &Uri,
        path: &'static str,
        timeout: Option<Duration>,
    ) -> Request<()> {
        let mut headers = HeaderMap::with_capacity(MAX_FIELDS);
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(USER_AGENT, super::transport::USER_AGENT_VALUE);
        if let Some(timeout) = timeout.and_then(|timeout| self.timeout(timeout)) {
            headers.insert(GRPC_TIMEOUT, timeout);
        }
        if let Some(key) = &self.api_key {
            headers.insert(API_KEY, key.clone());
        }
        let mut uri = origin.clone().into_parts();
        uri.path_and_query = Some(PathAndQuery::from_static(path));
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        // An origin has a scheme and an authority, to which any path can be added.
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.headers_mut() = headers;
        request
    }

    fn timeout(&self, timeout: Duration) -> Option<HeaderValue> {
        match &self.check_timeout {
            Some((check_timeout, value)) if *check_timeout == timeout => Some(value.clone()),
            _ => timeout_value(timeout),
        }
    }
}

/// Returns a timeout as gRPC sends it: at most eight digits, in the finest unit that fits. `None`
/// for a timeout of thousands of years, which no call has.
fn timeout_value(timeout: Duration) -> Option<HeaderValue> {
    const MAX: u128 = 99_999_999;
    let seconds = u128::from(timeout.as_secs());
    let units = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (seconds, 'S'),
        (seconds / 60, 'M'),
        (seconds / 3600, 'H'),
    ];
    let (value, unit) = units.into_iter().find(|(value, _)| *value <= MAX)?;
    HeaderValue::try_from(format!("{value}{unit}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_the_text_that_tonic_gives_it() {
        for timeout in [
            Duration::ZERO,
            Duration::from_nanos(99_999_999),
            Duration::from_nanos(100_000_000),
            Duration::from_millis(250),
            Duration::from_secs(99),
            Duration::from_secs(100),
            Duration::from_secs(60 * 60 * 48),
            crate::remote::config::MAX_TIMEOUT,
        ] {
            let mut request = tonic::Request::new(());
            request.set_timeout(timeout);
            let expected = request.metadata().get("grpc-timeout");
            let value = timeout_value(timeout).expect("a unit fits");
            assert_eq!(
                Some(value.as_bytes()),
                expected.map(tonic::metadata::MetadataValue::as_bytes)
            );
        }
        assert_eq!(timeout_value(Duration::MAX), None);
    }
}
