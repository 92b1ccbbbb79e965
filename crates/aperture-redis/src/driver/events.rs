//! Handles connections that open, answer or end.

use futures_util::future::AbortHandle;
use redis::Value;

use super::node::{Link, OpenLink};
use super::request::{Handled, Kind};
use super::work::{Answered, Event, LinkId};
use super::{Driver, Subscription, work};
use crate::connect::{ConnectError, Opened};
use crate::shared::{Part, lock};

impl Driver {
    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Connected(node, Ok(opened)) => self.connected(node, opened),
            Event::Connected(node, Err(error)) => self.not_connected(node, &error),
            Event::Closed(link) => self.close(link),
            Event::Answered(answered) => self.answered(answered),
            Event::Subscribed(link, true) if self.nodes[link.node].has(link) => {
                self.set_subscription(Subscription::Up(link));
                // Nothing was announced until now.
                self.shared.freed.call_all();
            }
            Event::Subscribed(link, _) => {
                if self.subscription == Subscription::Asking(link) {
                    self.set_subscription(Subscription::Down);
                }
            }
        }
    }

    pub(super) fn connected(&mut self, at: usize, opened: Opened) {
        let Opened {
            connection,
            serve,
            hashes,
        } = opened;
        self.links += 1;
        let id = LinkId {
            node: at,
            number: self.links,
        };
        let (serving, abort) = AbortHandle::new_pair();
        self.work.push(work::serve(id, serve, abort));
        self.nodes[at].opened(OpenLink {
            id,
            connection,
            hashes: hashes.into(),
            serving,
        });
        // Before anything else, because the server may have started anew, without this node's slots.
        let waiting = std::mem::take(&mut self.nodes[at].outgoing);
        lock(&self.shared.leases).all_due();
        self.renew();
        self.nodes[at].outgoing.extend(waiting);
        if self.shared.part == Part::Limits {
            self.route(Kind::Heartbeat.into());
        }
        self.subscribe();
    }

    pub(super) fn not_connected(&mut self, at: usize, error: &ConnectError) {
        let node = &mut self.nodes[at];
        node.close(self.shared.random());
        log_event!(
            debug,
            address = node.address.to_string(),
            %error,
            "no connection to the Redis store"
        );
        self.fail_all(at, &error.to_string());
        if self.shared.settings.cluster {
            self.discover();
        }
    }

    /// Gives a connection up, or notices that it is closed.
    pub(super) fn close(&mut self, link: LinkId) {
        let node = &mut self.nodes[link.node];
        if !node.has(link) {
            return;
        }
        node.link = Link::Closed { retry_at: None };
        if matches!(self.subscription, Subscription::Up(own) | Subscription::Asking(own) if own == link)
        {
            self.set_subscription(Subscription::Down);
            self.subscribe();
        }
    }

    pub(super) fn answered(&mut self, answered: Answered) {
        let Answered {
            link,
            requests,
            replies,
            late,
        } = answered;
        self.pipelines -= 1;
        let Some(replies) = replies else {
            self.close(link);
            for request in requests {
                self.fail(request, "a connection failed");
            }
            return;
        };
        if !late {
            self.shared.breaker.record_answer();
        }
        for (request, reply) in requests.into_iter().zip(replies) {
            match (&request.kind, &reply) {
                (Kind::Ping, Value::ServerError(_)) => self.probe_failed(),
                (Kind::Ping, _) if late => self.probe_failed(),
                (Kind::Ping, _) => self.probe_answered(),
                (Kind::ClusterSlots, _) => self.discovered(link, &reply, late),
                _ => {
                    let handled = request.handle(&self.shared, reply);
                    self.follow_up(link, handled);
                }
            }
        }
    }

    pub(super) fn follow_up(&mut self, link: LinkId, handled: Handled) {
        match handled {
            Handled::Done => {}
            Handled::Again(request) => self.queue(link.node, request),
            Handled::Moved(mut request, address) => {
                request.resent += 1;
                request.asking = false;
                let slot = self.hash_slot(&request);
                match (slot, self.node_at(&address, link.node)) {
                    (Some(slot), Some(node)) => {
                        self.hash_slots[slot] = node as u16;
                        self.queue(node, request);
                        self.discover();
                    }
                    _ => self.fail(request, "it is a node of a cluster: set `cluster_nodes`"),
                }
            }
            Handled::Ask(mut request, address) => {
                request.resent += 1;
                request.asking = true;
                match self.node_at(&address, link.node) {
                    Some(node) => self.queue(node, request),
                    None => self.fail(request, "the address of a node is wrong"),
                }
            }
            Handled::NotServing(request) => {
                // The next connection may lead to another server, or to the same one later.
                if self.nodes[link.node].has(link) {
                    self.close(link);
                    self.nodes[link.node].close(self.shared.random());
                }
                self.fail(request, "the server does not serve requests now");
                if self.shared.settings.cluster {
                    self.discover();
                }
            }
        }
    }
}
