//! Tests the algorithms and the window with a model of a service, and with hostile samples.

use std::time::Duration;

use proptest::prelude::*;

use super::learned::{Learned, Sample};
use super::tuning::Tuning;
use super::window::{Observation, Window};
use crate::engine::clock::Nanos;
use crate::policy::AdaptiveConcurrency;

const MILLI: Nanos = 1_000_000;

fn algorithms() -> [AdaptiveConcurrency; 2] {
    [
        AdaptiveConcurrency::gradient(),
        AdaptiveConcurrency::vegas(),
    ]
}

/// A service with some workers, and clients who send more than it can serve, or only a few flows.
struct Service {
    tuning: Tuning,
    learned: Learned,
    workers: f64,
    /// The latency without a queue, in nanoseconds.
    unloaded: f64,
    /// The most flows that the clients have in flight.
    offered: f64,
}

impl Service {
    fn new(settings: &AdaptiveConcurrency) -> Self {
        let tuning = Tuning::new(settings);
        Self {
            learned: Learned::new(&tuning),
            tuning,
            workers: 16.0,
            unloaded: 50e6,
            offered: f64::INFINITY,
        }
    }

    fn limit(&self) -> f64 {
        self.learned.in_force(&self.tuning)
    }

    fn in_flight(&self) -> f64 {
        self.limit().min(self.offered)
    }

    fn latency(&self) -> f64 {
        self.unloaded * (self.in_flight() / self.workers).max(1.0)
    }

    /// Runs for this many windows, in each of which the service was overloaded or not.
    fn run(&mut self, windows: u32, overloaded: bool) {
        for _ in 0..windows {
            let span = (2.0 * self.latency()).max(self.tuning.window as f64);
            self.learn(Sample {
                latency: Some(self.latency()),
                in_flight: self.in_flight(),
                overloaded,
                span,
            });
        }
    }

    fn learn(&mut self, sample: Sample) {
        self.learned = self.learned.next(&sample, &self.tuning);
    }

    /// Runs for a time in nanoseconds. Returns the highest latency in it.
    fn run_for(&mut self, time: f64) -> f64 {
        let (mut elapsed, mut highest) = (0.0, 0.0_f64);
        while elapsed < time {
            highest = highest.max(self.latency());
            elapsed += (2.0 * self.latency()).max(self.tuning.window as f64);
            self.run(1, false);
        }
        highest
    }
}

#[test]
fn the_limit_grows_while_latency_stays_at_its_minimum_and_the_limit_is_used() {
    for settings in algorithms() {
        let mut service = Service::new(&settings);
        service.workers = 1e9;
        let mut before = service.limit();
        assert_eq!(before, 20.0);
        for _ in 0..5 {
            service.run(10, false);
            assert!(
                service.limit() > before,
                "{settings:?}: {}",
                service.limit()
            );
            before = service.limit();
        }
        service.run(2000, false);
        assert_eq!(service.limit(), 1000.0, "it ends at the ceiling");
    }
}

#[test]
fn the_limit_does_not_grow_while_little_of_it_is_used() {
    for settings in algorithms() {
        let mut service = Service::new(&settings);
        service.offered = 9.0;
        service.run(3, false);
        assert_eq!(service.limit(), 20.0, "{settings:?}");
        service.offered = 12.0;
        service.run(3, false);
        assert!(
            service.limit() > 20.0,
            "more than half is used: {settings:?}"
        );
    }
}

#[test]
fn the_limit_falls_when_latency_rises_and_returns_when_the_service_recovers() {
    for settings in algorithms() {
        let mut service = Service::new(&settings.tolerance(1.2));
        service.offered = 4.0;
        service.run(20, false);
        service.offered = f64::INFINITY;
        service.run(100, false);
        let usual = service.limit();
        assert!((16.0..32.0).contains(&usual), "{usual}");
        service.workers = 8.0;
        service.run(100, false);
        let less = service.limit();
        assert!((8.0..=16.0).contains(&less), "{less}");
        service.workers = 16.0;
        service.run(200, false);
        assert!(
            (usual - service.limit()).abs() <= 4.0,
            "{}",
            service.limit()
        );
    }
}

