//! Sums up the flows of one key until their mean says something.

use super::learned::Sample;
use super::tuning::Tuning;
use crate::engine::clock::Nanos;

/// The least number of flows in a window.
const MIN_FLOWS: u32 = 10;
/// A window counts as failed if more than one in so many of its flows failed by overload.
const FAILED_ONE_IN: u32 = 10;
/// A window takes at least this multiple of the mean latency, so that the next window shows what a
/// change of the limit did.
const LATENCIES: f64 = 2.0;

/// The measurement of one flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Observation {
    /// The flow was served in this time.
    Latency(Nanos),
    /// The flow failed by overload.
    Overload,
}

/// The flows that were measured since the last sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// The window ends with the first flow that is measured from this time on.
    ends_at: Nanos,
    span: Nanos,
    latencies: f64,
    measured: u32,
    overloads: u32,
    in_flight: f64,
}

impl Window {
    pub(super) const fn new() -> Self {
        Self {
            ends_at: Nanos::MAX,
            span: 0,
            latencies: 0.0,
            measured: 0,
            overloads: 0,
            in_flight: 0.0,
        }
    }

    /// Adds a flow. Returns the sample of the window if it ends with this flow.
    pub(super) fn add(
        &mut self,
        observation: Observation,
        in_flight: f64,
        now: Nanos,
        tuning: &Tuning,
    ) -> Option<Sample> {
        // The first window begins now. So does one that would last longer than it should, because
        // the clock was set back.
        if self.ends_at.saturating_sub(now) > self.span {
            let span = if self.span == 0 {
                tuning.window
            } else {
                self.span
            };
            self.begin(now, span);
        }
        match observation {
            // A flow takes some time, whatever the clock says.
            Observation::Latency(latency) => {
                self.latencies += latency.max(1) as f64;
                self.measured = self.measured.saturating_add(1);
            }
            Observation::Overload => self.overloads = self.overloads.saturating_add(1),
        }
        self.in_flight = self.in_flight.max(in_flight);
        let flows = self.measured.saturating_add(self.overloads);
        if now < self.ends_at || flows < MIN_FLOWS {
            return None;
        }
        let mean = self.latencies / f64::from(self.measured);
        let sample = Sample {
            latency: (self.measured > 0).then_some(mean),
            in_flight: self.in_flight,
            overloaded: self.overloads > flows / FAILED_ONE_IN,
            span: self.span as f64,
        };
        // A conversion from `f64` saturates, and makes 0 of NaN.
        let span = (mean * LATENCIES) as Nanos;
        *self = Self::new();
        self.begin(now, span.max(tuning.window).min(tuning.long_window));
        Some(sample)
    }

    fn begin(&mut self, now: Nanos, span: Nanos) {
        self.span = span;
        self.ends_at = now.saturating_add(span);
    }
}
