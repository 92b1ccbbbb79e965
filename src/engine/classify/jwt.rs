//! The payload of a JSON Web Token (RFC 7519), unverified: it classifies, it proves nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::value::RawValue;

/// Neither padding nor what is left over in the last letter matters.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The JSON text of the payload of `header.payload.signature`; the signature may be empty. Of a
/// token in a token it is the inner one's.
pub(super) fn payload(token: &str) -> Option<String> {
    let mut token = Cow::Borrowed(token);
    loop {
        let mut parts = token.split('.');
        let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        BASE64.decode(signature).ok()?;
        let (header, payload) = (text(header)?, text(payload)?);
        let header: Members<'_> = serde_json::from_str(&header).ok()?;
        // What is encrypted cannot be read.
        if header.contains_key("enc") {
            return None;
        }
        if header.get("cty").is_none_or(|cty| cty.get() != "\"JWT\"") {
            serde_json::from_str::<Members<'_>>(&payload).ok()?;
            return Some(payload);
        }
        // Shorter than the one before.
        token = Cow::Owned(payload.trim_matches(['"', '\'']).to_owned());
    }
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

fn text(part: &str) -> Option<String> {
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
    fn of_a_token_in_a_token_the_inner_one_counts() {
        let inner = token("{}", r#"{"sub": "ann"}"#, "");
        for inner in [inner.clone(), format!("\"{inner}\"")] {
            let outer = token(r#"{"cty": "JWT"}"#, &inner, "");
            assert_eq!(payload(&outer).as_deref(), Some(r#"{"sub": "ann"}"#));
        }
    }

    #[test]
    fn anything_else_has_none() {
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
