//! Weighted fair queueing: decides which request is served next. Uses no clock and no futures.
//!
//! Each flow (the requests of a workload in one fairness queue) has a virtual time that advances by
//! the cost of its requests. The request that would finish first in virtual time is served first.
//! Among equals, the one that comes first in an array heap is served, so the way in which the heap
//! moves its entries is part of the contract.
//!
//! This file uses nothing else of the crate, so that recorded events can be replayed against it.

use std::collections::HashMap;

use ahash::RandomState;
use slab::Slab;
use smallvec::SmallVec;
use twox_hash::XxHash64;

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

/// Sums of queued and of admitted tokens. A request compares those at its entry with those at its
/// admission, to compute by how much priorities moved it.
#[derive(Clone, Copy, Debug, Default)]
struct TokenTotals {
    queued: f64,
    admitted: f64,
}

impl TokenTotals {
    /// Counts a request that enters and returns the totals before it.
    fn enter(&mut self, tokens: f64) -> Self {
        let before = *self;
        self.queued += tokens;
        before
    }

    /// Returns how many tokens a request that entered at `then` has overtaken by now: those queued
    /// before it, minus those admitted since.
    fn overtaken(&self, then: &Self) -> f64 {
        then.queued - (self.admitted - then.admitted)
    }

    fn leave(&mut self, tokens: f64, admitted: bool) {
        self.queued -= tokens;
        if admitted {
            self.admitted += tokens;
        }
    }
}

/// The difference between the order of service and the order of arrival, in tokens: positive for a
/// request that overtook others, negative for one that others overtook.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OvertakenTokens {
    /// Among all requests of the scheduler.
    pub(crate) workload: f64,
    /// Among the requests of its workload that waited in the queues of their flows; `None` for a
    /// request that did not wait in one.
    pub(crate) fairness: Option<f64>,
}

/// The largest cost of a request, and the largest virtual time before the times are reduced. Beyond
/// it, a float could soon not represent the cost of small requests any more.
pub(crate) const MAX_COST: f64 = (1_u64 << 40) as f64;

/// One of the 256 fairness queues of a workload; `None` for requests without a fairness label.
pub(crate) type FairnessQueue = Option<u8>;

#[derive(Debug)]
struct WfqRequest<P> {
    flow: usize,
    cost: f64,
    position: WfqPosition,
    /// How many newcomers had overtaken the queue of the flow when the request arrived.
    overtakers: u32,
    /// The tokens as they count in [`TokenTotals`].
    tokens: f64,
    entered: TokenTotals,
    /// The totals of the workload when the request entered the queue of its flow.
    behind_flow: TokenTotals,
    fairness: Option<f64>,
    payload: P,
}

#[derive(Clone, Copy, Debug)]
enum WfqPosition {
    InService,
    /// The index in the heap.
    Heap(usize),
    /// In the queue of its flow, with the previous and the next request.
    Fifo(Option<usize>, Option<usize>),
}

#[derive(Debug)]
struct WfqFlow {
    workload: usize,
    fairness: FairnessQueue,
    virtual_time: f64,
    /// The number of requests that wait or are in service.
    pending: usize,
    on_heap: bool,
    first: Option<usize>,
    last: Option<usize>,
    /// How many newcomers have overtaken the queue so far.
    overtakers: u32,
}

#[derive(Debug)]
struct WfqWorkload {
    id: Box<str>,
    flows: usize,
    /// The totals of the requests in the queues of its flows.
    totals: TokenTotals,
}

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
fn cost(arrival: &Arrival<'_>, queues: usize) -> f64 {
    let cost = arrival.tokens * arrival.inverse_priority * queues as f64;
    // A cost of zero would overtake all others.
    if cost.is_nan() {
        return MAX_COST;
    }
    cost.clamp(0.0, MAX_COST)
}

/// Returns the tokens as they count in sums: zero for negative ones, and at most [`MAX_COST`].
fn countable_tokens(tokens: f64) -> f64 {
    match tokens.is_nan() {
        true => 0.0,
        false => tokens.clamp(0.0, MAX_COST),
    }
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

    /// Puts a request behind the others of its flow.
    fn push_back(&mut self, flow: usize, request: usize) {
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

    fn flow_of(&mut self, arrival: &Arrival<'_>) -> usize {
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
    fn leave_flow(&mut self, at: usize) {
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

    fn pop_first(&mut self, flow: usize) -> Option<usize> {
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

    fn set_next(&mut self, request: usize, to: Option<usize>) {
        if let WfqPosition::Fifo(_, next) = &mut self.requests[request].position {
            *next = to;
        }
    }

    fn set_previous(&mut self, request: usize, to: Option<usize>) {
        if let WfqPosition::Fifo(previous, _) = &mut self.requests[request].position {
            *previous = to;
        }
    }

    fn push(&mut self, request: usize) {
        let WfqRequest { flow, cost, .. } = self.requests[request];
        let flow = &mut self.flows[flow];
        flow.on_heap = true;
        let finish = flow.virtual_time + cost;
        let at = self.heap.len();
        self.heap.push((finish, request));
        self.put(at, (finish, request));
        self.sift_up(at);
    }

    fn pop(&mut self) -> Option<usize> {
        let last = self.heap.len().checked_sub(1)?;
        self.swap(0, last);
        let (_, request) = self.heap.pop()?;
        self.sift_down(0);
        let WfqRequest { flow, position, .. } = &mut self.requests[request];
        *position = WfqPosition::InService;
        self.flows[*flow].on_heap = false;
        Some(request)
    }

    fn put(&mut self, at: usize, entry: (f64, usize)) {
        self.heap[at] = entry;
        self.requests[entry.1].position = WfqPosition::Heap(at);
    }

    fn swap(&mut self, a: usize, b: usize) {
        #[cfg(test)]
        {
            self.steps += 1;
        }
        let (first, second) = (self.heap[a], self.heap[b]);
        self.put(a, second);
        self.put(b, first);
    }

    fn less(&self, a: usize, b: usize) -> bool {
        self.heap[a].0 < self.heap[b].0
    }

    fn sift(&mut self, at: usize) {
        if !self.sift_down(at) {
            self.sift_up(at);
        }
    }

    fn sift_up(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if !self.less(at, parent) {
                return;
            }
            self.swap(at, parent);
            at = parent;
        }
    }

    fn sift_down(&mut self, from: usize) -> bool {
        let mut at = from;
        loop {
            let left = 2 * at + 1;
            let right = left + 1;
            if left >= self.heap.len() {
                break;
            }
            let child = if right < self.heap.len() && self.less(right, left) {
                right
            } else {
                left
            };
            if !self.less(child, at) {
                break;
            }
            self.swap(at, child);
            at = child;
        }
        at > from
    }
}