#[test]
fn windows_with_failures_lower_the_limit_to_the_floor() {
    for settings in algorithms() {
        let mut service = Service::new(&settings.min(3));
        service.run(1, false);
        let before = service.limit();
        service.run(1, true);
        assert!(service.limit() < before);
        service.run(100, true);
        assert_eq!(service.limit(), 3.0);
        // Without any latency, too.
        service.learn(Sample {
            latency: None,
            in_flight: 3.0,
            overloaded: true,
            span: 1e8,
        });
        assert_eq!(service.limit(), 3.0);
        service.run(100, false);
        assert!(service.limit() > 10.0, "it recovers");
    }
}

#[test]
fn vegas_keeps_latency_low_in_an_overload_of_any_length() {
    let mut service = Service::new(&AdaptiveConcurrency::vegas());
    // The key begins in the overload, so that the first latency has a queue in it.
    service.workers = 8.0;
    service.run_for(600e9);
    let highest = service.run_for(6.0 * 3600e9);
    assert!(highest <= 2.0 * service.unloaded, "{highest}");
    assert!(service.learned.baseline <= 1.05 * service.unloaded);
}

#[test]
fn vegas_learns_that_a_service_has_become_slower_by_itself() {
    let mut service = Service::new(&AdaptiveConcurrency::vegas());
    service.run_for(200e9);
    service.unloaded = 150e6;
    service.run_for(60e9);
    assert!(service.limit() < 16.0, "at first it seems a queue");
    service.run_for(1200e9);
    assert!(service.limit() >= 16.0, "{}", service.limit());
}

#[test]
fn measuring_anew_halves_the_limit_for_two_windows_and_restores_it() {
    let mut service = Service::new(&AdaptiveConcurrency::vegas());
    service.offered = 12.0;
    let limits: Vec<f64> = (0..700)
        .map(|_| {
            service.run(1, false);
            service.limit()
        })
        .collect();
    let low = |at: &usize| limits[*at] < limits[at - 1] * 0.6;
    let lows: Vec<usize> = (1..limits.len()).filter(low).collect();
    assert_eq!(lows.len(), 1, "the first comes after a minute: {lows:?}");
    let at = lows[0];
    assert_eq!(limits[at + 1], limits[at]);
    assert!(limits[at + 2] >= limits[at - 1]);
}

#[test]
fn the_gradient_recovers_from_a_long_overload_in_some_seconds() {
    let mut service = Service::new(&AdaptiveConcurrency::gradient());
    service.unloaded = 500e6;
    service.run_for(3600e9);
    service.unloaded = 50e6;
    service.offered = 4.0;
    service.run(150, false);
    assert!(
        service.learned.baseline <= 2.0 * 50e6,
        "{}",
        service.learned.baseline
    );
}

fn settings() -> impl Strategy<Value = AdaptiveConcurrency> {
    let bounds = (1..50_u32, 0..5000_u32, 0.0..=1.0_f64);
    (any::<bool>(), bounds, 0.001..=1.0_f64, 1.0..10.0_f64).prop_map(
        |(vegas, (min, more, at), smoothing, tolerance)| {
            let settings = match vegas {
                true => AdaptiveConcurrency::vegas(),
                false => AdaptiveConcurrency::gradient(),
            };
            settings
                .min(min)
                .max(min + more)
                .initial(min + (f64::from(more) * at) as u32)
                .smoothing(smoothing)
                .tolerance(tolerance)
                .long_window(Duration::from_secs(1))
        },
    )
}

fn hostile_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(0.0),
        Just(-1.0),
        Just(f64::MAX),
        Just(f64::MIN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        0.0..1e12,
    ]
}

fn hostile_time() -> impl Strategy<Value = Nanos> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(Nanos::MAX),
        0..10_000 * MILLI,
        any::<Nanos>(),
    ]
}

