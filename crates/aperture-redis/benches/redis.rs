//! Measures decisions by a store, beside the same script called on a bare connection of the client.
//!
//! Run with `cargo bench -p aperture-redis`. It starts a server on loopback, and does nothing without
//! `redis-server`. Times are medians of interleaved rounds; compare the ratios.
#![allow(clippy::print_stdout)]

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use aperture_engine::engine::RequestId;
use aperture_engine::engine::shared::{
    BucketSettings, EnterSlots, LeaveSlots, SharedStore, SlotListener, StoreKey, StoreOperation,
    StoreOutcome, StoreReply, TakeTokens, TokensMode,
};
use aperture_redis::Redis;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, oneshot};

const ROUNDS: usize = 9;
const CALLS: usize = 1000;
const HAND_OVERS: usize = 200;
const IN_FLIGHT: usize = 64;

struct Server(Child, u16);

impl Server {
    fn start() -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").ok()?;
        let port = listener.local_addr().ok()?.port();
        drop(listener);
        let mut command = Command::new("redis-server");
        command.args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--port",
        ]);
        command.arg(port.to_string()).stdout(Stdio::null());
        let server = Self(command.spawn().ok()?, port);
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}?protocol=resp3", self.1)
    }

    fn store(&self) -> Redis {
        let store = Redis::builder(self.url()).deadline(Duration::from_secs(5));
        store.build().expect("valid settings")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const BUCKET: BucketSettings = BucketSettings {
    capacity: 1e15,
    fill: 1e6,
    interval: Duration::from_secs(1),
    continuous: true,
    delayed: false,
    upstream: false,
    max_idle: Some(Duration::from_secs(7200)),
};

async fn ask(store: &Redis, operation: StoreOperation) -> StoreOutcome {
    let (sender, outcome) = oneshot::channel();
    let reply = StoreReply::new(move |outcome| drop(sender.send(outcome)));
    store.submit(operation, reply);
    let outcome = outcome.await.expect("each reply is completed");
    outcome.expect("the server answers")
}

async fn take(store: &Redis) {
    let take = TakeTokens {
        key: StoreKey::from_bytes([1; 16]),
        bucket: BUCKET,
        tokens: 1.0,
        mode: TokensMode::Immediate,
    };
    ask(store, StoreOperation::Take(take)).await;
}

/// Calls the script of a bucket on a connection of the client.
struct Bare {
    connection: MultiplexedConnection,
    hash: String,
    arguments: Vec<u8>,
}

impl Bare {
    async fn new(server: &Server) -> Self {
        let client = redis::Client::open(server.url()).expect("a valid URL");
        let mut connection = client
            .get_multiplexed_async_connection()
            .await
            .expect("the server listens");
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD")
            .arg(include_str!("../src/scripts/take.lua"));
        let hash = load.query_async(&mut connection).await.expect("a script");
        let numbers = [
            1.0, 0.0, 0.0, 7.2e12, -1.0, 0.0, 1e15, 1e6, 1e9, 1.0, 0.0, 0.0_f64,
        ];
        let arguments = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        Self {
            connection,
            hash,
            arguments,
        }
    }

    async fn call(&self) {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.hash).arg(1).arg("bare").arg(&self.arguments);
        let mut connection = self.connection.clone();
        connection
            .send_packed_command(&call)
            .await
            .expect("the server answers");
    }
}

/// Returns the time of each of so many calls, with some of them in flight.
async fn time_calls<F: Future<Output = ()>>(in_flight: usize, call: impl Fn() -> F) -> Duration {
    let began = Instant::now();
    let mut calls = FuturesUnordered::new();
    for _ in 0..CALLS {
        if calls.len() >= in_flight {
            calls.next().await;
        }
        calls.push(call());
    }
    while calls.next().await.is_some() {}
    began.elapsed() / CALLS as u32
}

#[derive(Default)]
struct Freed(Notify);

impl SlotListener for Freed {
    fn slots_freed(&self) {
        self.0.notify_one();
    }
}

/// Two stores that hand one slot to each other.
struct HandOver {
    stores: [Redis; 2],
    freed: [Arc<Freed>; 2],
}

fn new_id() -> RequestId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let text = format!("{number:08x}-7dec-41d0-a765-00a0c91e6bf6");
    text.parse().expect("a valid id")
}

impl HandOver {
    const KEY: StoreKey = StoreKey::from_bytes([2; 16]);

    fn new(server: &Server) -> Self {
        let stores = [server.store(), server.store()];
        let freed = stores.each_ref().map(|store| {
            let freed = Arc::new(Freed::default());
            let listener: Arc<dyn SlotListener> = freed.clone();
            let listener: Weak<dyn SlotListener> = Arc::downgrade(&listener);
            store.listen(Self::KEY, listener);
            freed
        });
        Self { stores, freed }
    }

    async fn enter(&self, store: usize) -> Option<RequestId> {
        let id = new_id();
        let operation = StoreOperation::Enter(EnterSlots {
            key: Self::KEY,
            id,
            tokens: 1.0,
            capacity: 1.0,
            lifetime: Duration::from_secs(3600),
            waits: true,
        });
        match ask(&self.stores[store], operation).await {
            StoreOutcome::Slots(slots) => slots.granted.then_some(id),
            _ => None,
        }
    }

    /// Returns the median time from the end of a flow at one store until the flow that waits at the
    /// other one has its slot.
    async fn run(&self) -> Duration {
        while !self.stores.iter().all(|store| store.stats().subscribed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut held = self.enter(0).await.expect("the slot is free");
        let mut times = Vec::new();
        for round in 0..HAND_OVERS {
            let (holder, waiter) = (round % 2, (round + 1) % 2);
            assert!(self.enter(waiter).await.is_none());
            let leave = LeaveSlots {
                key: Self::KEY,
                id: held,
            };
            let began = Instant::now();
            ask(&self.stores[holder], StoreOperation::Leave(leave)).await;
            held = loop {
                self.freed[waiter].0.notified().await;
                if let Some(id) = self.enter(waiter).await {
                    break id;
                }
            };
            times.push(began.elapsed());
        }
        median(times)
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::main]
async fn main() {
    let Some(server) = Server::start() else {
        println!("skipped: redis-server does not start");
        return;
    };
    let store = server.store();
    let bare = Bare::new(&server).await;
    take(&store).await;
    println!(
        "{:<44} {:>12} {:>12} {:>7}",
        "time per decision", "store", "bare script", "ratio"
    );
    let mut alone = Duration::ZERO;
    for in_flight in [1, IN_FLIGHT] {
        let (mut by_store, mut by_bare) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            by_store.push(time_calls(in_flight, || take(&store)).await);
            by_bare.push(time_calls(in_flight, || bare.call()).await);
        }
        let (by_store, by_bare) = (median(by_store), median(by_bare));
        if in_flight == 1 {
            alone = by_bare;
        }
        let ratio = by_store.as_secs_f64() / by_bare.as_secs_f64();
        let name = format!(
            "{in_flight} in flight ({:.0} decisions a second)",
            1.0 / by_store.as_secs_f64()
        );
        println!("{name:<44} {by_store:>12.1?} {by_bare:>12.1?} {ratio:>7.2}");
    }
    let handed = HandOver::new(&server).run().await;
    let ratio = handed.as_secs_f64() / alone.as_secs_f64();
    let name = "a slot handed over between two stores";
    println!("{name:<44} {handed:>12.1?} {alone:>12.1?} {ratio:>7.2}");
}
