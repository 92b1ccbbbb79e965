//! Counts the repeated elements of a message before it is decoded.
//!
//! An empty span takes two bytes on the wire and several hundred once it is decoded, so a limit on
//! bytes alone does not bound memory.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost_reflect::Kind;
use tonic::Status;

use super::json::POOL;

/// The recursion limit, the same as that of prost.
const MAX_DEPTH: usize = 100;

/// The fields of a message that are messages or repeated, by field number.
#[derive(Debug, Default)]
struct MessageShape(Vec<FieldShape>);

#[derive(Clone, Copy, Debug, Default)]
struct FieldShape {
    repeated: bool,
    /// The index of the shape of the field's message type.
    message: Option<usize>,
}

/// The shapes of all messages, and the index of each by its full name.
static SHAPES: LazyLock<(Vec<MessageShape>, HashMap<String, usize>)> = LazyLock::new(|| {
    let messages: Vec<_> = POOL.all_messages().collect();
    let names = messages
        .iter()
        .map(|message| message.full_name().to_owned());
    let names: HashMap<String, usize> = names.zip(0..).collect();
    let shapes = messages.iter().map(|message| {
        let mut shape = MessageShape::default();
        for field in message.fields() {
            let at = field.number() as usize;
            if at >= shape.0.len() {
                shape.0.resize(at + 1, FieldShape::default());
            }
            shape.0[at] = FieldShape {
                repeated: field.is_list() || field.is_map(),
                message: match field.kind() {
                    Kind::Message(message) => names.get(message.full_name()).copied(),
                    _ => None,
                },
            };
        }
        shape
    });
    (shapes.collect(), names)
});

/// Returns the number of elements of an encoded message, counted up to where prost would refuse
/// it.
pub(super) fn count(name: &str, message: &[u8]) -> usize {
    let (shapes, names) = &*SHAPES;
    names.get(name).map_or(0, |shape| {
        count_elements(shapes, *shape, message, MAX_DEPTH)
    })
}

/// Counts the elements of one message whose type has the shape at index `shape`.
fn count_elements(shapes: &[MessageShape], shape: usize, mut rest: &[u8], depth: usize) -> usize {
    let mut elements = 0;
    while let Some(tag) = varint(&mut rest) {
        let field = usize::try_from(tag >> 3).ok();
        let field = field.and_then(|at| shapes[shape].0.get(at).copied());
        let field = field.unwrap_or_default();
        // The end of a group is not a new element.
        elements += usize::from(field.repeated && tag & 7 != 4);
        let skipped = match tag & 7 {
            0 => varint(&mut rest).map(|_| ()),
            1 => skip(&mut rest, 8).map(|_| ()),
            2 => varint(&mut rest)
                .and_then(|length| skip(&mut rest, usize::try_from(length).ok()?))
                .map(|inner| {
                    if let (Some(message), Some(depth)) = (field.message, depth.checked_sub(1)) {
                        elements += count_elements(shapes, message, inner, depth);
                    }
                }),
            // Only unknown fields can be groups; their content is counted as if it were part of
            // this message.
            3 | 4 => Some(()),
            5 => skip(&mut rest, 4).map(|_| ()),
            _ => None,
        };
        if skipped.is_none() {
            break;
        }
    }
    elements
}

/// Reads a varint and advances `rest` past it. `None` when it is incomplete or too long.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for at in 0..10 {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Returns the next `bytes` bytes and advances `rest` past them.
fn skip<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (skipped, after) = rest.split_at_checked(bytes)?;
    *rest = after;
    Some(skipped)
}

/// Returns the number of members and items in a JSON text, or slightly more.
pub(super) fn count_json(text: &[u8]) -> usize {
    let mut elements = 0;
    let mut quoted = false;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => {
                bytes.next();
            }
            b',' | b'{' | b'[' if !quoted => elements += 1,
            _ => {}
        }
    }
    elements
}

