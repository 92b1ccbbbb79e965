//! Flux meters: histograms of how long the work of flows takes.
//!
//! Ends of flows add to counters that only grow; who wants a mean or a quantile keeps a [`Window`]
//! and so the counts of earlier. Nothing is locked and no history is kept where nobody reads.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use smallvec::SmallVec;

use super::Engine;
use super::clock::{Nanos, nanos};
use super::control::WorkloadLatency;
use super::index::Places;
use super::stages::Flow;
use crate::flow::{FlowOutcome, FlowStatus};
use crate::policy::{self, Buckets, Selector};

/// Milliseconds; the documented default.
const DEFAULT_BOUNDS: [f64; 11] = [
    5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0,
];
const MAX_BUCKETS: usize = 1000;
/// What an engine measures; other attributes are made elsewhere.
const WORKLOAD_DURATION: &str = "workload_duration_ms";
/// A window remembers about as many earlier readings.
const READINGS: Nanos = 60;

/// The flux meters of all policies.
#[derive(Debug, Default)]
pub(crate) struct FluxMeters {
    all: Vec<Arc<FluxMeter>>,
    places: Places,
}

/// A histogram, in milliseconds.
#[derive(Debug)]
pub(crate) struct FluxMeter {
    name: Arc<str>,
    /// The upper ends of the buckets, rising; one more bucket is without end.
    bounds: Box<[f64]>,
    /// The attribute is one that flows have here.
    measured: bool,
    ok: Series,
    /// Errors, and flows that were turned away.
    other: Series,
}

#[derive(Debug)]
struct Series {
    /// Microseconds.
    sum: AtomicU64,
    buckets: Box<[AtomicU64]>,
}

impl FluxMeters {
    /// Adds a meter with those of its selectors that apply here, and says whether it will ever
    /// show anything.
    ///
    /// A meter that was there before under this name, of the same form, goes on counting.
    pub(crate) fn add(
        &mut self,
        meter: &policy::FluxMeter,
        here: &[&Selector],
        before: Option<&Self>,
    ) -> Result<bool, String> {
        if self.get(&meter.name).is_some() {
            let flaw = "there is another of this name, and all policies share the names";
            return Err(flaw.to_owned());
        }
        let Ok(at) = u32::try_from(self.all.len()) else {
            return Err("there are too many".to_owned());
        };
        let mut meter = Arc::new(FluxMeter::new(meter)?);
        let known = before.and_then(|before| before.get(&meter.name));
        if let Some(known) = known.filter(|known| known.same_form(&meter)) {
            meter = Arc::clone(known);
        }
        let measured = meter.measured;
        self.all.push(meter);
        self.places.add(at, here);
        Ok(measured)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<FluxMeter>> {
        self.all.iter().find(|meter| *meter.name == *name)
    }

    /// The meters that a flow meets.
    #[inline]
    pub(crate) fn matching(&self, flow: &Flow<'_, '_>) -> Matched {
        if self.all.is_empty() {
            return Matched::default();
        }
        let places = self.places.matching(flow);
        let meters = places.iter().map(|&at| Arc::clone(&self.all[at as usize]));
        Matched {
            meters: meters.collect(),
            workloads: None,
        }
    }
}

/// The meters that a flow meets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matched {
    meters: SmallVec<[Arc<FluxMeter>; 2]>,
    /// Where load schedulers measure their workloads, too.
    workloads: Option<Box<[Workload]>>,
}

/// The workload that a flow is to a load scheduler whose tokens follow latency.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) latency: Arc<WorkloadLatency>,
    pub(crate) name: Box<str>,
}

impl Matched {
    pub(crate) fn with_workloads(mut self, workloads: Vec<Workload>) -> Self {
        self.workloads = (!workloads.is_empty()).then(|| workloads.into());
        self
    }
}

impl Deref for Matched {
    type Target = [Arc<FluxMeter>];

    #[inline]
    fn deref(&self) -> &[Arc<FluxMeter>] {
        &self.meters
    }
}

/// The meters of a flow that has been answered, until it ends.
#[derive(Debug)]
pub(crate) struct Metered {
    engine: Engine,
    meters: Matched,
    begun: Nanos,
}

impl Metered {
    /// From now on the flow works. `None` where no meter cares.
    #[inline]
    pub(crate) fn begin(engine: &Engine, meters: Matched) -> Option<Self> {
        if meters.is_empty() && meters.workloads.is_none() {
            return None;
        }
        Some(Self {
            begun: nanos(engine.shared.clock.now()),
            engine: engine.clone(),
            meters,
        })
    }

