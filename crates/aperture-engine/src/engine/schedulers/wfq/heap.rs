//! The array heap of the next requests. Requests know their index in it.

use super::Wfq;
use super::entries::{WfqPosition, WfqRequest};

impl<P> Wfq<P> {
    pub(super) fn push(&mut self, request: usize) {
        let WfqRequest { flow, cost, .. } = self.requests[request];
        let flow = &mut self.flows[flow];
        flow.on_heap = true;
        let finish = flow.virtual_time + cost;
        let at = self.heap.len();
        self.heap.push((finish, request));
        self.put(at, (finish, request));
        self.sift_up(at);
    }

    pub(super) fn pop(&mut self) -> Option<usize> {
        let last = self.heap.len().checked_sub(1)?;
        self.swap(0, last);
        let (_, request) = self.heap.pop()?;
        self.sift_down(0);
        let WfqRequest { flow, position, .. } = &mut self.requests[request];
        *position = WfqPosition::InService;
        self.flows[*flow].on_heap = false;
        Some(request)
    }

    pub(super) fn put(&mut self, at: usize, entry: (f64, usize)) {
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

    pub(super) fn sift(&mut self, at: usize) {
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
