//! Recognises the two PromQL queries over flux meters that blueprints generate. The engine answers
//! them in process.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::model::Op;

/// Parses a query for the mean or a quantile of a flux meter of this policy, of flows with status
/// OK; `None` for any other query.
pub(super) fn flux_meter(text: &str, policy: &str, interval: Duration) -> Option<Op> {
    mean(text, policy, interval).or_else(|| quantile(text, policy, interval))
}

/// Parses the mean: the increase of the sum divided by that of the count.
fn mean(text: &str, policy: &str, interval: Duration) -> Option<Op> {
    let mut parser = QueryParser(text);
    let sum = parser.increase("flux_meter_sum", policy)?;
    parser.expect_words(&["/"])?;
    let count = parser.increase("flux_meter_count", policy)?;
    let (name, window) = sum;
    (parser.is_at_end() && count == (name, window)).then(|| Op::FluxMeterMean {
        name: Arc::from(name),
        window,
        interval,
    })
}

/// Parses the quantile over the rates of the buckets.
fn quantile(text: &str, policy: &str, interval: Duration) -> Option<Op> {
    let mut parser = QueryParser(text);
    parser.expect_words(&["histogram_quantile", "("])?;
    let quantile = f64::from_str(parser.take_until(',')?).ok()?;
    parser.expect_words(&[",", "sum", "(", "rate", "(", "flux_meter_bucket"])?;
    let (name, window) = parser.flux_meter_selector(policy)?;
    parser.expect_words(&[")", ")", "by", "(", "le", ")", ")"])?;
    let is_valid = parser.is_at_end() && (0.0..=1.0).contains(&quantile);
    is_valid.then(|| Op::FluxMeterQuantile {
        name: Arc::from(name),
        quantile,
        window,
        interval,
    })
}

/// The rest of a query. Blanks matter only inside of quotes.
struct QueryParser<'a>(&'a str);

impl<'a> QueryParser<'a> {
    fn expect_words(&mut self, words: &[&str]) -> Option<()> {
        for word in words {
            self.0 = self.0.trim_start().strip_prefix(word)?;
        }
        Some(())
    }

    fn take_until(&mut self, end: char) -> Option<&'a str> {
        let at = self.0.find(end)?;
        let (before, rest) = self.0.split_at(at);
        self.0 = rest;
        Some(before.trim())
    }

    /// Parses the increase of a metric of a flux meter.
    fn increase(&mut self, metric: &str, policy: &str) -> Option<(&'a str, Duration)> {
        self.expect_words(&["sum", "(", "increase", "(", metric])?;
        let meter = self.flux_meter_selector(policy)?;
        self.expect_words(&[")", ")"])?;
        Some(meter)
    }

    /// Parses `{labels}[window]` with exactly the labels that select one flux meter. Returns its
    /// name and the window.
    fn flux_meter_selector(&mut self, policy: &str) -> Option<(&'a str, Duration)> {
        let mut name = None;
        let (mut status, mut owner) = (None, None);
        self.expect_words(&["{"])?;
        loop {
            let key = self.take_until('=')?;
            self.expect_words(&["=", "\""])?;
            let at = self.0.find('"')?;
            let value = &self.0[..at];
            if value.contains('\\') {
                return None;
            }
            self.0 = &self.0[at + 1..];
            let target = match key {
                "flux_meter_name" => &mut name,
                "flow_status" => &mut status,
                "policy_name" => &mut owner,
                _ => return None,
            };
            if target.replace(value).is_some() {
                return None;
            }
            if self.expect_words(&[","]).is_none() {
                break;
            }
        }
        self.expect_words(&["}", "["])?;
        let window = seconds(self.take_until(']')?)?;
        self.expect_words(&["]"])?;
        let matches_policy = status == Some("OK") && owner == Some(policy);
        name.filter(|_| matches_policy).map(|name| (name, window))
    }

    fn is_at_end(&self) -> bool {
        self.0.trim().is_empty()
    }
}

/// Parses a duration such as `30s`, `5m` or `1h`.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let scale = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return None,
    };
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let window = Duration::from_secs(number.checked_mul(scale)?);
    (!window.is_zero()).then_some(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: &str = "sum(increase(flux_meter_sum{flow_status=\"OK\", flux_meter_name=\"a b\", \
                        policy_name=\"p\"}[30s]))/sum(increase(flux_meter_count{policy_name=\"p\",\n \
                        flow_status=\"OK\", flux_meter_name=\"a b\"}[30s]))";
    const QUANTILE: &str = "histogram_quantile(0.950000, sum(rate(flux_meter_bucket{flow_status=\"OK\", \
                            flux_meter_name=\"m\", policy_name=\"p\"}[5m])) by (le))";

    fn read(text: &str) -> Option<Op> {
        flux_meter(text, "p", Duration::from_secs(10))
    }

    #[test]
    fn mean_and_quantile_of_own_flux_meters_are_recognised() {
        let Some(Op::FluxMeterMean {
            name,
            window,
            interval,
        }) = read(MEAN)
        else {
            panic!("{MEAN}");
        };
        assert_eq!((&*name, window), ("a b", Duration::from_secs(30)));
        assert_eq!(interval, Duration::from_secs(10));
        let Some(Op::FluxMeterQuantile {
            name,
            quantile,
            window,
            ..
        }) = read(QUANTILE)
        else {
            panic!("{QUANTILE}");
        };
        assert_eq!((&*name, quantile), ("m", 0.95));
        assert_eq!(window, Duration::from_secs(300));
    }

    #[test]
    fn other_queries_are_not_recognised() {
        for (from, to) in [
            ("flux_meter_count", "flux_meter_sum"),
            ("policy_name=\"p\"}[30s]", "policy_name=\"q\"}[30s]"),
            ("OK", "Error"),
            ("[30s]", "[1800s]"),
            ("[30s]", "[0s]"),
            ("[30s]", "[30d]"),
            ("flow_status=\"OK\", ", ""),
            ("flow_status=\"OK\"", "flow_status=\"OK\", valid=\"true\""),
            ("/sum", "*2/sum"),
            ("a b", "a\\n"),
        ] {
            let text = MEAN.replacen(from, to, 1);
            assert_ne!(text, MEAN);
            assert!(read(&text).is_none(), "{text}");
        }
        assert!(read(&format!("{MEAN} * 2")).is_none());
        assert!(read(&QUANTILE.replace("0.95", "95")).is_none());
        assert!(read(&QUANTILE.replace("by (le)", "by (le, x)")).is_none());
        for end in 0..MEAN.len() {
            assert!(read(&MEAN[..end]).is_none());
        }
    }
}
