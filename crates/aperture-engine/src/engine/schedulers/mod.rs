//! The components that queue flows: weighted fair queues in front of tokens or slots.

mod concurrency;
mod load;
mod queue_store;
mod quota;
mod token_source;
mod wait_queue;
mod waiter;
mod wfq;
#[cfg(test)]
mod wfq_tests;
mod workload;

pub(crate) use self::concurrency::ConcurrencyScheduler;
pub(crate) use self::load::{LoadScheduler, LoadSchedulerDecision};
pub(crate) use self::quota::QuotaScheduler;
pub(crate) use self::waiter::Waiter;
pub(crate) use self::workload::{WorkloadRequest, Workloads};

use super::decision::DecisionWithSlot;

/// The result of scheduling a flow.
#[derive(Debug)]
pub(crate) enum ScheduleResult {
    Decided(DecisionWithSlot),
    Queued(Waiter),
}
