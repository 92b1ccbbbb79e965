//! A request that arrives: its workload, its fairness queue and its cost.

use smallvec::SmallVec;
use twox_hash::XxHash64;

/// The largest cost of a request, and the largest virtual time before the times are reduced. Beyond
/// it, a float could soon not represent the cost of small requests any more.
pub(crate) const MAX_COST: f64 = (1_u64 << 40) as f64;

/// One of the 256 fairness queues of a workload; `None` for requests without a fairness label.
pub(crate) type FairnessQueue = Option<u8>;

/// A request that arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    /// See [`workload_id`].
    pub(crate) workload: &'a str,
    pub(crate) fairness: FairnessQueue,
    pub(crate) tokens: f64,
    /// 1 / priority.
    pub(crate) inverse_priority: f64,
}

/// Returns the id of a workload. Requests of one label with different priorities are different
/// workloads.
pub(crate) fn workload_id(label: &str, inverse_priority: f64) -> String {
    format!("{label}-{inverse_priority:.6}")
}

/// Returns the cost that a request adds to the virtual time of its flow: zero for negative tokens,
/// and at most [`MAX_COST`].
pub(super) fn cost(arrival: &Arrival<'_>, queues: usize) -> f64 {
    let cost = arrival.tokens * arrival.inverse_priority * queues as f64;
    // A cost of zero would overtake all others.
    if cost.is_nan() {
        return MAX_COST;
    }
    cost.clamp(0.0, MAX_COST)
}

/// Returns the fairness queue of a workload that a fairness label belongs to.
pub(crate) fn fairness_queue(label: &str, seed: u32) -> Option<u8> {
    if label.is_empty() {
        return None;
    }
    let mut text: SmallVec<[u8; 128]> = SmallVec::from_slice(label.as_bytes());
    let mut digits = [0_u8; 10];
    let mut at = digits.len();
    let mut rest = seed;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[at..]);
    Some(XxHash64::oneshot(0, &text) as u8)
}
