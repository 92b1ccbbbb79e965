//! Weighted fair queueing: who is served next. No clocks and no futures here.
//!
//! Each flow (a workload's flows of one fairness queue) has a virtual time that advances by what
//! its requests cost; the request that would be finished first in virtual time is served first.
//! Of equals that one is served which is first in an array heap, so how the heap moves its entries
//! is part of the contract.
//!
//! This file needs nothing of the crate, so that recorded events can be replayed against it.

use std::collections::HashMap;

use ahash::RandomState;
use slab::Slab;
use smallvec::SmallVec;
use twox_hash::XxHash64;

/// The requests of one scheduler that wait or are being served; `P` is whatever goes with one.
#[derive(Debug)]
pub(crate) struct Wfq<P> {
    requests: Slab<Request<P>>,
    flows: Slab<Flow>,
    workloads: Slab<Workload>,
    flow_ids: HashMap<(usize, Fairness), usize, RandomState>,
    workload_ids: HashMap<Box<str>, usize, RandomState>,
    /// The next request of each flow that has one, by its finish time.
    heap: Vec<(f64, usize)>,
    virtual_time: f64,
    open: bool,
    generation: u64,
    /// Newcomers that may overtake a request while it waits in its flow's queue.
    overtaking: u32,
    /// Requests served since virtual times were made shorter.
    served: usize,
    /// Tokens of all requests here, and of those served, since the queue opened.
    passage: Passage,
    #[cfg(test)]
    pub(crate) steps: u64,
}

/// Tokens that are queued, and tokens that were admitted: what a request compares at its entry and
/// at its admission to tell by how much priorities moved it.
#[derive(Clone, Copy, Debug, Default)]
struct Passage {
    queued: f64,
    admitted: f64,
}

impl Passage {
    /// A request enters; returns what it remembers.
    fn enter(&mut self, tokens: f64) -> Self {
        let before = *self;
        self.queued += tokens;
        before
    }

    /// Returns how many tokens a request that entered then has overtaken by now: those that were
    /// queued before it, less those that were admitted meanwhile.
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

/// By how much the order of service differs from the order of arrival, in tokens: more than zero
/// for a request that overtook others, less for one that others overtook.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Overtaken {
    /// Among all requests of the scheduler.
    pub(crate) workload: f64,
    /// Among those of its workload that waited in the queue of their flow; `None` for a request
    /// that did not.
    pub(crate) fairness: Option<f64>,
}

/// What a request costs at most, and a virtual time that is long: beyond it, what small requests
/// cost would soon be less than a float can tell.
pub(crate) const LONGEST: f64 = (1_u64 << 40) as f64;

/// One of 256 queues of a workload, or the one of those without a fairness label.
pub(crate) type Fairness = Option<u8>;

#[derive(Debug)]
struct Request<P> {
    flow: usize,
    cost: f64,
    place: Place,
    /// Newcomers that had overtaken the flow's queue when it came.
    overtakers: u32,
    /// What counts of its tokens in a [`Passage`].
    tokens: f64,
    entered: Passage,
    /// Entered the queue of its flow.
    lined_up: Passage,
    fairness: Option<f64>,
    payload: P,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    InService,
    /// Where in the heap.
    Heap(usize),
    /// In its flow's queue, between these.
    Fifo(Option<usize>, Option<usize>),
}

#[derive(Debug)]
struct Flow {
    workload: usize,
    fairness: Fairness,
    virtual_time: f64,
    /// Waiting and in service.
    pending: usize,
    on_heap: bool,
    first: Option<usize>,
    last: Option<usize>,
    /// Newcomers that have overtaken the queue so far.
    overtakers: u32,
}

#[derive(Debug)]
struct Workload {
    id: Box<str>,
    flows: usize,
    /// Of the requests in the queues of its flows.
    passage: Passage,
}

/// What a request brings along.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    /// See [`workload_id`].
    pub(crate) workload: &'a str,
    pub(crate) fairness: Fairness,
    pub(crate) tokens: f64,
    /// 1 / priority.
    pub(crate) inverse: f64,
}

/// Requests of one label with priorities that are told apart.
pub(crate) fn workload_id(label: &str, inverse: f64) -> String {
    format!("{label}-{inverse:.6}")
}

/// What a request adds to the virtual time of its flow: nothing where its tokens are negative, and
/// at most [`LONGEST`].
fn cost(arrival: &Arrival<'_>, queues: usize) -> f64 {
    let cost = arrival.tokens * arrival.inverse * queues as f64;
    // A cost of zero would overtake all others.
    if cost.is_nan() {
        return LONGEST;
    }
    cost.clamp(0.0, LONGEST)
}

/// What counts of tokens in sums: nothing of negative ones, and at most [`LONGEST`].
fn counted(tokens: f64) -> f64 {
    match tokens.is_nan() {
        true => 0.0,
        false => tokens.clamp(0.0, LONGEST),
    }
}

