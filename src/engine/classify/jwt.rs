//! The payload of a JSON Web Token (RFC 7519), unverified: it classifies, it proves nothing.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::value::RawValue;

/// Padding does not matter.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The JSON text of the payload of `header.payload.signature`; the signature may be empty.
pub(super) fn payload(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    object(header)?;
    BASE64.decode(signature).ok()?;
    object(payload)
}

fn object(part: &str) -> Option<String> {
    let text = String::from_utf8(BASE64.decode(part).ok()?).ok()?;
    serde_json::from_str::<BTreeMap<String, &RawValue>>(&text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str, signature: &str) -> String {
        let of = |text: &str| BASE64.encode(text).trim_end_matches('=').to_owned();
        format!("{}.{}.{signature}", of(header), of(claims))
    }

    #[test]
    fn the_payload_of_three_parts_is_read() {
        let claims = r#"{"sub": "ann"}"#;
        let whole = token(r#"{"alg":"none"}"#, claims, "");
        assert_eq!(payload(&whole).as_deref(), Some(claims));
        assert_eq!(
            payload(&token("{}", claims, "c2ln")).as_deref(),
            Some(claims)
        );
        let padded = format!("e30=.{}.", BASE64.encode(claims));
        assert_eq!(payload(&padded).as_deref(), Some(claims));
    }

    #[test]
    fn anything_else_has_none() {
        for broken in [
            token("no json", "{}", ""),
            token("{}", "no json", ""),
            token("{}", "[]", ""),
            token("[]", "{}", ""),
            token("{}", "{}", "!"),
            "e30.e30".to_owned(),
            "e30.e30..".to_owned(),
            String::new(),
            "..".to_owned(),
        ] {
            assert_eq!(payload(&broken), None, "{broken}");
        }
    }
}