    /// The work is over.
    pub(crate) fn end(self, outcome: FlowOutcome) {
        let now = nanos(self.engine.shared.clock.now());
        let took = now.saturating_sub(self.begun);
        // Circuits first: what ends now was not seen by the ticks before.
        self.engine.shared.live.load().control.catch_up(now);
        for meter in &*self.meters {
            meter.record(took, ok(outcome));
        }
        // Flows that were turned away did no work.
        if outcome.status != FlowStatus::Unset {
            for workload in self.meters.workloads.iter().flatten() {
                let millis = took as f64 / 1_000_000.0;
                workload.latency.record(&workload.name, millis, now);
            }
        }
    }
}

/// As an Agent tells it: by the HTTP status where that is no error, else as it was said.
fn ok(outcome: FlowOutcome) -> bool {
    let fine = outcome
        .http_status
        .is_some_and(|status| (100..400).contains(&status.as_u16()));
    fine || outcome.status == FlowStatus::Ok
}

impl FluxMeter {
    fn new(meter: &policy::FluxMeter) -> Result<Self, String> {
        let bounds = bounds(meter.buckets.as_ref())?;
        Ok(Self {
            name: Arc::clone(&meter.name),
            measured: *meter.attribute_key == *WORKLOAD_DURATION,
            ok: Series::new(bounds.len()),
            other: Series::new(bounds.len()),
            bounds,
        })
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn same_form(&self, other: &Self) -> bool {
        self.bounds == other.bounds && self.measured == other.measured
    }

    fn record(&self, took: Nanos, ok: bool) {
        if !self.measured {
            return;
        }
        let micros = u64::try_from(took / 1000).unwrap_or(0);
        let millis = micros as f64 / 1000.0;
        let series = if ok { &self.ok } else { &self.other };
        let bucket = self.bounds.partition_point(|bound| *bound < millis);
        series.sum.fetch_add(micros, Relaxed);
        series.buckets[bucket].fetch_add(1, Relaxed);
    }
}

impl Series {
    fn new(bounds: usize) -> Self {
        Self {
            sum: AtomicU64::new(0),
            buckets: (0..=bounds).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed))
    }

    fn read(&self, all: bool) -> Reading {
        Reading {
            count: self.counts().sum(),
            sum: self.sum.load(Relaxed),
            buckets: if all {
                self.counts().collect()
            } else {
                Box::default()
            },
        }
    }
}

fn bounds(buckets: Option<&Buckets>) -> Result<Box<[f64]>, String> {
    let count = match buckets {
        None => 0,
        Some(Buckets::Static(bounds)) => bounds.len(),
        Some(
            Buckets::Linear { count, .. }
            | Buckets::Exponential { count, .. }
            | Buckets::ExponentialRange { count, .. },
        ) => *count as usize,
    };
    if count > MAX_BUCKETS {
        return Err(format!(
            "{count} buckets are too many: {MAX_BUCKETS} at most"
        ));
    }
    let at = |count: u32| (0..count).map(f64::from);
    let mut bounds: Vec<f64> = match buckets {
        None => DEFAULT_BOUNDS.into(),
        Some(Buckets::Static(bounds)) if bounds.is_empty() => DEFAULT_BOUNDS.into(),
        Some(Buckets::Static(bounds)) => bounds.clone(),
        Some(Buckets::Linear {
            start,
            width,
            count,
        }) => at(*count).map(|at| start + width * at).collect(),
        Some(Buckets::Exponential {
            start,
            factor,
            count,
        }) => at(*count).map(|at| start * factor.powf(at)).collect(),
        Some(Buckets::ExponentialRange { min, max, count }) => {
            let steps = f64::from(count.saturating_sub(1).max(1));
            at(*count)
                .map(|at| min * (max / min).powf(at / steps))
                .collect()
        }
    };
    bounds.retain(|bound| bound.is_finite());
    bounds.sort_by(f64::total_cmp);
    bounds.dedup();
    Ok(bounds.into())
}

/// What a series had at a time.
#[derive(Clone, Debug, Default)]
struct Reading {
    count: u64,
    /// Microseconds.
    sum: u64,
    /// Empty where only the mean is wanted.
    buckets: Box<[u64]>,
}

/// The flows that ended well in the last while, to be read again and again by one reader.
///
/// It begins where its time begins. Readings are kept as far apart as a sixtieth of the window,
/// so the window is that much too long at most.
#[derive(Debug)]
pub(crate) struct Window {
    meter: Arc<FluxMeter>,
    length: Nanos,
    with_buckets: bool,
    earlier: VecDeque<(Nanos, Reading)>,
}

impl Window {
    /// For [`mean`](Self::mean).
    pub(crate) fn of_mean(meter: &Arc<FluxMeter>, length: Duration, now: Nanos) -> Self {
        Self::new(meter, length, now, false)
    }

