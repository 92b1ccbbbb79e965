//! The mean latency of each workload, from which `workload_latency_based_tokens` derives tokens.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};

use ahash::RandomState;

use super::clock::Nanos;
use super::sync::Mutex;

/// The tokens of the flows of each workload: its mean latency in milliseconds.
pub(crate) type WorkloadTokens = Arc<HashMap<Arc<str>, f64, RandomState>>;

const MINUTE: Nanos = 60_000_000_000;
/// The length of the window of the mean.
const WINDOW_MINUTES: Nanos = 30;
/// A label may name the workload of a flow, and clients may make up labels.
const MAX_WORKLOADS: usize = 1024;

/// Mean latencies over 30 minutes, stored by minute.
#[derive(Debug, Default)]
pub(crate) struct WorkloadLatency {
    workloads: Mutex<HashMap<Arc<str>, VecDeque<Minute>, RandomState>>,
}

/// The workload of a flow in a load scheduler whose tokens depend on latency.
#[derive(Clone, Debug)]
pub(crate) struct MeasuredWorkload {
    pub(crate) latency: Arc<WorkloadLatency>,
    pub(crate) name: Box<str>,
}

#[derive(Clone, Copy, Debug)]
struct Minute {
    /// Counted from the clock's origin.
    number: i64,
    sum: f64,
    count: u64,
}

impl WorkloadLatency {
    /// Records the latency of a flow of a workload in milliseconds.
    pub(crate) fn record(&self, workload: &str, millis: f64, now: Nanos) {
        let mut workloads = self
            .workloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let number = now.div_euclid(MINUTE);
        let minutes = match workloads.get_mut(workload) {
            Some(minutes) => minutes,
            None => {
                if workloads.len() >= MAX_WORKLOADS {
                    workloads.retain(|_, minutes| !is_expired(minutes.back(), number));
                }
                if workloads.len() >= MAX_WORKLOADS {
                    return;
                }
                workloads.entry(Arc::from(workload)).or_default()
            }
        };
        while is_expired(minutes.front(), number) && !minutes.is_empty() {
            minutes.pop_front();
        }
        match minutes.back_mut() {
            // Another thread may have read a later time before it got the lock.
            Some(last) if last.number >= number => {
                last.sum += millis;
                last.count += 1;
            }
            _ => minutes.push_back(Minute {
                number,
                sum: millis,
                count: 1,
            }),
        }
    }

    /// Returns the mean latency of each workload that had flows within the window.
    pub(crate) fn tokens(&self, now: Nanos) -> WorkloadTokens {
        let workloads = self
            .workloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let number = now.div_euclid(MINUTE);
        let means = workloads.iter().filter_map(|(workload, minutes)| {
            let recent = minutes
                .iter()
                .filter(|minute| !is_expired(Some(minute), number));
            let (sum, count) = recent.fold((0.0, 0), |(sum, count), minute| {
                (sum + minute.sum, count + minute.count)
            });
            (count > 0).then(|| (Arc::clone(workload), sum / count as f64))
        });
        Arc::new(means.collect())
    }
}

fn is_expired(minute: Option<&Minute>, now: i64) -> bool {
    minute.is_none_or(|minute| minute.number <= now - WINDOW_MINUTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_costs_its_mean_over_thirty_minutes() {
        let latency = WorkloadLatency::default();
        assert!(latency.tokens(0).is_empty());
        latency.record("slow", 300.0, 0);
        latency.record("slow", 100.0, 10 * MINUTE);
        latency.record("fast", 5.0, 10 * MINUTE);
        let tokens = latency.tokens(29 * MINUTE);
        assert_eq!((tokens["slow"], tokens["fast"]), (200.0, 5.0));
        assert_eq!(latency.tokens(30 * MINUTE)["slow"], 100.0);
        latency.record("slow", 50.0, 60 * MINUTE);
        let tokens = latency.tokens(60 * MINUTE);
        assert_eq!((tokens["slow"], tokens.len()), (50.0, 1));
    }

    #[test]
    fn the_number_of_workloads_is_bounded_and_expired_ones_make_room() {
        let latency = WorkloadLatency::default();
        for name in 0..2 * MAX_WORKLOADS {
            latency.record(&name.to_string(), 1.0, 0);
        }
        assert_eq!(latency.tokens(0).len(), MAX_WORKLOADS);
        latency.record("new", 7.0, 31 * MINUTE);
        assert_eq!(latency.tokens(31 * MINUTE)["new"], 7.0);
    }
}
