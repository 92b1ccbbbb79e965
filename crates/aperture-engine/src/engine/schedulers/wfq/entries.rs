//! The requests of a queue, their flows and their workloads.

use super::arrival::FairnessQueue;
use super::tokens::TokenTotals;

#[derive(Debug)]
pub(super) struct WfqRequest<P> {
    pub(super) flow: usize,
    pub(super) cost: f64,
    pub(super) position: WfqPosition,
    /// How many newcomers had overtaken the queue of the flow when the request arrived.
    pub(super) overtakers: u32,
    /// The tokens as they count in [`TokenTotals`].
    pub(super) tokens: f64,
    pub(super) entered: TokenTotals,
    /// The totals of the workload when the request entered the queue of its flow.
    pub(super) behind_flow: TokenTotals,
    pub(super) fairness: Option<f64>,
    pub(super) payload: P,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum WfqPosition {
    InService,
    /// The index in the heap.
    Heap(usize),
    /// In the queue of its flow, with the previous and the next request.
    Fifo(Option<usize>, Option<usize>),
}

#[derive(Debug)]
pub(super) struct WfqFlow {
    pub(super) workload: usize,
    pub(super) fairness: FairnessQueue,
    pub(super) virtual_time: f64,
    /// The number of requests that wait or are in service.
    pub(super) pending: usize,
    pub(super) on_heap: bool,
    pub(super) first: Option<usize>,
    pub(super) last: Option<usize>,
    /// How many newcomers have overtaken the queue so far.
    pub(super) overtakers: u32,
}

#[derive(Debug)]
pub(super) struct WfqWorkload {
    pub(super) id: Box<str>,
    pub(super) flows: usize,
    /// The totals of the requests in the queues of its flows.
    pub(super) totals: TokenTotals,
}
