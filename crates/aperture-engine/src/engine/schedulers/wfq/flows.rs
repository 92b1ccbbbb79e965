//! The flows and workloads of the requests, and the queue of requests that each flow has behind the
//! one on the heap.

use super::entries::{WfqFlow, WfqPosition, WfqWorkload};
use super::tokens::TokenTotals;
use super::{Arrival, Wfq};

impl<P> Wfq<P> {
    pub(super) fn flow_of(&mut self, arrival: &Arrival<'_>) -> usize {
        let workload = match self.workload_ids.get(arrival.workload) {
            Some(at) => *at,
            None => {
                let id: Box<str> = arrival.workload.into();
                let at = self.workloads.insert(WfqWorkload {
                    id: id.clone(),
                    flows: 0,
                    totals: TokenTotals::default(),
                });
                self.workload_ids.insert(id, at);
                at
            }
        };
        let key = (workload, arrival.fairness);
        if let Some(at) = self.flow_ids.get(&key) {
            return *at;
        }
        self.workloads[workload].flows += 1;
        let at = self.flows.insert(WfqFlow {
            workload,
            fairness: arrival.fairness,
            virtual_time: self.virtual_time,
            pending: 0,
            on_heap: false,
            first: None,
            last: None,
            overtakers: 0,
        });
        self.flow_ids.insert(key, at);
        at
    }

    /// Removes one request from the count of its flow, and the flow with its last request.
    pub(super) fn leave_flow(&mut self, at: usize) {
        let flow = &mut self.flows[at];
        flow.pending -= 1;
        if flow.pending > 0 {
            return;
        }
        let flow = self.flows.remove(at);
        self.flow_ids.remove(&(flow.workload, flow.fairness));
        let workload = &mut self.workloads[flow.workload];
        workload.flows -= 1;
        if workload.flows == 0 {
            let workload = self.workloads.remove(flow.workload);
            self.workload_ids.remove(&workload.id);
        }
    }

    pub(super) fn pop_first(&mut self, flow: usize) -> Option<usize> {
        let first = self.flows[flow].first?;
        let next = match self.requests[first].position {
            WfqPosition::Fifo(_, next) => next,
            WfqPosition::InService | WfqPosition::Heap(_) => None,
        };
        self.flows[flow].first = next;
        match next {
            Some(next) => self.set_previous(next, None),
            None => self.flows[flow].last = None,
        }
        let totals = &mut self.workloads[self.flows[flow].workload].totals;
        let request = &mut self.requests[first];
        request.fairness = Some(totals.overtaken(&request.behind_flow));
        totals.leave(request.tokens, true);
        Some(first)
    }

    pub(super) fn set_next(&mut self, request: usize, to: Option<usize>) {
        if let WfqPosition::Fifo(_, next) = &mut self.requests[request].position {
            *next = to;
        }
    }

    pub(super) fn set_previous(&mut self, request: usize, to: Option<usize>) {
        if let WfqPosition::Fifo(previous, _) = &mut self.requests[request].position {
            *previous = to;
        }
    }

    /// Puts a request behind the others of its flow.
    pub(super) fn push_back(&mut self, flow: usize, request: usize) {
        let last = self.flows[flow].last.replace(request);
        let workload = self.flows[flow].workload;
        let tokens = self.requests[request].tokens;
        let behind_flow = self.workloads[workload].totals.enter(tokens);
        self.requests[request].behind_flow = behind_flow;
        self.requests[request].position = WfqPosition::Fifo(last, None);
        match last {
            Some(last) => self.set_next(last, Some(request)),
            None => self.flows[flow].first = Some(request),
        }
    }
}
