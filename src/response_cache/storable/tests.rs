//! Which responses are storable, and their age and remaining lifetime.

use http::header::HeaderValue;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// The time at which the response arrives. The request began two seconds earlier.
fn now() -> SystemTime {
    httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date")
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let fields = fields.iter().map(|(name, value)| {
        let value = HeaderValue::from_str(value).expect("a legal value");
        (HeaderName::from_static(name), value)
    });
    fields.collect()
}

/// Returns the age on arrival and the remaining seconds, with a `ttl` of an hour.
fn times(fields: &[(&'static str, &str)]) -> Option<(u64, u64)> {
    let context = StorageContext {
        requested_at: now() - Duration::from_secs(2),
        authorized: false,
        vary: &[],
        ttl: HOUR,
    };
    let freshness = freshness(context, StatusCode::OK, &headers(fields), now())?;
    Some((freshness.age.as_secs(), freshness.remaining.as_secs()))
}

const FIVE_PAST: &str = "Sun, 06 Nov 1994 08:54:37 GMT";
const FIVE_TO: &str = "Sun, 06 Nov 1994 08:44:37 GMT";

/// RFC 9111, section 4.2.1: the first of these that is present.
#[test]
fn the_lifetime_is_s_maxage_or_max_age_or_expires_or_the_ttl() {
    let (s_maxage, max_age) = ("s-maxage=10, max-age=20", "max-age=20");
    let expires = ("expires", FIVE_PAST);
    assert_eq!(
        times(&[("cache-control", s_maxage), expires]),
        Some((0, 10))
    );
    assert_eq!(times(&[("cache-control", max_age), expires]), Some((0, 20)));
    assert_eq!(times(&[expires]), Some((0, 300)));
    assert_eq!(times(&[]), Some((0, 3600)));
    assert_eq!(times(&[("cache-control", "max-age=7200")]), Some((0, 3600)));
}

/// Section 5.3: `expires` is relative to the server's clock, and an invalid value counts as past.
#[test]
fn expires_is_relative_to_the_date() {
    let date = ("date", "Sun, 06 Nov 1994 08:49:07 GMT");
    assert_eq!(times(&[date, ("expires", FIVE_PAST)]), Some((30, 300)));
    assert_eq!(times(&[("expires", FIVE_TO)]), None);
    for invalid in ["0", "-1", "tomorrow", ""] {
        assert_eq!(times(&[("expires", invalid)]), None, "{invalid}");
    }
    assert_eq!(
        times(&[("expires", FIVE_PAST), ("expires", FIVE_PAST)]),
        None
    );
    // All three forms of RFC 9110, section 5.6.7.
    for same in ["Sunday, 06-Nov-94 08:54:37 GMT", "Sun Nov  6 08:54:37 1994"] {
        assert_eq!(times(&[("expires", same)]), Some((0, 300)), "{same}");
    }
}

/// Section 4.2.3.
#[test]
fn the_age_is_the_larger_of_the_reported_and_the_apparent_age() {
    let fresh = ("cache-control", "max-age=60");
    let date = ("date", "Sun, 06 Nov 1994 08:49:07 GMT");
    assert_eq!(times(&[fresh, date]), Some((30, 30)));
    // Adds the two seconds of the request.
    assert_eq!(times(&[fresh, ("age", "20")]), Some((22, 38)));
    assert_eq!(times(&[fresh, date, ("age", "20")]), Some((30, 30)));
    assert_eq!(times(&[fresh, date, ("age", "40")]), Some((42, 18)));
    assert_eq!(times(&[fresh, ("date", FIVE_PAST)]), Some((0, 60)));
    assert_eq!(times(&[fresh, ("date", "never")]), Some((0, 60)));
    assert_eq!(times(&[fresh, ("age", "58")]), None);
    // Section 5.1.
    assert_eq!(times(&[fresh, ("age", "old")]), Some((0, 60)));
    assert_eq!(times(&[fresh, ("age", "-20")]), Some((0, 60)));
    assert_eq!(times(&[fresh, ("age", "20, 60")]), Some((22, 38)));
    assert_eq!(times(&[fresh, ("age", "60, 20")]), None);
    assert_eq!(
        times(&[fresh, ("age", "20"), ("age", "60")]),
        Some((22, 38))
    );
    assert_eq!(times(&[fresh, ("age", "99999999999999999999")]), None);
    assert_eq!(times(&[fresh, ("age", "18446744073709551615")]), None);
    // A response without explicit freshness is stored for the `ttl`, whatever its age.
    assert_eq!(times(&[("age", "7200")]), Some((7202, 3600)));
}

/// Section 4.2.1: a response with invalid freshness is stale.
#[test]
fn responses_with_an_invalid_lifetime_are_not_stored() {
    for value in [
        "max-age=x",
        "max-age=1, max-age=2",
        "s-maxage=, max-age=9",
        "max-age=0",
    ] {
        assert_eq!(times(&[("cache-control", value)]), None, "{value}");
    }
    assert_eq!(times(&[("cache-control", "s-maxage=0, max-age=9")]), None);
}
