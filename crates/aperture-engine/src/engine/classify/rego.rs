//! The input document of Rego modules, and the labels that modules set.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::http_input::{HttpInput, SocketAddress};
use super::{ClassifierLabel, sanitize};
use crate::rego::{CompiledModule, EvaluationError, MAX_INPUT_BYTES, Value};

/// The overhead in bytes that counts for each element of the document beside its texts.
const ELEMENT_BYTES: usize = 32;

/// The input document of a request.
pub(super) type Document = Result<Value, EvaluationError>;

/// Returns those of `labels` that a module sets. Makes the document of the request if there is none
/// yet.
pub(super) fn evaluate(
    module: &CompiledModule,
    labels: &[(Arc<str>, bool)],
    document: &mut Option<Document>,
    input: &HttpInput<'_>,
    destination: &[&str],
) -> Result<Vec<ClassifierLabel>, EvaluationError> {
    let document = document.get_or_insert_with(|| self::document(input, destination));
    let values = module.evaluate(document.clone()?)?;
    let labels = values.into_iter().filter_map(|(index, value)| {
        let (label, telemetry) = labels.get(index)?;
        Some(ClassifierLabel {
            label: Arc::clone(label),
            value: sanitize(value.into()),
            telemetry: *telemetry,
        })
    });
    Ok(labels.collect())
}

/// Returns the input document of a request, unless it is too large.
///
/// `destination` holds the services of the destination, or one empty name if they are unknown.
fn document(input: &HttpInput<'_>, destination: &[&str]) -> Document {
    let request = input.request.unwrap_or_default();
    let source: &[&str] = match input.source_services {
        [] => &[""],
        known => known,
    };
    let texts = [
        request.method,
        request.path,
        request.host,
        request.scheme,
        request.protocol,
        request.body,
    ];
    let headers = request
        .headers
        .iter()
        .flat_map(|(name, value)| [*name, *value]);
    let services = source.iter().chain(destination).copied();
    let parameters = request.path.matches('&').count();
    let elements = request.headers.len() + source.len() + destination.len() + parameters;
    let bytes: usize = texts
        .into_iter()
        .chain(headers)
        .chain(services)
        .map(str::len)
        .sum();
    if bytes + elements * ELEMENT_BYTES > MAX_INPUT_BYTES {
        return Err(EvaluationError::Input);
    }
    // The first value of a repeated header counts, as for rules.
    let headers = request.headers.iter().rev();
    let headers = headers.map(|(name, value)| (Value::from(*name), Value::from(*value)));
    let http = object([
        ("method", request.method.into()),
        ("path", request.path.into()),
        ("host", request.host.into()),
        ("scheme", request.scheme.into()),
        ("protocol", request.protocol.into()),
        ("size", request.size.into()),
        ("body", request.body.into()),
        ("headers", Value::from(headers.collect::<BTreeMap<_, _>>())),
    ]);
    let attributes = object([
        ("request", object([("http", http)])),
        ("source", endpoint(input.source, "source_fqdns", source)),
        (
            "destination",
            endpoint(input.destination, "destination_fqdns", destination),
        ),
    ]);
    let target = request.path.split('#').next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.trim_start_matches('/').split('/').map(Value::from);
    let (body, truncated) = parsed_body(input);
    Ok(object([
        ("attributes", attributes),
        ("parsed_path", Value::from(path.collect::<Vec<_>>())),
        ("parsed_query", parsed_query(query)),
        ("parsed_body", body),
        ("truncated_body", truncated.into()),
    ]))
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let members = members
        .into_iter()
        .map(|(key, value)| (Value::from(key), value));
    Value::from(members.collect::<BTreeMap<_, _>>())
}

/// Describes one end of the connection; an unknown address is empty, with port 0.
fn endpoint(address: Option<SocketAddress<'_>>, key: &str, services: &[&str]) -> Value {
    let (text, port) = address.map_or(("", 0), |known| (known.address, known.port));
    let services: Vec<Value> = services
        .iter()
        .map(|service| Value::from(*service))
        .collect();
    object([
        (
            "socketAddress",
            object([("address", text.into()), ("port", port.into())]),
        ),
        (key, Value::from(services)),
    ])
}

/// Returns each parameter's values in order, decoded. Skips malformed parameters.
fn parsed_query(query: &str) -> Value {
    let mut parameters: BTreeMap<Value, Vec<Value>> = BTreeMap::new();
    for pair in query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
    {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Some(key), Some(value)) = (decode_part(key), decode_part(value)) {
            parameters
                .entry(Value::from(key))
                .or_default()
                .push(Value::from(value));
        }
    }
    let parameters = parameters.into_iter();
    let parameters = parameters.map(|(key, values)| (key, Value::from(values)));
    Value::from(parameters.collect::<BTreeMap<_, _>>())
}

/// Decodes a part of a query; `None` for a malformed escape.
fn decode_part(text: &str) -> Option<String> {
    super::super::query_encoding::decode_query(text.as_bytes())
}

/// Returns the JSON document of the body, and whether the body is truncated according to its
/// header. The document is an empty object for another content type or invalid JSON, and null if
/// the body is empty or truncated.
fn parsed_body(input: &HttpInput<'_>) -> (Value, bool) {
    let request = input.request.unwrap_or_default();
    let json = request
        .header("content-type")
        .is_some_and(|kind| kind.contains("application/json"));
    if !json {
        return (Value::new_object(), false);
    }
    let length = request
        .header("content-length")
        .and_then(|length| length.parse().ok());
    let truncated = length.is_some_and(|length: u64| length > request.body.len() as u64);
    if request.body.is_empty() || truncated {
        return (Value::Null, truncated && !request.body.is_empty());
    }
    let body = Value::from_json_str(request.body).unwrap_or_else(|_| Value::new_object());
    (body, false)
}
