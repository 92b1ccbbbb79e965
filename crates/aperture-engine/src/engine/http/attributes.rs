//! The check of an HTTP request whose attributes the layer has read.

use super::super::collector::VerdictCollector;
use super::super::decide::DecideContext;
use super::super::http_input::{HttpInput, HttpRequest, SocketAddress};
use super::super::{Engine, EngineMode, EnginePending, EngineTicket};
use aperture_core::{Check, FlowError, FlowErrorKind, FlowParams, HttpAttributes, Verdict};

impl<M: EngineMode> Engine<M> {
    /// Like [`start_http`](Self::start_http), for the attributes that the layer has read, plus the
    /// header `baggage`.
    #[doc(hidden)]
    pub fn check_http_attributes(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        asking: &mut DecideContext,
        request: &HttpAttributes<'_>,
        baggage: Option<&str>,
    ) -> Check<EngineTicket, EnginePending> {
        let baggage = baggage.map(|baggage| ("baggage", baggage));
        let headers: Vec<_> = request.plain_headers().chain(baggage).collect();
        let texts = [request.source, request.destination]
            .map(|address| address.map(|address| address.ip().to_canonical().to_string()));
        let mut input = HttpInput::new(control_point)
            .request(HttpRequest {
                method: request.method,
                path: request.path,
                host: request.host,
                scheme: request.scheme,
                protocol: request.protocol,
                size: request.size,
                body: request.body,
                headers: &headers,
            })
            .ramp_mode(params.ramp_mode)
            .quotas(params.quotas)
            .shadow(params.shadow)
            .expect_end(true)
            .deadline(asking.budget());
        if let (Some(address), Some(text)) = (request.source, &texts[0]) {
            input = input.source(SocketAddress::new(text, address.port().into()));
        }
        if let (Some(address), Some(text)) = (request.destination, &texts[1]) {
            input = input.destination(SocketAddress::new(text, address.port().into()));
        }
        match self.prepare_http(&input) {
            Ok((prepared, parts)) => {
                let input = prepared.check_input();
                let collector = VerdictCollector::new(input.params).http(parts.baggage);
                self.start_check(&input, collector).into_check(asking)
            }
            Err(error) => Check::Ready(Verdict::Unreachable(FlowError::new(
                FlowErrorKind::InvalidRequest,
                error.to_string(),
            ))),
        }
    }
}
