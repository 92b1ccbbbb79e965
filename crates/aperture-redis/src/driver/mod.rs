//! The one background task of a store: it sends what is queued, in one write for each server, and
//! keeps connections, leases, the subscription and the count of nodes.

mod cluster;
mod node;
mod request;
mod work;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::AbortHandle;
use futures_util::stream::FuturesUnordered;
use redis::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use self::cluster::{SLOTS, hash_slot, slot_ranges};
use self::node::{Link, Node, OpenLink};
pub(crate) use self::request::Request;
use self::request::{Handled, Kind};
use self::work::{Answered, Event, LinkId, Work};
use crate::address::Address;
use crate::breaker::ProbeTimer;
use crate::connect::{ConnectError, Opened};
use crate::shared::{Shared, lock};

/// Operations that wait for the driver. When there are more, the store is unavailable to them.
pub(crate) const QUEUE: usize = 4096;
/// The most requests of one pipeline.
const PIPELINE: usize = 256;
/// The most pipelines without a reply. Further operations stay in the queue.
const PIPELINES: usize = 64;
/// The most requests that wait for the connection of one node.
const WAITING: usize = QUEUE;
/// The most nodes of a cluster.
const NODES: usize = 1024;
/// How often leases are looked through.
const TICK: Duration = Duration::from_millis(250);
/// Every how many ticks this node is recorded and the subscription renewed if it failed: 3 s.
const TICKS_PER_HEARTBEAT: u32 = 12;
/// How often queues ask for slots while no freed slots are announced.
const POLL: Duration = Duration::from_millis(20);
/// How long the last requests of a store may take after it was dropped.
const FAREWELL: Duration = Duration::from_secs(1);
/// Marks a hash slot without a known node.
const UNKNOWN: u16 = u16::MAX;

/// Runs until the store is dropped.
pub(crate) async fn run(shared: Arc<Shared>, operations: mpsc::Receiver<Request>) {
    Driver::new(shared).run(operations).await;
}

struct Driver {
    shared: Arc<Shared>,
    nodes: Vec<Node>,
    /// The index of the node that has each hash slot of a cluster; empty without a cluster.
    hash_slots: Vec<u16>,
    /// Requests that wait until it is known which node has their keys.
    unrouted: Vec<Request>,
    discovery: Discovery,
    work: FuturesUnordered<Work>,
    /// Pipelines without a reply.
    pipelines: usize,
    links: u64,
    subscription: Subscription,
    probe: Option<Probe>,
    ticks: u32,
}

/// The question which node of a cluster has which keys.
#[derive(Default)]
struct Discovery {
    under_way: bool,
    /// Nodes that did not answer it in a row.
    failures: usize,
    /// The node to ask next.
    next: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Subscription {
    Down,
    Asking(LinkId),
    Up(LinkId),
}

/// The probes of a server that was given up.
struct Probe {
    timer: ProbeTimer,
    /// When the next one is sent; `None` while one is under way.
    at: Option<Instant>,
}

impl Driver {
    fn new(shared: Arc<Shared>) -> Self {
        let addresses = shared.settings.addresses.iter();
        let nodes = addresses.cloned().map(Node::new).collect();
        let hash_slots = match shared.settings.cluster {
            true => vec![UNKNOWN; SLOTS],
            false => Vec::new(),
        };
        Self {
            nodes,
            hash_slots,
            unrouted: Vec::new(),
            discovery: Discovery::default(),
            work: FuturesUnordered::new(),
            pipelines: 0,
            links: 0,
            subscription: Subscription::Down,
            probe: None,
            ticks: 0,
            shared,
        }
    }

    async fn run(mut self, mut operations: mpsc::Receiver<Request>) {
        let shared = Arc::clone(&self.shared);
        let mut taken = Vec::with_capacity(PIPELINE);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut polls = interval(POLL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let polling = self.polls();
            let probe_at = self.probe.as_ref().and_then(|probe| probe.at);
            tokio::select! {
                count = operations.recv_many(&mut taken, PIPELINE), if self.pipelines < PIPELINES => {
                    if count == 0 {
                        break;
                    }
                    // So that operations that are submitted one after the other share a write.
                    tokio::task::yield_now().await;
                    while taken.len() < PIPELINE && let Ok(operation) = operations.try_recv() {
                        taken.push(operation);
                    }
                    for operation in taken.drain(..) {
                        operation.begin(&shared);
                        self.route(operation);
                    }
                }
                Some(event) = self.work.next() => self.handle(event),
                _ = ticks.tick() => self.tick(),
                _ = polls.tick(), if polling => shared.freed.call_all(),
                () = shared.wake.notified() => {}
                () = sleep_until(probe_at.unwrap_or_else(Instant::now)), if probe_at.is_some() => {
                    self.send_probe();
                }
            }
            self.flush();
        }
        self.route(Kind::Goodbye.into());
        self.flush();
        let farewell = async {
            while self.pipelines > 0
                && let Some(event) = self.work.next().await
            {
                self.handle(event);
                self.flush();
            }
        };
        // What is not answered by then is dropped, which completes it.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        self.set_subscription(Subscription::Down);
    }

    /// Returns true while queues must ask for slots, because freed ones are not announced.
    fn polls(&self) -> bool {
        !matches!(self.subscription, Subscription::Up(_)) && !self.shared.freed.is_empty()
    }

