//! Writes OTLP attributes.

use crate::protobuf::{put_bytes, put_message};

/// Writes an attribute with a text.
pub(super) fn put_text(buffer: &mut Vec<u8>, tag: u8, key: &str, value: &str) {
    put_attribute(buffer, tag, key, |any| put_bytes(any, 1, value));
}

/// Writes an attribute, whose `AnyValue` `value` writes.
pub(super) fn put_attribute(
    buffer: &mut Vec<u8>,
    tag: u8,
    key: &str,
    value: impl FnOnce(&mut Vec<u8>),
) {
    put_message(buffer, tag, |attribute| {
        put_bytes(attribute, 1, key);
        put_message(attribute, 2, value);
    });
}
