//! Learns which node of a cluster has which keys.

use redis::Value;

use super::cluster::slot_ranges;
use super::node::Node;
use super::request::Kind;
use super::work::LinkId;
use super::{Driver, NODES, UNKNOWN};
use crate::address::Address;

impl Driver {
    /// Returns the index of a node that another one named. Adds it if it is new.
    pub(super) fn node_at(&mut self, address: &str, by: usize) -> Option<usize> {
        if !self.shared.settings.cluster {
            return None;
        }
        let address = Address::of_node(address, &self.nodes[by].address)?;
        self.node(address)
    }

    pub(super) fn node(&mut self, address: Address) -> Option<usize> {
        let known = self.nodes.iter().position(|node| node.address == address);
        if known.is_none() && self.nodes.len() >= NODES {
            return None;
        }
        Some(known.unwrap_or_else(|| {
            self.nodes.push(Node::new(address));
            self.nodes.len() - 1
        }))
    }

    /// Asks a node of the cluster which node has which keys, unless that is under way.
    pub(super) fn discover(&mut self) {
        if self.discovery.under_way {
            return;
        }
        self.discovery.under_way = true;
        let from = self.discovery.next % self.nodes.len();
        let places = (from..self.nodes.len()).chain(0..from);
        // A node with a connection answers soonest. They take turns.
        let open = |place: &usize| self.nodes[*place].open_link().is_some();
        let node = places.into_iter().find(open).unwrap_or(from);
        self.discovery.next = node + 1;
        self.queue(node, Kind::ClusterSlots.into());
    }

    pub(super) fn discovery_failed(&mut self) {
        self.discovery.under_way = false;
        self.discovery.failures += 1;
        if self.discovery.failures < self.nodes.len() {
            return self.discover();
        }
        self.discovery.failures = 0;
        self.probe_failed();
        for request in std::mem::take(&mut self.unrouted) {
            self.fail(request, "no node of the cluster answers");
        }
    }

    pub(super) fn discovered(&mut self, link: LinkId, reply: &Value, late: bool) {
        let ranges = slot_ranges(reply);
        if ranges.is_empty() {
            return self.discovery_failed();
        }
        self.discovery.under_way = false;
        self.discovery.failures = 0;
        let by = self.nodes[link.node].address.clone();
        self.hash_slots.fill(UNKNOWN);
        for range in ranges {
            if let Some(node) = self.node(Address::of_host(&range.host, range.port, &by)) {
                self.hash_slots[range.first..=range.last].fill(node as u16);
            }
        }
        if late {
            self.probe_failed();
        } else {
            self.probe_answered();
        }
        for request in std::mem::take(&mut self.unrouted) {
            match self.hash_slot(&request).map(|slot| self.hash_slots[slot]) {
                Some(UNKNOWN) => self.fail(request, "no node of the cluster has its keys"),
                _ => self.route(request),
            }
        }
    }
}