    fn tick(&mut self) {
        if !self.shared.breaker.is_available() && self.probe.is_none() {
            let mut timer = ProbeTimer::default();
            let at = Some(Instant::now() + timer.next_wait(self.shared.random()));
            self.probe = Some(Probe { timer, at });
        }
        let heartbeat = self.ticks.is_multiple_of(TICKS_PER_HEARTBEAT);
        self.ticks = self.ticks.wrapping_add(1);
        if heartbeat {
            self.shared.freed.prune();
            self.subscribe();
        }
        if self.may_send() {
            // A server that has lost its data learns soon which slots this node holds.
            let alone = self.nodes.len() == 1 && self.nodes[0].open_link().is_none();
            if heartbeat || alone {
                self.route(Kind::Heartbeat.into());
            }
            self.renew();
        }
    }

    /// Returns true if requests that no flow waits for are worth sending: there is a connection, or
    /// one may be tried.
    fn may_send(&self) -> bool {
        self.shared.breaker.is_available() || self.nodes.iter().any(|n| n.open_link().is_some())
    }

    fn renew(&mut self) {
        let due = lock(&self.shared.leases).take_due(self.shared.now());
        for renewal in due {
            self.route(Kind::Renew(renewal).into());
        }
    }

    /// Queues a request for the node that has its key.
    fn route(&mut self, request: Request) {
        let Some(slot) = self.hash_slot(&request) else {
            return self.queue(0, request);
        };
        match self.hash_slots.get(slot) {
            Some(node) if usize::from(*node) < self.nodes.len() => {
                self.queue(usize::from(*node), request);
            }
            _ if self.unrouted.len() < WAITING => {
                self.unrouted.push(request);
                self.discover();
            }
            _ => self.fail(request, "too many requests wait for its nodes"),
        }
    }

    /// Returns the hash slot of a request in a cluster.
    fn hash_slot(&self, request: &Request) -> Option<usize> {
        if self.hash_slots.is_empty() {
            return None;
        }
        request.key(&self.shared).map(|key| hash_slot(&key))
    }

    fn queue(&mut self, node: usize, request: Request) {
        let outgoing = &mut self.nodes[node].outgoing;
        if outgoing.len() < WAITING {
            outgoing.push(request);
        } else {
            self.fail(request, "too many requests wait for a connection");
        }
    }

    /// Sends what is queued to nodes with a connection, connects others, and fails what cannot be
    /// sent, until nothing changes.
    fn flush(&mut self) {
        let mut changed = true;
        while changed {
            changed = false;
            for node in 0..self.nodes.len() {
                changed |= !self.nodes[node].outgoing.is_empty() && self.flush_node(node);
            }
        }
    }

    /// Returns true if it did something.
    fn flush_node(&mut self, at: usize) -> bool {
        let available = self.shared.breaker.is_available();
        let node = &mut self.nodes[at];
        match &node.link {
            Link::Connecting => false,
            Link::Open(_) if self.pipelines >= PIPELINES => false,
            Link::Open(link) => {
                let count = node.outgoing.len().min(PIPELINE);
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

    fn fail_all(&mut self, node: usize, reason: &str) {
        for request in std::mem::take(&mut self.nodes[node].outgoing) {
            self.fail(request, reason);
        }
    }

    /// Completes a request that cannot be answered.
    fn fail(&mut self, request: Request, reason: &str) {
        self.shared.record_failure(reason);
        match request.kind {
            Kind::Ping => self.probe_failed(),
            Kind::ClusterSlots => self.discovery_failed(),
            _ => request.fail(&self.shared),
        }
    }

    fn handle(&mut self, event: Event) {
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

    fn connected(&mut self, at: usize, opened: Opened) {
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
        self.route(Kind::Heartbeat.into());
        self.subscribe();
    }

    fn not_connected(&mut self, at: usize, error: &ConnectError) {
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
    fn close(&mut self, link: LinkId) {
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

    fn answered(&mut self, answered: Answered) {
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

    fn follow_up(&mut self, link: LinkId, handled: Handled) {
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

    /// Returns the index of a node that another one named. Adds it if it is new.
    fn node_at(&mut self, address: &str, by: usize) -> Option<usize> {
        if !self.shared.settings.cluster {
            return None;
        }
        let address = Address::of_node(address, &self.nodes[by].address)?;
        self.node(address)
    }

    fn node(&mut self, address: Address) -> Option<usize> {
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
    fn discover(&mut self) {
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

    fn discovery_failed(&mut self) {
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

    fn discovered(&mut self, link: LinkId, reply: &Value, late: bool) {
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

    /// Asks for announcements of freed slots, by the first node with a connection.
    fn subscribe(&mut self) {
        if self.subscription != Subscription::Down {
            return;
        }
        let Some(link) = self.nodes.iter().find_map(Node::open_link) else {
            return;
        };
        let (id, connection) = (link.id, link.connection.clone());
        let shared = Arc::clone(&self.shared);
        self.work.push(work::subscribe(shared, id, connection));
        self.set_subscription(Subscription::Asking(id));
    }

    fn set_subscription(&mut self, subscription: Subscription) {
        self.subscription = subscription;
        let up = matches!(subscription, Subscription::Up(_));
        let subscribed = &self.shared.counters.subscribed;
        subscribed.store(up, Ordering::Relaxed);
    }

    fn send_probe(&mut self) {
        let Some(probe) = &mut self.probe else {
            return;
        };
        probe.at = None;
        if self.shared.settings.cluster {
            self.discover();
        } else {
            self.queue(0, Kind::Ping.into());
        }
    }

    fn probe_failed(&mut self) {
        let random = self.shared.random();
        if let Some(probe) = &mut self.probe {
            let wait = probe.timer.next_wait(random);
            probe.at = Some(Instant::now() + wait);
        }
    }

    fn probe_answered(&mut self) {
        if self.probe.take().is_some() {
            // First, so that the slots of this node count before new flows ask.
            lock(&self.shared.leases).all_due();
            self.renew();
            self.shared.record_return();
        }
    }
}
