//! The one background task of a store: it sends what is queued, in one write for each server, and
//! keeps connections, leases, the subscription and the count of nodes.

mod cache;
mod cluster;
mod discovery;
mod events;
mod node;
mod operation;
mod request;
mod routing;
mod work;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

pub(crate) use self::cache::{CacheKind, CacheOperation, QueuedValue};
use self::cluster::SLOTS;
use self::node::Node;
pub(crate) use self::request::{Kind, Request};
use self::work::{LinkId, Work};
use crate::breaker::ProbeTimer;
use crate::shared::{Part, Shared, lock};

/// Operations that wait for the driver. When there are more, the store is unavailable to them.
pub(crate) const QUEUE: usize = 4096;
/// The most requests that wait for the connection of one node.
const WAITING: usize = QUEUE;
/// The most nodes of a cluster.
const NODES: usize = 1024;
/// The time between two searches for leases to renew.
const TICK: Duration = Duration::from_millis(250);
/// Every how many ticks this node is recorded and the subscription renewed if it failed: 3 s.
const TICKS_PER_HEARTBEAT: u32 = 12;
/// The time after which queues ask for slots again while the server announces no freed slots.
const POLL: Duration = Duration::from_millis(20);
/// The time that the last requests of a dropped store may take.
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
        let part = shared.part;
        let mut taken = Vec::with_capacity(part.pipeline());
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut polls = interval(POLL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let polling = self.polls();
            let probe_at = self.probe.as_ref().and_then(|probe| probe.at);
            tokio::select! {
                count = operations.recv_many(&mut taken, part.pipeline()), if self.pipelines < part.pipelines() => {
                    if count == 0 {
                        break;
                    }
                    // So that operations that are submitted one after the other share a write.
                    tokio::task::yield_now().await;
                    while taken.len() < part.pipeline() && let Ok(operation) = operations.try_recv() {
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
        if part == Part::Limits {
            self.route(Kind::Goodbye.into());
        }
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
        if self.shared.part == Part::Limits && self.may_send() {
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

    /// Asks for announcements of freed slots, by the first node with a connection.
    fn subscribe(&mut self) {
        if self.subscription != Subscription::Down || self.shared.part == Part::Caches {
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