    /// For [`mean`](Self::mean) and [`quantile`](Self::quantile).
    pub(crate) fn of_quantile(meter: &Arc<FluxMeter>, length: Duration, now: Nanos) -> Self {
        Self::new(meter, length, now, true)
    }

    fn new(meter: &Arc<FluxMeter>, length: Duration, now: Nanos, with_buckets: bool) -> Self {
        let first = (now, meter.ok.read(with_buckets));
        Self {
            meter: Arc::clone(meter),
            length: nanos(length),
            with_buckets,
            earlier: VecDeque::from([first]),
        }
    }

    /// The mean in milliseconds; NaN when no flow ended well.
    pub(crate) fn mean(&mut self, now: Nanos) -> f64 {
        let (then, now) = self.read(now);
        let count = now.count.saturating_sub(then.count);
        if count == 0 {
            return f64::NAN;
        }
        now.sum.saturating_sub(then.sum) as f64 / 1000.0 / count as f64
    }

    /// A quantile from 0 to 1 in milliseconds, as Prometheus finds it in a histogram: evenly
    /// spread within a bucket. NaN when no flow ended well.
    pub(crate) fn quantile(&mut self, quantile: f64, now: Nanos) -> f64 {
        let (then, now) = self.read(now);
        let counts: Vec<u64> = now
            .buckets
            .iter()
            .zip(&then.buckets)
            .map(|(now, then)| now.saturating_sub(*then))
            .collect();
        quantile_of(&self.meter.bounds, &counts, quantile)
    }

    /// The counts at the window's beginning, and now.
    fn read(&mut self, now: Nanos) -> (Reading, Reading) {
        let begin = now.saturating_sub(self.length);
        // The last one that is old enough is the beginning.
        while self.earlier.get(1).is_some_and(|(at, _)| *at <= begin) {
            self.earlier.pop_front();
        }
        let latest = self.meter.ok.read(self.with_buckets);
        let first = self.earlier.front();
        let then = first
            .map(|(_, reading)| reading.clone())
            .unwrap_or_default();
        let step = self.length / READINGS;
        let due = |(at, _): &(Nanos, Reading)| now.saturating_sub(*at) >= step.max(1);
        if self.earlier.back().is_none_or(due) {
            self.earlier.push_back((now, latest.clone()));
        }
        (then, latest)
    }
}

