//! Weighted fair queueing: decides which request is served next. Uses no clock and no futures.
//!
//! Each flow (the requests of a workload in one fairness queue) has a virtual time that advances by
//! the cost of its requests. The request that would finish first in virtual time is served first.
//! Among equals, the one that comes first in an array heap is served, so the way in which the heap
//! moves its entries is part of the contract.
//!
//! This module uses nothing else of the crate, so that recorded events can be replayed against it.

mod arrival;
mod entries;
mod flows;
mod heap;
mod tokens;

use std::collections::HashMap;

use ahash::RandomState;
use slab::Slab;

use self::arrival::cost;
pub(crate) use self::arrival::{Arrival, FairnessQueue, MAX_COST, fairness_queue, workload_id};
use self::entries::{WfqFlow, WfqPosition, WfqRequest, WfqWorkload};
pub(crate) use self::tokens::OvertakenTokens;
use self::tokens::{TokenTotals, countable_tokens};

/// The requests of one scheduler that wait or are in service. `P` is a value that belongs to a
/// request.
#[derive(Debug)]
pub(crate) struct Wfq<P> {
    requests: Slab<WfqRequest<P>>,
    flows: Slab<WfqFlow>,
    workloads: Slab<WfqWorkload>,
    flow_ids: HashMap<(usize, FairnessQueue), usize, RandomState>,
    workload_ids: HashMap<Box<str>, usize, RandomState>,
    /// The next request of each flow that has one, with its finish time.
    heap: Vec<(f64, usize)>,
    virtual_time: f64,
    open: bool,
    generation: u64,
    /// How many newcomers may overtake a request while it waits in the queue of its flow.
    max_overtaking: u32,
    /// Requests served since the virtual times were last reduced.
    served: usize,
    /// Tokens of all requests here, and of the served ones, since the queue opened.
    totals: TokenTotals,
    #[cfg(test)]
    pub(crate) steps: u64,
}

impl<P> Wfq<P> {
    /// Creates a queue in which up to `max_overtaking` newcomers may overtake a waiting request,
    /// each while another request of its flow is in service. An Agent has no bound.
    pub(crate) fn new(max_overtaking: u32) -> Self {
        Self {
            requests: Slab::new(),
            flows: Slab::new(),
            workloads: Slab::new(),
            flow_ids: HashMap::default(),
            workload_ids: HashMap::default(),
            heap: Vec::new(),
            virtual_time: 0.0,
            open: false,
            generation: 0,
            max_overtaking,
            served: 0,
            totals: TokenTotals::default(),
            #[cfg(test)]
            steps: 0,
        }
    }

    /// Returns true if a request waits or is in service, so that newcomers have to queue.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Returns the virtual time, whether the queue is open, and how often it has closed.
    #[allow(dead_code)] // Recordings are compared by it.
    pub(crate) fn state(&self) -> (f64, bool, u64) {
        (self.virtual_time, self.open, self.generation)
    }

    pub(crate) fn payload(&self, request: usize) -> Option<&P> {
        Some(&self.requests.get(request)?.payload)
    }

    /// Adds a request and returns its index. The flag is true if the request opens the queue; it is
    /// then in service at once.
    pub(crate) fn arrive(&mut self, arrival: &Arrival<'_>, payload: P) -> (usize, bool) {
        let opens = !self.open;
        if opens {
            self.open = true;
            self.virtual_time = 0.0;
            self.totals = TokenTotals::default();
        }
        let flow = self.flow_of(arrival);
        let queues = self.workloads[self.flows[flow].workload].flows;
        let cost = cost(arrival, queues);
        let tokens = countable_tokens(arrival.tokens);
        let request = self.requests.insert(WfqRequest {
            flow,
            cost,
            position: WfqPosition::InService,
            overtakers: self.flows[flow].overtakers,
            tokens,
            entered: self.totals.enter(tokens),
            behind_flow: TokenTotals::default(),
            fairness: None,
            payload,
        });
        self.flows[flow].pending += 1;
        if opens {
            return (request, true);
        }
        if self.flows[flow].on_heap {
            self.push_back(flow, request);
            return (request, false);
        }
        // A request of the flow is in service and the flow has no next one on the heap. The
        // newcomer becomes the next one, before the waiting ones, unless too many newcomers did so
        // already. The first waiting request has waited the longest, so it was overtaken the most.
        if let Some(first) = self.flows[flow].first {
            let overtakers = &mut self.flows[flow].overtakers;
            let overtaken = overtakers.wrapping_sub(self.requests[first].overtakers);
            if overtaken >= self.max_overtaking {
                self.pop_first(flow);
                self.push(first);
                self.push_back(flow, request);
                return (request, false);
            }
            *overtakers = overtakers.wrapping_add(1);
        }
        self.push(request);
        (request, false)
    }

