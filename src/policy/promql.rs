//! The two queries over flux meters that blueprints make: what they ask for is known in process.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::model::Op;

/// The mean or a quantile of a flux meter of this policy, of flows that ended well; nothing else
/// is understood.
pub(super) fn flux_meter(text: &str, policy: &str, interval: Duration) -> Option<Op> {
    mean(text, policy, interval).or_else(|| quantile(text, policy, interval))
}

/// The increase of the sum over that of the count.
fn mean(text: &str, policy: &str, interval: Duration) -> Option<Op> {
    let mut text = Text(text);
    let sum = text.increase("flux_meter_sum", policy)?;
    text.words(&["/"])?;
    let count = text.increase("flux_meter_count", policy)?;
    let (name, window) = sum;
    (text.is_over() && count == (name, window)).then(|| Op::FluxMeterMean {
        name: Arc::from(name),
        window,
        interval,
    })
}

/// The quantile of the rates of the buckets.
fn quantile(text: &str, policy: &str, interval: Duration) -> Option<Op> {
    let mut text = Text(text);
    text.words(&["histogram_quantile", "("])?;
    let quantile = f64::from_str(text.until(',')?).ok()?;
    text.words(&[",", "sum", "(", "rate", "(", "flux_meter_bucket"])?;
    let (name, window) = text.meter(policy)?;
    text.words(&[")", ")", "by", "(", "le", ")", ")"])?;
    let known = text.is_over() && (0.0..=1.0).contains(&quantile);
    known.then(|| Op::FluxMeterQuantile {
        name: Arc::from(name),
        quantile,
        window,
        interval,
    })
}

/// What is left to read; blanks count nowhere but between quotes.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn words(&mut self, words: &[&str]) -> Option<()> {
        for word in words {
            self.0 = self.0.trim_start().strip_prefix(word)?;
        }
        Some(())
    }

    fn until(&mut self, end: char) -> Option<&'a str> {
        let at = self.0.find(end)?;
        let (before, rest) = self.0.split_at(at);
        self.0 = rest;
        Some(before.trim())
    }

    /// By how much a metric of a flux meter grew.
    fn increase(&mut self, metric: &str, policy: &str) -> Option<(&'a str, Duration)> {
        self.words(&["sum", "(", "increase", "(", metric])?;
        let meter = self.meter(policy)?;
        self.words(&[")", ")"])?;
        Some(meter)
    }

    /// `{labels}[window]` with exactly the labels that select one flux meter.
    fn meter(&mut self, policy: &str) -> Option<(&'a str, Duration)> {
        let mut name = None;
        let (mut status, mut owner) = (None, None);
        self.words(&["{"])?;
        loop {
            let key = self.until('=')?;
            self.words(&["=", "\""])?;
            let at = self.0.find('"')?;
            let value = &self.0[..at];
            if value.contains('\\') {
                return None;
            }
            self.0 = &self.0[at + 1..];
            let place = match key {
                "flux_meter_name" => &mut name,
                "flow_status" => &mut status,
                "policy_name" => &mut owner,
                _ => return None,
            };
            if place.replace(value).is_some() {
                return None;
            }
            if self.words(&[","]).is_none() {
                break;
            }
        }
        self.words(&["}", "["])?;
        let window = seconds(self.until(']')?)?;
        self.words(&["]"])?;
        let ours = status == Some("OK") && owner == Some(policy);
        name.filter(|_| ours).map(|name| (name, window))
    }

    fn is_over(&self) -> bool {
        self.0.trim().is_empty()
    }
}

/// `30s`, `5m`, `1h`.
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
    fn means_and_quantiles_of_own_meters_are_known() {
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
    fn anything_else_is_left_to_those_who_know_promql() {
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
