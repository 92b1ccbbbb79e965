//! Decodes base64 incrementally, for bodies of `application/grpc-web-text`.

/// An incremental decoder of base64. The text may be split between any two characters, and padded
/// in the middle, because servers encode each piece of a body separately. White space is skipped.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Base64Decoder {
    /// Bits that do not form a complete byte yet.
    bits: u16,
    /// The number of these bits: 0, 6, 4 or 2 after 0, 1, 2 or 3 characters of a group of four.
    count: u8,
    /// A second `=` may follow.
    padding: bool,
}

impl Base64Decoder {
    /// Decodes from the front of `text`, and advances it, until `into` is full or `text` is empty.
    /// Returns the number of bytes written. If a character is not base64, returns the number of
    /// bytes written before it as an error.
    pub(super) fn decode(&mut self, text: &mut &[u8], into: &mut [u8]) -> Result<usize, usize> {
        let mut written = 0;
        while let (Some((first, rest)), true) = (text.split_first(), written < into.len()) {
            *text = rest;
            match self.push(*first) {
                Ok(None) => {}
                Ok(Some(byte)) => {
                    into[written] = byte;
                    written += 1;
                }
                Err(NotBase64) => return Err(written),
            }
        }
        Ok(written)
    }

    fn push(&mut self, char: u8) -> Result<Option<u8>, NotBase64> {
        let value = match char {
            b'A'..=b'Z' => char - b'A',
            b'a'..=b'z' => char - b'a' + 26,
            b'0'..=b'9' => char - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => return self.pad().map(|()| None),
            b' ' | b'\t' | b'\r' | b'\n' => return Ok(None),
            _ => return Err(NotBase64),
        };
        self.padding = false;
        self.bits = self.bits << 6 | u16::from(value);
        self.count += 6;
        let Some(count) = self.count.checked_sub(8) else {
            return Ok(None);
        };
        let [_, byte] = (self.bits >> count).to_be_bytes();
        self.count = count;
        self.bits &= (1 << count) - 1;
        Ok(Some(byte))
    }

    /// Ends a group of characters at a `=`. The remaining bits are ignored.
    fn pad(&mut self) -> Result<(), NotBase64> {
        match (self.count, self.padding) {
            (4, _) => self.padding = true,
            (2, _) | (0, true) => self.padding = false,
            _ => return Err(NotBase64),
        }
        (self.bits, self.count) = (0, 0);
        Ok(())
    }
}

struct NotBase64;
