//! What the flows of each workload took, for tokens that follow latency.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};

use ahash::RandomState;

use crate::engine::clock::Nanos;
use crate::engine::sync::Mutex;

/// Milliseconds, by workload: the tokens of its flows.
pub(crate) type WorkloadTokens = Arc<HashMap<Arc<str>, f64, RandomState>>;

const MINUTE: Nanos = 60_000_000_000;
/// The mean is that of so many minutes.
const MINUTES: Nanos = 30;
/// Workloads may be named by a flow's label, and anyone may make up labels.
const MOST_WORKLOADS: usize = 1024;

/// Means of durations over 30 minutes, a minute at a time.
#[derive(Debug, Default)]
pub(crate) struct WorkloadLatency {
    workloads: Mutex<HashMap<Arc<str>, VecDeque<Minute>, RandomState>>,
}

#[derive(Clone, Copy, Debug)]
struct Minute {
    /// Counted from the clock's origin.
    number: i64,
    sum: f64,
    count: u64,
}

impl WorkloadLatency {
    /// A flow of a workload has ended after so many milliseconds.
    pub(crate) fn record(&self, workload: &str, millis: f64, now: Nanos) {
        let mut workloads = self
            .workloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let number = now.div_euclid(MINUTE);
        let minutes = match workloads.get_mut(workload) {
            Some(minutes) => minutes,
            None => {
                if workloads.len() >= MOST_WORKLOADS {
                    workloads.retain(|_, minutes| !is_over(minutes.back(), number));
                }
                if workloads.len() >= MOST_WORKLOADS {
                    return;
                }
                workloads.entry(Arc::from(workload)).or_default()
            }
        };
        while is_over(minutes.front(), number) && !minutes.is_empty() {
            minutes.pop_front();
        }
        match minutes.back_mut() {
            // Threads read the clock before they get the lock.
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

    /// The mean of each workload that had flows.
    pub(crate) fn tokens(&self, now: Nanos) -> WorkloadTokens {
        let workloads = self
            .workloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let number = now.div_euclid(MINUTE);
        let means = workloads.iter().filter_map(|(workload, minutes)| {
            let recent = minutes
                .iter()
                .filter(|minute| !is_over(Some(minute), number));
            let (sum, count) = recent.fold((0.0, 0), |(sum, count), minute| {
                (sum + minute.sum, count + minute.count)
            });
            (count > 0).then(|| (Arc::clone(workload), sum / count as f64))
        });
        Arc::new(means.collect())
    }
}

fn is_over(minute: Option<&Minute>, now: i64) -> bool {
    minute.is_none_or(|minute| minute.number <= now - MINUTES)
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
    fn made_up_workloads_are_bounded_and_make_room_when_they_are_old() {
        let latency = WorkloadLatency::default();
        for name in 0..2 * MOST_WORKLOADS {
            latency.record(&name.to_string(), 1.0, 0);
        }
        assert_eq!(latency.tokens(0).len(), MOST_WORKLOADS);
        latency.record("new", 7.0, 31 * MINUTE);
        assert_eq!(latency.tokens(31 * MINUTE)["new"], 7.0);
    }
}