    /// Returns the order shift of a request that is served now. Call it before
    /// [`served`](Self::served).
    #[allow(dead_code)] // Recordings are compared by their order only.
    pub(crate) fn overtaken(&self, request: usize) -> Option<OvertakenTokens> {
        let request = self.requests.get(request)?;
        Some(OvertakenTokens {
            workload: self.totals.overtaken(&request.entered),
            fairness: request.fairness,
        })
    }

    /// Ends the service of a request, which was granted its tokens or not. Returns its payload and
    /// the next request in service.
    pub(crate) fn served(
        &mut self,
        request: usize,
        with_tokens: bool,
    ) -> (Option<P>, Option<usize>) {
        let Some(request) = self.requests.try_remove(request) else {
            return (None, None);
        };
        self.totals.leave(request.tokens, with_tokens);
        let flow = &mut self.flows[request.flow];
        if with_tokens {
            flow.virtual_time += request.cost;
            self.virtual_time = flow.virtual_time;
        }
        if !flow.on_heap
            && let Some(next) = self.pop_first(request.flow)
        {
            self.push(next);
        }
        self.leave_flow(request.flow);
        self.served = self.served.saturating_add(1);
        if self.virtual_time > MAX_COST {
            self.rebase_virtual_times();
        }
        let next = self.pop();
        if next.is_none() {
            self.open = false;
            self.generation += 1;
        }
        (Some(request.payload), next)
    }

    /// Removes a waiting request.
    pub(crate) fn cancel(&mut self, request: usize) -> Option<P> {
        let WfqRequest {
            flow,
            position,
            tokens,
            payload,
            ..
        } = self.requests.try_remove(request)?;
        self.totals.leave(tokens, false);
        match position {
            WfqPosition::InService => {}
            WfqPosition::Heap(at) => match self.pop_first(flow) {
                Some(next) => {
                    let finish = self.flows[flow].virtual_time + self.requests[next].cost;
                    self.put(at, (finish, next));
                    self.sift(at);
                }
                None => {
                    self.flows[flow].on_heap = false;
                    if let Some(last) = self.heap.pop()
                        && at < self.heap.len()
                    {
                        self.put(at, last);
                        self.sift(at);
                    }
                }
            },
            WfqPosition::Fifo(before, after) => {
                let workload = self.flows[flow].workload;
                self.workloads[workload].totals.leave(tokens, false);
                match before {
                    Some(before) => self.set_next(before, after),
                    None => self.flows[flow].first = after,
                }
                match after {
                    Some(after) => self.set_previous(after, before),
                    None => self.flows[flow].last = before,
                }
            }
        }
        self.leave_flow(flow);
        Some(payload)
    }

    /// Keeps virtual times within the precision of floats.
    ///
    /// Flows begin at the current virtual time. A request that costs more than all others together
    /// must not move that time away from the others. If it was the only one left, all times are
    /// reduced by what they have in common. This is rare enough to cost each request almost
    /// nothing.
    #[cold]
    fn rebase_virtual_times(&mut self) {
        if let Some((finish, _)) = self.heap.first() {
            self.virtual_time = self.virtual_time.min(*finish);
        }
        if self.virtual_time <= MAX_COST || self.served < self.flows.len() {
            return;
        }
        self.served = 0;
        let flows = self.flows.iter().map(|(_, flow)| flow.virtual_time);
        let common = flows.fold(self.virtual_time, f64::min);
        self.virtual_time -= common;
        for (_, flow) in &mut self.flows {
            flow.virtual_time -= common;
        }
        for (finish, _) in &mut self.heap {
            *finish -= common;
        }
    }
}
