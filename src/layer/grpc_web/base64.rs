//! Base64 in pieces, as `application/grpc-web-text` sends it.

/// Decodes base64 that is cut at any character and may be padded in the middle: servers encode
/// each piece of a body by itself. White space is skipped.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Base64 {
    /// Bits that do not make a byte yet.
    bits: u16,
    /// How many: 0, 6, 4 or 2, after as many characters of a group.
    count: u8,
    /// A second `=` may follow.
    padding: bool,
}

impl Base64 {
    /// Decodes from the front of `text`, which it shortens, until `into` is full or nothing is
    /// left. Returns how many bytes it wrote; as an error when it came upon something that is not
    /// base64.
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

    /// Ends a group of characters; the bits that are left carry nothing.
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
