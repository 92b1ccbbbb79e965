//! `io.jwt`: decodes JSON Web Tokens (RFC 7519) and verifies them with shared keys.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use regorus::Value;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// URL-safe base64. Padding is accepted but not required.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A hash function for [`verify`].
pub(super) trait HmacHash: Digest {
    /// The block size in bytes.
    const BLOCK: usize;
}

impl HmacHash for Sha256 {
    const BLOCK: usize = 64;
}

impl HmacHash for Sha384 {
    const BLOCK: usize = 128;
}

impl HmacHash for Sha512 {
    const BLOCK: usize = 128;
}

/// `io.jwt.decode`: returns the header, the payload, and the signature in hexadecimal. For a nested
/// token, these are those of the inner token. Undefined if the text is not a token.
pub(super) fn decode(token: &Value) -> Value {
    let text = token.as_string().ok().map(ToString::to_string);
    text.and_then(decoded).unwrap_or(Value::Undefined)
}

fn decoded(mut token: String) -> Option<Value> {
    loop {
        let (signed, signature) = split(&token)?;
        let (header, payload) = signed.split_once('.')?;
        let header = json(&BASE64.decode(header).ok()?)?;
        let payload = BASE64.decode(payload).ok()?;
        let signature = BASE64.decode(signature).ok()?;
        let fields = header.as_object().ok()?;
        if fields.contains_key(&Value::from("enc")) {
            return None;
        }
        if fields.get(&Value::from("cty")) == Some(&Value::from("JWT")) {
            // The loop ends because the inner token is shorter than the outer one.
            let inner = String::from_utf8(payload).ok()?;
            token = inner.trim_matches(['"', '\'']).to_owned();
            continue;
        }
        let payload = json(&payload)?;
        payload.as_object().ok()?;
        let hex: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
        return Some(Value::from(vec![header, payload, Value::from(hex)]));
    }
}

/// `io.jwt.verify_hs256` and its variants: returns whether the signature is the HMAC of the token
/// with the key. Compares in constant time. Undefined if the text is not a token.
pub(super) fn verify<H: HmacHash>(token: &Value, key: &Value) -> Value {
    let verified = || {
        let (token, key) = (token.as_string().ok()?, key.as_string().ok()?);
        let (signed, signature) = split(token)?;
        let signature = BASE64.decode(signature).ok()?;
        let expected = hmac::<H>(key.as_bytes(), signed.as_bytes());
        let differing = expected
            .iter()
            .zip(&signature)
            .fold(0, |differing, (left, right)| differing | (left ^ right));
        Some(Value::from(
            expected.len() == signature.len() && differing == 0,
        ))
    };
    verified().unwrap_or(Value::Undefined)
}

/// Splits a token into its signed part, header and payload, and its signature.
fn split(token: &str) -> Option<(&str, &str)> {
    let (signed, signature) = token.rsplit_once('.')?;
    (signed.matches('.').count() == 1).then_some((signed, signature))
}

fn json(bytes: &[u8]) -> Option<Value> {
    Value::from_json_str(std::str::from_utf8(bytes).ok()?).ok()
}

/// Returns the HMAC of a message (RFC 2104).
fn hmac<H: HmacHash>(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = if key.len() > H::BLOCK {
        H::digest(key).to_vec()
    } else {
        key.to_vec()
    };
    block.resize(H::BLOCK, 0);
    let padded =
        |pad: u8| H::new().chain_update(block.iter().map(|byte| byte ^ pad).collect::<Vec<u8>>());
    let inner = padded(0x36).chain_update(message).finalize();
    padded(0x5c).chain_update(inner).finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn hmac_matches_the_test_vectors_of_rfc_4231() {
        let (key, message) = (b"Jefe", b"what do ya want for nothing?");
        assert_eq!(
            hex(&hmac::<Sha256>(key, message)),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert!(hex(&hmac::<Sha384>(key, message)).starts_with("af45d2e376484031617f78d2b58a6b1b"));
        assert!(hex(&hmac::<Sha512>(key, message)).starts_with("164b7a7bfcf819e2e395fbe73b56e0a3"));
        let long = [0xaa; 131];
        let message = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert!(
            hex(&hmac::<Sha256>(&long, message)).starts_with("60e431591ee0b67f0d8a26aacbf5b77f")
        );
    }
}