/// Which of the queues of a workload a fairness label goes to.
pub(crate) fn queue_of(label: &str, seed: u32) -> Option<u8> {
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
    /// A queue in which so many newcomers may overtake a request that waits, each while another
    /// request of its flow is in service. An Agent has no bound.
    pub(crate) fn new(overtaking: u32) -> Self {
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
            overtaking,
            served: 0,
            passage: Passage::default(),
            #[cfg(test)]
            steps: 0,
        }
    }

    /// Somebody waits or is being served, so newcomers have to queue.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Virtual time, whether it is open, and how often it has closed.
    #[allow(dead_code)] // Recordings are compared by it.
    pub(crate) fn state(&self) -> (f64, bool, u64) {
        (self.virtual_time, self.open, self.generation)
    }

    pub(crate) fn payload(&self, request: usize) -> Option<&P> {
        Some(&self.requests.get(request)?.payload)
    }

    /// A request comes. True when it opens the queue, and so is in service already.
    pub(crate) fn arrive(&mut self, arrival: &Arrival<'_>, payload: P) -> (usize, bool) {
        let opens = !self.open;
        if opens {
            self.open = true;
            self.virtual_time = 0.0;
            self.passage = Passage::default();
        }
        let flow = self.flow_of(arrival);
        let queues = self.workloads[self.flows[flow].workload].flows;
        let cost = cost(arrival, queues);
        let tokens = counted(arrival.tokens);
        let request = self.requests.insert(Request {
            flow,
            cost,
            place: Place::InService,
            overtakers: self.flows[flow].overtakers,
            tokens,
            entered: self.passage.enter(tokens),
            lined_up: Passage::default(),
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
        // One of the flow is in service, and it has no next one yet: the newcomer becomes that,
        // before those that wait, unless too many did so. The first one has waited for longest, so
        // it was overtaken most.
        if let Some(first) = self.flows[flow].first {
            let overtakers = &mut self.flows[flow].overtakers;
            let overtaken = overtakers.wrapping_sub(self.requests[first].overtakers);
            if overtaken >= self.overtaking {
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

    /// The request waits behind the others of its flow.
    fn push_back(&mut self, flow: usize, request: usize) {
        let last = self.flows[flow].last.replace(request);
        let workload = self.flows[flow].workload;
        let tokens = self.requests[request].tokens;
        let lined_up = self.workloads[workload].passage.enter(tokens);
        self.requests[request].lined_up = lined_up;
        self.requests[request].place = Place::Fifo(last, None);
        match last {
            Some(last) => self.set_next(last, Some(request)),
            None => self.flows[flow].first = Some(request),
        }
    }

    /// Returns by how much the order of service differs for a request that is served now; asked
    /// before [`served`](Self::served).
    #[allow(dead_code)] // Recordings are compared by their order only.
    pub(crate) fn overtaken(&self, request: usize) -> Option<Overtaken> {
        let request = self.requests.get(request)?;
        Some(Overtaken {
            workload: self.passage.overtaken(&request.entered),
            fairness: request.fairness,
        })
    }

    /// The service of a request has ended, with its tokens or without; tells who is next.
    pub(crate) fn served(
        &mut self,
        request: usize,
        with_tokens: bool,
    ) -> (Option<P>, Option<usize>) {
        let Some(request) = self.requests.try_remove(request) else {
            return (None, None);
        };
        self.passage.leave(request.tokens, with_tokens);
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
        if self.virtual_time > LONGEST {
            self.shorten();
        }
        let next = self.pop();
        if next.is_none() {
            self.open = false;
            self.generation += 1;
        }
        (Some(request.payload), next)
    }

    /// A request that waits goes away.
    pub(crate) fn cancel(&mut self, request: usize) -> Option<P> {
        let Request {
            flow,
            place,
            tokens,
            payload,
            ..
        } = self.requests.try_remove(request)?;
        self.passage.leave(tokens, false);
        match place {
            Place::InService => {}
            Place::Heap(at) => match self.pop_first(flow) {
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
            Place::Fifo(before, after) => {
                let workload = self.flows[flow].workload;
                self.workloads[workload].passage.leave(tokens, false);
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

    /// Keeps virtual time within what floats can tell.
    ///
    /// Flows begin at the virtual time, which a request that costs more than all others together
    /// must not carry away from them. When it was the only one left, all times go back by what they
    /// have in common: seldom enough that it costs each request next to nothing.
    #[cold]
    fn shorten(&mut self) {
        if let Some((finish, _)) = self.heap.first() {
            self.virtual_time = self.virtual_time.min(*finish);
        }
        if self.virtual_time <= LONGEST || self.served < self.flows.len() {
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
                let at = self.workloads.insert(Workload {
                    id: id.clone(),
                    flows: 0,
                    passage: Passage::default(),
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
        let at = self.flows.insert(Flow {
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

    /// One request of the flow is gone; the last one takes the flow along.
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
        let next = match self.requests[first].place {
            Place::Fifo(_, next) => next,
            Place::InService | Place::Heap(_) => None,
        };
        self.flows[flow].first = next;
        match next {
            Some(next) => self.set_previous(next, None),
            None => self.flows[flow].last = None,
        }
        let passage = &mut self.workloads[self.flows[flow].workload].passage;
        let request = &mut self.requests[first];
        request.fairness = Some(passage.overtaken(&request.lined_up));
        passage.leave(request.tokens, true);
        Some(first)
    }

    fn set_next(&mut self, request: usize, to: Option<usize>) {
        if let Place::Fifo(_, next) = &mut self.requests[request].place {
            *next = to;
        }
    }

    fn set_previous(&mut self, request: usize, to: Option<usize>) {
        if let Place::Fifo(previous, _) = &mut self.requests[request].place {
            *previous = to;
        }
    }

    fn push(&mut self, request: usize) {
        let Request { flow, cost, .. } = self.requests[request];
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
        let Request { flow, place, .. } = &mut self.requests[request];
        *place = Place::InService;
        self.flows[*flow].on_heap = false;
        Some(request)
    }

    fn put(&mut self, at: usize, entry: (f64, usize)) {
        self.heap[at] = entry;
        self.requests[entry.1].place = Place::Heap(at);
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