proptest! {
    #[test]
    fn no_sample_takes_the_limit_out_of_its_bounds(
        settings in settings(),
        samples in prop::collection::vec(
            (prop::option::of(1.0..1e19_f64), hostile_number(), any::<bool>(), 1.0..1e19_f64),
            1..200,
        ),
    ) {
        prop_assert_eq!(settings.check(), Ok(()));
        let tuning = Tuning::new(&settings);
        let mut learned = Learned::new(&tuning);
        for (latency, in_flight, overloaded, span) in samples {
            learned = learned.next(&Sample { latency, in_flight, overloaded, span }, &tuning);
            let limit = learned.in_force(&tuning);
            prop_assert!((tuning.floor..=tuning.ceiling).contains(&limit), "{limit}");
            prop_assert!((tuning.floor..=tuning.ceiling).contains(&learned.limit));
            prop_assert!(learned.baseline.is_finite() && learned.baseline >= 0.0);
        }
    }

    #[test]
    fn no_clock_takes_the_limit_out_of_its_bounds_or_stops_the_windows(
        settings in settings(),
        flows in prop::collection::vec(
            (hostile_time(), hostile_time(), hostile_number(), any::<bool>()),
            1..200,
        ),
    ) {
        let tuning = Tuning::new(&settings);
        let (mut learned, mut window) = (Learned::new(&tuning), Window::new());
        let mut add = |latency, in_flight, now: Nanos, overloaded: bool| {
            let observation = match overloaded {
                true => Observation::Overload,
                false => Observation::Latency(latency),
            };
            let sample = window.add(observation, in_flight, now, &tuning);
            if let Some(sample) = sample {
                learned = learned.next(&sample, &tuning);
            }
            let limit = learned.in_force(&tuning);
            prop_assert!((tuning.floor..=tuning.ceiling).contains(&limit), "{limit}");
            Ok(sample.is_some())
        };
        let mut latest = 0;
        for (now, latency, in_flight, overloaded) in flows {
            latest = now;
            add(latency, in_flight, now, overloaded)?;
        }
        // Whatever was before, two long windows of usual flows end a window.
        let latest = latest.min(Nanos::MAX / 2);
        let mut ended = false;
        for step in 0..30 {
            ended |= add(MILLI, 1.0, latest.saturating_add(step * 100 * MILLI), false)?;
        }
        prop_assert!(ended);
    }
}

#[test]
fn a_window_ends_after_its_time_with_ten_flows_and_lasts_for_two_latencies() {
    let tuning = Tuning::new(&AdaptiveConcurrency::gradient());
    let mut window = Window::new();
    let mut add =
        |at: Nanos, latency: Nanos| window.add(Observation::Latency(latency), 3.0, at, &tuning);
    for at in 0..9 {
        assert_eq!(
            add(at * 20 * MILLI, 300 * MILLI),
            None,
            "at most nine flows"
        );
    }
    let sample = add(180 * MILLI, 300 * MILLI).expect("ten flows in more than 100 ms");
    assert_eq!(sample.latency, Some(300e6));
    assert_eq!(
        (sample.in_flight, sample.overloaded, sample.span),
        (3.0, false, 100e6)
    );
    for at in 0..59 {
        assert_eq!(add((181 + at * 10) * MILLI, 300 * MILLI), None);
    }
    let sample = add(780 * MILLI, 300 * MILLI).expect("600 ms have passed");
    assert_eq!(sample.span, 600e6);
}

#[test]
fn a_window_has_failed_if_more_than_one_flow_in_ten_has() {
    let tuning = Tuning::new(&AdaptiveConcurrency::gradient());
    let sample = |failed: Nanos| {
        let mut window = Window::new();
        let samples = (0..20).filter_map(|at| {
            let observation = match at < failed {
                true => Observation::Overload,
                false => Observation::Latency(MILLI),
            };
            window.add(observation, 1.0, at * 100 * MILLI / 19, &tuning)
        });
        samples.last().expect("the window ended")
    };
    assert!(!sample(0).overloaded);
    assert!(!sample(2).overloaded, "two in twenty");
    assert!(sample(3).overloaded);
    assert_eq!(sample(20).latency, None);
}
