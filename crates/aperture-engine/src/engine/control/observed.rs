//! The observed load multiplier: the granted share of the requested tokens.

use std::collections::VecDeque;

use crate::policy::Signal;

/// The tokens that a load scheduler granted and rejected within some time.
///
/// The sums cover one period rather than all time: in a sum over all time, one huge request would
/// absorb the smaller ones that follow it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Demand {
    pub(crate) accepted: f64,
    pub(crate) rejected: f64,
}

/// The maximum number of tokens in one sample, so that sums of samples stay finite.
const MAX_TOKENS: f64 = 1e300;

impl Demand {
    /// Counts a request. Negative tokens count as zero.
    pub(crate) fn add(&mut self, tokens: f64, granted: bool) {
        let sum = match granted {
            true => &mut self.accepted,
            false => &mut self.rejected,
        };
        *sum = (*sum + tokens.max(0.0)).min(MAX_TOKENS);
    }
}

/// The granted share over a delayed window.
///
/// An Agent reads its counters through a monitoring system: over 20 s, about 11 s late. Loops are
/// tuned to that delay, so it is kept.
#[derive(Clone, Debug)]
pub(super) struct ObservedLoad {
    /// The demand since the previous sample, one every `stride` ticks, oldest first.
    samples: VecDeque<Demand>,
    stride: u64,
    lag: usize,
    window: usize,
}

const SECOND: u64 = 1_000_000_000;
const LAG: u64 = 11 * SECOND;
const WINDOW: u64 = 20 * SECOND;

impl ObservedLoad {
    pub(super) fn new(interval: u64) -> Self {
        let stride = SECOND.div_ceil(interval.max(1)).max(1);
        let period = stride.saturating_mul(interval).max(1);
        Self {
            samples: VecDeque::new(),
            stride,
            lag: LAG.div_ceil(period) as usize,
            window: WINDOW.div_ceil(period) as usize,
        }
    }

    /// Returns the granted share at a tick; `demand` returns the demand since its last call.
    pub(super) fn tick(&mut self, number: u64, demand: impl FnOnce() -> Demand) -> Signal {
        // The first tick takes a sample too: earlier demand belongs to no window.
        if (number - 1).is_multiple_of(self.stride) {
            if self.samples.len() > self.lag + self.window {
                self.samples.pop_front();
            }
            self.samples.push_back(demand());
        }
        let Some(end) = self.samples.len().checked_sub(self.lag + 1) else {
            return Signal::NAN;
        };
        let from = end.saturating_sub(self.window);
        let window = self.samples.range(from + 1..=end);
        let (accepted, rejected) = window.fold((0.0, 0.0), |(accepted, rejected), sample| {
            (accepted + sample.accepted, rejected + sample.rejected)
        });
        let offered = accepted + rejected;
        if offered > 0.0 {
            accepted / offered
        } else {
            Signal::NAN
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the observed share at each tick, for the tokens granted and rejected before it.
    fn observe(interval: u64, demand: &[(f64, f64)]) -> Vec<f64> {
        let mut observed = ObservedLoad::new(interval);
        let mut sum = Demand::default();
        (1..)
            .zip(demand)
            .map(|(number, (accepted, rejected))| {
                sum.add(*accepted, true);
                sum.add(*rejected, false);
                observed.tick(number, || std::mem::take(&mut sum))
            })
            .collect()
    }

    #[test]
    fn the_window_lasts_twenty_seconds_and_ends_eleven_seconds_ago() {
        let mut demand = vec![(8.0, 0.0); 20];
        demand.extend([(2.0, 6.0); 60]);
        let observed = observe(SECOND, &demand);
        assert!(observed[..12].iter().all(|value| value.is_nan()));
        assert_eq!(observed[12..31], [1.0; 19]);
        assert!(observed[31] < 1.0);
        assert_eq!(observed[40], (10.0 * 8.0 + 10.0 * 2.0) / 160.0);
        assert_eq!(observed[50..], [0.25; 30]);
    }

    #[test]
    fn without_traffic_the_multiplier_is_invalid() {
        let mut demand = vec![(8.0, 0.0); 20];
        demand.extend([(0.0, 0.0); 60]);
        let observed = observe(SECOND, &demand);
        assert_eq!(observed[40], 1.0);
        assert!(observed[50..].iter().all(|value| value.is_nan()));
    }

    #[test]
    fn a_huge_request_has_no_effect_after_its_window() {
        for huge in [1e17, 1e300, f64::MAX] {
            let mut demand = vec![(8.0, 0.0); 20];
            demand.push((0.0, huge));
            demand.extend([(2.0, 6.0); 60]);
            let observed = observe(SECOND, &demand);
            assert!(observed[35] < 1e-12);
            assert_eq!(observed[60..], [0.25; 21]);
            let all = observe(SECOND, &[(huge, huge); 60]);
            assert!(all[50] > 0.4 && all[50] < 0.6);
        }
    }

    #[test]
    fn returned_tokens_count_as_no_demand() {
        let demand = [(8.0, -1e17), (-1e17, 8.0)].repeat(30);
        assert_eq!(observe(SECOND, &demand)[50], 0.5);
    }

    #[test]
    fn any_evaluation_interval_works() {
        let fine = observe(SECOND / 10, &[(1.0, 1.0); 500]);
        assert!(fine[100].is_nan());
        assert_eq!(fine[200], 0.5);
        let coarse = observe(10 * SECOND, &[(1.0, 3.0); 10]);
        assert!(coarse[2].is_nan());
        assert_eq!(coarse[3], 0.25);
    }
}