fn quantile_of(bounds: &[f64], counts: &[u64], quantile: f64) -> f64 {
    let total: u64 = counts.iter().sum();
    if total == 0 || quantile.is_nan() {
        return f64::NAN;
    }
    if quantile < 0.0 {
        return f64::NEG_INFINITY;
    }
    if quantile > 1.0 {
        return f64::INFINITY;
    }
    let rank = quantile * total as f64;
    let mut below = 0.0;
    for (at, count) in counts.iter().map(|count| *count as f64).enumerate() {
        if below + count < rank || count == 0.0 && at < bounds.len() {
            below += count;
            continue;
        }
        let Some(upper) = bounds.get(at) else {
            break;
        };
        let lower = match at {
            0 if *upper <= 0.0 => return *upper,
            0 => 0.0,
            at => bounds[at - 1],
        };
        return lower + (upper - lower) * (rank - below) / count;
    }
    // In the bucket without end nothing better is known.
    bounds.last().copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::{Clock as _, ManualClock};
    use crate::flow::{Check, Decider as _, FlowParams, Ticket as _, Verdict};

    const MILLI: Nanos = 1_000_000;

    fn meter(buckets: Option<Buckets>) -> Arc<FluxMeter> {
        let spec = policy::FluxMeter {
            name: "latency".into(),
            selectors: Vec::new(),
            attribute_key: WORKLOAD_DURATION.into(),
            buckets,
        };
        Arc::new(FluxMeter::new(&spec).expect("a sound meter"))
    }

    #[test]
    fn a_window_forgets_what_is_older() {
        let meter = meter(None);
        let second = 1000 * MILLI;
        let mut window = Window::of_mean(&meter, Duration::from_secs(30), 0);
        assert!(window.mean(0).is_nan());
        for at in 0..120 {
            // Half a minute of 10 ms each second, then half a minute of 50 ms, and so on.
            let took = if (at / 30) % 2 == 0 { 10 } else { 50 };
            meter.record(took * MILLI, true);
            meter.record(7000 * MILLI, false);
            let mean = window.mean((at + 1) * second);
            if at % 30 == 29 {
                assert_eq!(mean, took as f64, "after {at} s");
            } else {
                assert!((10.0..=50.0).contains(&mean), "{mean} after {at} s");
            }
        }
        assert!(window.earlier.len() <= 62);
        assert!(window.mean(1000 * second).is_nan(), "nothing ended lately");
    }

    #[test]
    fn flows_are_measured_from_their_answer_to_their_end() {
        let text =
            "resources: {flow_control: {flux_meters: {m: {selectors: [{control_point: here}]}}}}";
        let clock = ManualClock::new();
        let engine = Engine::builder()
            .policy_text("meters", text)
            .clock(clock.clone())
            .build()
            .expect("a sound policy");
        let live = engine.shared.live.load();
        let meter = live.flux_meters.get("m").expect("there is one");
        let mut window = Window::of_mean(meter, Duration::from_secs(30), 0);
        for (millis, status) in [
            (20, FlowStatus::Ok),
            (40, FlowStatus::Ok),
            (900, FlowStatus::Error),
        ] {
            let Check::Ready(Verdict::Accepted(ticket)) = engine.decide("here", &FlowParams::new())
            else {
                panic!("nothing limits it");
            };
            clock.advance(Duration::from_millis(millis));
            ticket.end(FlowOutcome::new(status));
        }
        assert_eq!(window.mean(nanos(clock.now())), 30.0);
        drop(engine.decide("elsewhere", &FlowParams::new()));
        assert_eq!(meter.other.read(false).count, 1);
    }

    #[test]
    fn buckets_are_those_of_the_policy() {
        let of = |buckets| meter(Some(buckets)).bounds.to_vec();
        assert_eq!(meter(None).bounds[..], DEFAULT_BOUNDS);
        assert_eq!(of(Buckets::Static(vec![])), DEFAULT_BOUNDS);
        assert_eq!(of(Buckets::Static(vec![9.0, 1.0, 9.0])), [1.0, 9.0]);
        let linear = Buckets::Linear {
            start: 1.0,
            width: 2.0,
            count: 3,
        };
        assert_eq!(of(linear), [1.0, 3.0, 5.0]);
        let exponential = Buckets::Exponential {
            start: 1.0,
            factor: 3.0,
            count: 3,
        };
        assert_eq!(of(exponential), [1.0, 3.0, 9.0]);
        let range = Buckets::ExponentialRange {
            min: 1.0,
            max: 16.0,
            count: 3,
        };
        assert_eq!(of(range), [1.0, 4.0, 16.0]);
        let many = Buckets::Linear {
            start: 0.0,
            width: 1.0,
            count: u32::MAX,
        };
        assert!(bounds(Some(&many)).is_err());
    }

    #[test]
    fn quantiles_are_spread_within_their_bucket() {
        let bounds = [10.0, 20.0, 40.0];
        assert_eq!(quantile_of(&bounds, &[2, 2, 0, 0], 0.5), 10.0);
        assert_eq!(quantile_of(&bounds, &[2, 2, 0, 0], 0.75), 15.0);
        assert_eq!(quantile_of(&bounds, &[0, 0, 4, 0], 0.25), 25.0);
        assert_eq!(quantile_of(&bounds, &[0, 0, 0, 3], 0.5), 40.0);
        assert_eq!(quantile_of(&bounds, &[0, 5, 0, 0], 0.0), 10.0);
        assert_eq!(quantile_of(&bounds, &[1, 0, 0, 0], 1.0), 10.0);
        assert!(quantile_of(&bounds, &[0; 4], 0.5).is_nan());
    }

    #[test]
    fn the_status_of_http_says_first_whether_a_flow_was_fine() {
        let status = |code| http::StatusCode::from_u16(code).expect("a status");
        assert!(ok(
            FlowOutcome::new(FlowStatus::Error).http_status(status(302))
        ));
        assert!(ok(FlowOutcome::new(FlowStatus::Ok).http_status(status(404))));
        assert!(!ok(
            FlowOutcome::new(FlowStatus::Unset).http_status(status(429))
        ));
        assert!(!ok(FlowOutcome::new(FlowStatus::Error)));
    }

    proptest! {
        #[test]
        fn a_quantile_is_near_the_value_there(
            mut took in prop::collection::vec(1_i64..200, 1..100),
            quantile in 0.0_f64..=1.0,
        ) {
            let meter = meter(Some(Buckets::Linear { start: 1.0, width: 1.0, count: 200 }));
            let mut window = Window::of_quantile(&meter, Duration::from_secs(30), 0);
            for took in &took {
                meter.record(took * MILLI, true);
            }
            took.sort_unstable();
            let rank = (quantile * took.len() as f64).ceil().max(1.0) as usize;
            let exact = took[rank - 1] as f64;
            let found = window.quantile(quantile, MILLI);
            prop_assert!((found - exact).abs() <= 1.0 + 1e-9, "{} {}", found, exact);
            let mean = took.iter().sum::<i64>() as f64 / took.len() as f64;
            prop_assert!((window.mean(MILLI) - mean).abs() < 1e-9);
        }
    }
}
