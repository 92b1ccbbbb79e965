//! Connects stores to servers, and submits operations to them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use aperture_engine::engine::RequestId;
use aperture_engine::engine::shared::{
    BucketSettings, EnterSlots, LeaveSlots, SharedStore, SlotListener, SlotsOutcome, StoreError,
    StoreKey, StoreOperation, StoreOutcome, StoreReply, TakeTokens, TokensMode, TokensOutcome,
};
use aperture_redis::{Redis, RedisBuilder};

pub(crate) use crate::server::{PATIENCE, Server, new_folder};

impl Server {
    /// Returns a builder with times that no slow machine misses.
    pub(crate) fn builder(&self) -> RedisBuilder {
        let builder = Redis::builder(self.url()).connect_timeout(PATIENCE);
        builder.deadline(Duration::from_secs(10))
    }

    pub(crate) fn store(&self) -> Redis {
        self.builder().build().expect("valid settings")
    }

    /// Adds a user by its rules.
    pub(crate) fn add_user(&self, rules: &str) {
        let words: Vec<&str> = ["ACL", "SETUSER"]
            .into_iter()
            .chain(rules.split(' '))
            .collect();
        let () = self.command(&words);
    }

    /// Runs a command on a connection of its own.
    pub(crate) fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.url()).expect("a valid URL");
        let mut connection = client.get_connection().expect("the server listens");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut connection).expect("a valid command")
    }
}

/// Submits an operation. Its outcome comes on the channel.
pub(crate) fn submit(
    store: &Redis,
    operation: StoreOperation,
) -> mpsc::Receiver<Result<StoreOutcome, StoreError>> {
    let (sender, receiver) = mpsc::channel();
    let reply = StoreReply::new(move |outcome| {
        let _ = sender.send(outcome);
    });
    store.submit(operation, reply);
    receiver
}

/// Submits an operation and waits for its outcome.
pub(crate) fn run(store: &Redis, operation: StoreOperation) -> Result<StoreOutcome, StoreError> {
    let outcome = submit(store, operation).recv_timeout(PATIENCE);
    outcome.expect("each reply is completed")
}

pub(crate) fn key(number: u64) -> StoreKey {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    StoreKey::from_bytes(bytes)
}

/// Returns an id that no other call returns.
pub(crate) fn new_id() -> RequestId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let text = format!("{number:08x}-7dec-41d0-a765-{:012x}", std::process::id());
    text.parse().expect("a valid id")
}

/// Returns the settings of a bucket that fills continuously by so many tokens a second.
pub(crate) const fn bucket(capacity: f64, fill: f64) -> BucketSettings {
    BucketSettings {
        capacity,
        fill,
        interval: Duration::from_secs(1),
        continuous: true,
        delayed: false,
        upstream: false,
        max_idle: Some(Duration::from_secs(7200)),
    }
}

pub(crate) const fn take_operation(
    key: StoreKey,
    bucket: BucketSettings,
    tokens: f64,
    mode: TokensMode,
) -> StoreOperation {
    StoreOperation::Take(TakeTokens {
        key,
        bucket,
        tokens,
        mode,
    })
}

pub(crate) fn take_with(
    store: &Redis,
    key: StoreKey,
    bucket: BucketSettings,
    tokens: f64,
    mode: TokensMode,
) -> TokensOutcome {
    match run(store, take_operation(key, bucket, tokens, mode)) {
        Ok(StoreOutcome::Tokens(outcome)) => outcome,
        other => panic!("no outcome of taking tokens: {other:?}"),
    }
}

pub(crate) fn take(
    store: &Redis,
    key: StoreKey,
    bucket: BucketSettings,
    tokens: f64,
) -> TokensOutcome {
    take_with(store, key, bucket, tokens, TokensMode::Immediate)
}

pub(crate) fn enter_operation(key: StoreKey, capacity: f64) -> EnterSlots {
    EnterSlots {
        key,
        id: new_id(),
        tokens: 1.0,
        capacity,
        lifetime: Duration::from_secs(3600),
        waits: false,
    }
}

pub(crate) fn enter_with(store: &Redis, operation: EnterSlots) -> SlotsOutcome {
    match run(store, StoreOperation::Enter(operation)) {
        Ok(StoreOutcome::Slots(outcome)) => outcome,
        other => panic!("no outcome of taking a slot: {other:?}"),
    }
}

/// Takes a slot for one token. Returns its id if it was granted.
pub(crate) fn enter(store: &Redis, key: StoreKey, capacity: f64) -> Option<RequestId> {
    let operation = enter_operation(key, capacity);
    enter_with(store, operation).granted.then_some(operation.id)
}

pub(crate) fn leave(store: &Redis, key: StoreKey, id: RequestId) -> bool {
    match run(store, StoreOperation::Leave(LeaveSlots { key, id })) {
        Ok(StoreOutcome::Left(held)) => held,
        other => panic!("no outcome of returning a slot: {other:?}"),
    }
}

/// Waits until a condition holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "in vain waited until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Counts its calls.
#[derive(Default)]
pub(crate) struct Calls(AtomicU32);

impl Calls {
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Listens for freed slots of a key, while the value lives.
    pub(crate) fn listen(store: &Redis, key: StoreKey) -> Arc<Self> {
        let calls = Arc::new(Self::default());
        let listener: Arc<dyn SlotListener> = calls.clone();
        let listener: Weak<dyn SlotListener> = Arc::downgrade(&listener);
        store.listen(key, listener);
        calls
    }
}

impl SlotListener for Calls {
    fn slots_freed(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
