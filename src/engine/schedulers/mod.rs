//! The components that let flows wait: queues by weight in front of tokens.

mod concurrency;
mod keys;
mod line;
mod load;
mod quota;
mod supply;
mod waiter;
mod wfq;
#[cfg(test)]
mod wfq_tests;
mod workload;

pub(crate) use self::concurrency::ConcurrencyScheduler;
pub(crate) use self::load::{Decision, LoadScheduler};
pub(crate) use self::quota::QuotaScheduler;
pub(crate) use self::waiter::Waiter;
pub(crate) use self::wfq::Overtaken;
pub(crate) use self::workload::Workloads;
