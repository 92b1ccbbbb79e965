//! Writes the fields of protobuf messages into a buffer, from borrowed values and without a message
//! in between. The bytes are those that `prost` writes.

/// The bytes before a message on a gRPC stream: whether it is compressed, and its length.
pub(crate) const GRPC_PREFIX_LEN: usize = 5;

/// Returns the prefix of an uncompressed message of this length. A message of 4 GiB or more, which
/// no peer accepts, has the largest length that the prefix can say.
pub(crate) fn grpc_prefix(len: usize) -> [u8; GRPC_PREFIX_LEN] {
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

/// The wire types of fields.
const VARINT: u8 = 0;
const BYTES: u8 = 2;

/// Writes the key of a field. The tag is below 16, so that the key is one byte.
pub(crate) fn put_key(buffer: &mut Vec<u8>, tag: u8, wire_type: u8) {
    debug_assert!(tag < 16);
    buffer.push(tag << 3 | wire_type);
}

fn put_varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

/// Writes what precedes the content of a field with a length.
pub(crate) fn put_len(buffer: &mut Vec<u8>, tag: u8, len: usize) {
    put_key(buffer, tag, BYTES);
    put_varint(buffer, len as u64);
}

/// Writes a field of the type `bytes` or `string`.
pub(crate) fn put_bytes(buffer: &mut Vec<u8>, tag: u8, value: impl AsRef<[u8]>) {
    let value = value.as_ref();
    put_len(buffer, tag, value.len());
    buffer.extend_from_slice(value);
}

/// Writes a field of the type `bytes` or `string`, unless it is empty, which is its default.
pub(crate) fn put_bytes_unless_empty(buffer: &mut Vec<u8>, tag: u8, value: impl AsRef<[u8]>) {
    if !value.as_ref().is_empty() {
        put_bytes(buffer, tag, value);
    }
}

/// Writes a field of an integer type that is not negative, or of an enum.
pub(crate) fn put_uint(buffer: &mut Vec<u8>, tag: u8, value: u64) {
    put_key(buffer, tag, VARINT);
    put_varint(buffer, value);
}

/// Writes a field of the type `bool`, unless it is `false`, which is its default.
pub(crate) fn put_true(buffer: &mut Vec<u8>, tag: u8, value: bool) {
    if value {
        put_uint(buffer, tag, 1);
    }
}

/// Writes a field that is a message, whose fields `content` writes.
///
/// The length comes before the content and is known after it. One byte is kept free for it, and the
/// content moves if the length needs more.
pub(crate) fn put_message(buffer: &mut Vec<u8>, tag: u8, content: impl FnOnce(&mut Vec<u8>)) {
    put_key(buffer, tag, BYTES);
    let start = buffer.len();
    buffer.push(0);
    content(buffer);
    let content_start = start + 1;
    let mut len = (buffer.len() - content_start) as u64;
    let more = varint_len(len) - 1;
    if more > 0 {
        let end = buffer.len();
        buffer.resize(end + more, 0);
        buffer.copy_within(content_start..end, content_start + more);
    }
    for byte in &mut buffer[start..start + more] {
        *byte = (len & 0x7f) as u8 | 0x80;
        len >>= 7;
    }
    buffer[start + more] = len as u8;
}

/// Returns the number of bytes of a varint: one for each seven bits.
const fn varint_len(value: u64) -> usize {
    let bits = u64::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_message_is_a_varint_of_the_least_size() {
        for len in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152] {
            let content = vec![7; len];
            let mut expected = vec![3 << 3 | BYTES];
            put_varint(&mut expected, len as u64);
            assert_eq!(expected.len(), 1 + varint_len(len as u64), "{len}");
            expected.extend_from_slice(&content);
            let mut buffer = Vec::new();
            put_message(&mut buffer, 3, |buffer| buffer.extend_from_slice(&content));
            assert_eq!(buffer, expected, "{len}");
        }
        assert_eq!(varint_len(u64::MAX), 10);
    }
}
