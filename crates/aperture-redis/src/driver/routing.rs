//! Queues requests for the server that has their key, and sends them.

use std::sync::Arc;

use super::cluster::hash_slot;
use super::node::{Link, Node};
use super::request::{Kind, Request};
use super::{Driver, WAITING, work};

impl Driver {
    /// Queues a request for the node that has its key.
    pub(super) fn route(&mut self, request: Request) {
        let Some(slot) = self.hash_slot(&request) else {
            return self.queue(0, request);
        };
        match self.hash_slots.get(slot) {
            Some(node) if usize::from(*node) < self.nodes.len() => {
                self.queue(usize::from(*node), request);
            }
            // All leases are renewed as soon as there is a connection.
            _ if matches!(request.kind, Kind::Renew(_)) => self.discover(),
            _ if self.unrouted.len() < WAITING => {
                self.unrouted.push(request);
                self.discover();
            }
            _ => self.fail(request, "too many requests wait for its nodes"),
        }
    }

    /// Returns the hash slot of a request in a cluster.
    pub(super) fn hash_slot(&self, request: &Request) -> Option<usize> {
        if self.hash_slots.is_empty() {
            return None;
        }
        request.key(&self.shared).map(|key| hash_slot(&key))
    }

    pub(super) fn queue(&mut self, node: usize, request: Request) {
        let Node { link, outgoing, .. } = &mut self.nodes[node];
        match &request.kind {
            // All leases are renewed as soon as there is a connection.
            Kind::Renew(_) if matches!(link, Link::Connecting) => {}
            // Bounded by the slots of this node, and by the time that a reply may take.
            Kind::Renew(_) => outgoing.push(request),
            _ if outgoing.len() < WAITING => outgoing.push(request),
            _ => self.fail(request, "too many requests wait for a connection"),
        }
    }

    /// Sends what is queued to nodes with a connection, connects others, and fails what cannot be
    /// sent, until nothing changes.
    pub(super) fn flush(&mut self) {
        let mut changed = true;
        while changed {
            changed = false;
            for node in 0..self.nodes.len() {
                changed |= !self.nodes[node].outgoing.is_empty() && self.flush_node(node);
            }
        }
    }

    /// Returns true if it did something.
    pub(super) fn flush_node(&mut self, at: usize) -> bool {
        let available = self.shared.breaker.is_available();
        let part = self.shared.part;
        let node = &mut self.nodes[at];
        match &node.link {
            Link::Connecting => false,
            Link::Open(_) if self.pipelines >= part.pipelines() => false,
            Link::Open(link) => {
                let count = node.outgoing.len().min(part.pipeline());
                let mut requests = Vec::with_capacity(count);
                for request in node.outgoing.drain(..count) {
                    if request.is_worth_sending(&self.shared) {
                        requests.push(request);
                    } else {
                        request.fail(&self.shared);
                    }
                }
                if requests.is_empty() {
                    return true;
                }
                let shared = Arc::clone(&self.shared);
                let connection = link.connection.clone();
                let sent = work::send(shared, link.id, connection, &link.hashes, requests);
                self.work.push(sent);
                self.pipelines += 1;
                true
            }
            Link::Closed { .. } => {
                let probes = |r: &Request| matches!(r.kind, Kind::Ping | Kind::ClusterSlots);
                if node.may_connect() && (available || node.outgoing.iter().any(probes)) {
                    let shared = Arc::clone(&self.shared);
                    let connecting = work::connect(shared, at, node.address.clone());
                    self.work.push(connecting);
                    node.link = Link::Connecting;
                } else {
                    self.fail_all(at, "there is no connection");
                }
                true
            }
        }
    }

    pub(super) fn fail_all(&mut self, node: usize, reason: &str) {
        for request in std::mem::take(&mut self.nodes[node].outgoing) {
            self.fail(request, reason);
        }
    }

    /// Completes a request that cannot be answered.
    pub(super) fn fail(&mut self, request: Request, reason: &str) {
        self.shared.record_failure(reason);
        match request.kind {
            Kind::Ping => self.probe_failed(),
            Kind::ClusterSlots => self.discovery_failed(),
            _ => request.fail(&self.shared),
        }
    }
}