/// Returns `elements`, or an error when the message has more than `limit` of them.
pub(super) fn check_count(elements: usize, limit: usize) -> Result<usize, Status> {
    if elements <= limit {
        return Ok(elements);
    }
    Err(Status::resource_exhausted(format!(
        "a message with {elements} labels, keys, references, spans and attributes is too large: \
         it may have {limit}"
    )))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::json::NamedMessage;
    use tower_aperture::pb::check::{
        CacheEntry, CacheLookupRequest, CacheUpsertRequest, CheckRequest, FlowEndRequest,
        InflightRequestRef,
    };
    use tower_aperture::pb::common::{AnyValue, ArrayValue, KeyValue, any_value};
    use tower_aperture::pb::resource::Resource;
    use tower_aperture::pb::trace::{ResourceSpans, ScopeSpans, Span};
    use tower_aperture::pb::trace_collector::ExportTraceServiceRequest;

    fn elements<M: NamedMessage>(message: &M) -> usize {
        count(M::NAME, &message.encode_to_vec())
    }

    #[test]
    fn repeated_elements_are_counted() {
        let check = CheckRequest {
            control_point: "a".into(),
            labels: (0..7).map(|at| (at.to_string(), String::new())).collect(),
            cache_lookup_request: Some(CacheLookupRequest {
                global_cache_keys: vec![String::new(); 5],
                ..CacheLookupRequest::default()
            }),
            ..CheckRequest::default()
        };
        assert_eq!(elements(&check), 12);
        let ends = FlowEndRequest {
            inflight_requests: vec![InflightRequestRef::default(); 1000],
            ..FlowEndRequest::default()
        };
        assert_eq!(elements(&ends), 1000);
        let upsert = CacheUpsertRequest {
            global_cache_entries: [("k".into(), CacheEntry::default())].into(),
            ..CacheUpsertRequest::default()
        };
        assert_eq!(elements(&upsert), 1);
        let list = any_value::Value::ArrayValue(ArrayValue {
            values: vec![AnyValue::default(); 9],
        });
        let attribute = KeyValue {
            value: Some(AnyValue { value: Some(list) }),
            ..KeyValue::default()
        };
        let span = Span {
            attributes: vec![attribute.clone(); 3],
            ..Span::default()
        };
        let spans = ScopeSpans {
            spans: vec![span; 2],
            ..ScopeSpans::default()
        };
        let resource = Resource {
            attributes: vec![attribute],
            ..Resource::default()
        };
        let export = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(resource),
                scope_spans: vec![spans],
                ..ResourceSpans::default()
            }],
        };
        assert_eq!(elements(&export), 1 + (1 + 9) + 1 + 2 * (1 + 3 * 10));
    }

    #[test]
    fn malformed_messages_do_not_panic() {
        let name = ExportTraceServiceRequest::NAME;
        for bytes in [
            &b"\x0a"[..],
            b"\x0a\xff",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x0b\x0c\x07",
        ] {
            assert!(count(name, bytes) <= 1, "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_decoded_element_was_counted(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
            changes in proptest::collection::vec((0_usize..400, proptest::prelude::any::<u8>()), 0..4),
        ) {
            let attributes = (0..10).map(|key| KeyValue { key: format!("k{key}"), value: None });
            let span = Span { attributes: attributes.collect(), ..Span::default() };
            let scope = ScopeSpans { spans: vec![span; 3], ..ScopeSpans::default() };
            let resource = ResourceSpans { scope_spans: vec![scope; 2], ..ResourceSpans::default() };
            let export = ExportTraceServiceRequest { resource_spans: vec![resource] };
            let mut changed = export.encode_to_vec();
            for (index, byte) in changes {
                if let Some(old) = changed.get_mut(index) {
                    *old = byte;
                }
            }
            for bytes in [bytes, changed] {
                let counted = count(ExportTraceServiceRequest::NAME, &bytes);
                if let Ok(decoded) = ExportTraceServiceRequest::decode(&*bytes) {
                    let decoded = elements(&decoded);
                    proptest::prop_assert!(decoded <= counted, "{decoded} of {counted}");
                }
            }
        }
    }

    #[test]
    fn json_items_and_members_are_counted_outside_of_strings() {
        assert_eq!(count_json(b"{}"), 1);
        assert_eq!(count_json(br#"{"a": [1, 2, 3], "b": "[,{\",,"}"#), 5);
        assert!(count_json(&b"[".repeat(1000)) == 1000);
        assert_eq!(count_json(b"\"\\"), 0);
    }
}
