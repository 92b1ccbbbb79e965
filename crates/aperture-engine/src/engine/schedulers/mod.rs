//! The components that queue flows: weighted fair queues in front of tokens or slots.

mod accepted;
mod concurrency;
mod demand;
mod load;
mod load_tokens;
mod queue_store;
mod quota;
mod quota_correction;
mod quota_tokens;
mod shared_concurrency;
mod shared_quota;
mod shared_slots;
mod shared_tokens;
mod token_source;
mod wait_queue;
mod waiter;
mod wfq;
#[cfg(test)]
mod wfq_tests;
mod workload;

pub(crate) use self::concurrency::ConcurrencyScheduler;
pub(crate) use self::load::LoadScheduler;
pub(crate) use self::quota::QuotaScheduler;
pub(crate) use self::shared_concurrency::SharedConcurrencyScheduler;
pub(crate) use self::shared_quota::SharedQuotaScheduler;
pub(crate) use self::waiter::Waiter;
pub(crate) use self::workload::{WorkloadRequest, Workloads};

use std::sync::Arc;

use super::clock::{DecisionTime, Nanos};
use super::component::PolicyComponent;
use super::decision::{ComponentDecision, DecisionWithSlot};
use super::engine_flow::EngineFlow;
use super::shared::{StoreAnswer, StoreAsk};
use super::workload_latency::{MeasuredWorkload, WorkloadLatency};

/// The result of scheduling a flow.
#[derive(Debug)]
pub(crate) enum ScheduleResult {
    Decided(DecisionWithSlot),
    Queued(Waiter),
    /// A shared store was asked. Its answer is passed to [`Scheduler::resume`].
    Asks(StoreAsk),
}

/// A component that queues the flows that it has no tokens or slots for.
pub(crate) trait Scheduler: PolicyComponent {
    /// Decides about the flow, puts it in a queue, or asks the shared store. The caller makes a
    /// flow that may not wait leave the queue.
    fn schedule(&self, flow: &EngineFlow<'_, '_>, time: &DecisionTime<'_>) -> ScheduleResult;

    /// Continues with the answer of the shared store.
    fn resume(
        &self,
        _flow: &EngineFlow<'_, '_>,
        _answer: StoreAnswer,
        _now: Nanos,
    ) -> ScheduleResult {
        // A scheduler that asks no store gets no answer.
        ScheduleResult::Decided(DecisionWithSlot::from(ComponentDecision::REJECTED))
    }

    /// Returns the workloads of its policy.
    fn workloads(&self) -> &Workloads;

    /// Returns the workload, tokens and priority of a flow.
    fn request<'a>(&'a self, flow: &EngineFlow<'a, '_>, now: Nanos) -> WorkloadRequest<'a> {
        self.workloads().request(flow, now, None)
    }

    /// Returns the latencies of the workloads, if they are measured.
    fn latency(&self) -> Option<&Arc<WorkloadLatency>> {
        None
    }

    /// Returns the workload that a flow is measured as, if workloads are measured.
    fn measured_workload(&self, flow: &EngineFlow<'_, '_>) -> Option<MeasuredWorkload> {
        let latency = self.latency()?;
        let request = self.workloads().request(flow, 0, None);
        Some(MeasuredWorkload {
            latency: Arc::clone(latency),
            name: Box::from(request.workload),
        })
    }
}
