//! Reads the payload of a JSON Web Token (RFC 7519) without verification: it classifies a flow, and
//! proves nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::value::RawValue;

/// Ignores padding, and the unused bits of the last letter.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Returns the JSON text of the payload of `header.payload.signature`; the signature may be empty.
/// For a nested token it is the payload of the inner one.
pub(super) fn payload(token: &str) -> Option<String> {
    let mut token = Cow::Borrowed(token);
    loop {
        let mut parts = token.split('.');
        let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        BASE64.decode(signature).ok()?;
        let (header, payload) = (decode_text(header)?, decode_text(payload)?);
        let header: JwtMembers<'_> = serde_json::from_str(&header).ok()?;
        // An encrypted payload cannot be read.
        if header.contains_key("enc") {
            return None;
        }
        if header.get("cty").is_none_or(|cty| cty.get() != "\"JWT\"") {
            serde_json::from_str::<JwtMembers<'_>>(&payload).ok()?;
            return Some(payload);
        }
        // The loop ends, because the inner token is shorter.
        token = Cow::Owned(payload.trim_matches(['"', '\'']).to_owned());
    }
}

type JwtMembers<'a> = BTreeMap<String, &'a RawValue>;

fn decode_text(part: &str) -> Option<String> {
    String::from_utf8(BASE64.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str, signature: &str) -> String {
        let of = |text: &str| BASE64.encode(text).trim_end_matches('=').to_owned();
        format!("{}.{}.{signature}", of(header), of(claims))
    }

    #[test]
    fn the_payload_of_a_three_part_token_is_read() {
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
    fn a_nested_token_yields_the_inner_payload() {
        let inner = token("{}", r#"{"sub": "ann"}"#, "");
        for inner in [inner.clone(), format!("\"{inner}\"")] {
            let outer = token(r#"{"cty": "JWT"}"#, &inner, "");
            assert_eq!(payload(&outer).as_deref(), Some(r#"{"sub": "ann"}"#));
        }
    }

    #[test]
    fn malformed_and_encrypted_tokens_have_no_payload() {
        for broken in [
            token("no json", "{}", ""),
            token("{}", "no json", ""),
            token("{}", "[]", ""),
            token("[]", "{}", ""),
            token(r#"{"enc": "A128GCM"}"#, "{}", ""),
            token(r#"{"cty": "JWT"}"#, "{}", ""),
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
