//! Which node of a cluster has which keys.

use redis::Value;

/// The hash slots of a cluster.
pub(crate) const SLOTS: usize = 16_384;

/// Returns the hash slot of a key: the CRC-16 (XMODEM) of its hash tag, or of the whole key if it
/// has none.
pub(crate) fn hash_slot(key: &str) -> usize {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty());
    let mut crc = 0_u16;
    for byte in tag.unwrap_or(key).bytes() {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x1021
            };
        }
    }
    usize::from(crc) % SLOTS
}

/// Some hash slots in a row, and the primary that has them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SlotRange {
    pub(crate) first: usize,
    pub(crate) last: usize,
    /// Empty if the host is that of the node that was asked.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Reads the reply to `CLUSTER SLOTS`. Leaves out what it cannot read.
pub(crate) fn slot_ranges(reply: &Value) -> Vec<SlotRange> {
    let Value::Array(rows) = reply else {
        return Vec::new();
    };
    rows.iter().filter_map(slot_range).collect()
}

fn slot_range(row: &Value) -> Option<SlotRange> {
    let Value::Array(row) = row else {
        return None;
    };
    let [
        Value::Int(first),
        Value::Int(last),
        Value::Array(primary),
        ..,
    ] = row.as_slice()
    else {
        return None;
    };
    let [host, Value::Int(port), ..] = primary.as_slice() else {
        return None;
    };
    let host = match host {
        Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) => host.clone(),
        Value::Nil => String::new(),
        _ => return None,
    };
    let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
    (first <= last && last < SLOTS).then_some(SlotRange {
        first,
        last,
        host,
        port: u16::try_from(*port).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_slots_equal_those_of_the_servers() {
        // From `CLUSTER KEYSLOT`.
        assert_eq!(hash_slot("foo"), 12_182);
        assert_eq!(hash_slot("aperture:s:{foo}"), 12_182);
        assert_eq!(hash_slot("123456789"), 12_739);
        assert_eq!(hash_slot("{}foo"), hash_slot("{}foo"));
        assert_ne!(hash_slot("{}foo"), hash_slot("foo"));
    }

    #[test]
    fn ranges_are_read_and_others_left_out() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let row = |first, last, host: Value, port| {
            let node = vec![host, Value::Int(port), text("id")];
            Value::Array(vec![
                Value::Int(first),
                Value::Int(last),
                Value::Array(node),
            ])
        };
        let reply = Value::Array(vec![
            row(0, 99, text("10.0.0.1"), 7000),
            row(100, 16_383, Value::Nil, 7001),
            row(5, 16_384, text("10.0.0.1"), 7000),
            row(5, 6, text("10.0.0.1"), 70_000),
            Value::Int(3),
        ]);
        let ranges = slot_ranges(&reply);
        assert_eq!(ranges.len(), 2);
        assert_eq!(ranges[0].host, "10.0.0.1");
        assert_eq!(
            (ranges[1].first, ranges[1].last, ranges[1].port),
            (100, 16_383, 7001)
        );
        assert_eq!(ranges[1].host, "");
        assert!(slot_ranges(&Value::Nil).is_empty());
    }
}
