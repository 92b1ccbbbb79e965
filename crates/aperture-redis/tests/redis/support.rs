//! Starts servers, and submits operations to stores.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
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

/// Longer than anything here takes on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server of its own, which is killed at the end of the test.
pub(crate) struct Server {
    child: Child,
    folder: PathBuf,
    pub(crate) port: u16,
    options: Vec<String>,
    tls: bool,
}

impl Server {
    /// Starts a server. Returns `None`, and says so, if there is no `redis-server`.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with further options.
    pub(crate) fn start_with(options: &[&str]) -> Option<Self> {
        Self::start_in(new_folder(), options, false)
    }

    /// Starts a server in a folder that it removes at the end. With `tls` it listens with TLS only.
    pub(crate) fn start_in(folder: PathBuf, options: &[&str], tls: bool) -> Option<Self> {
        if !installed() {
            let _ = std::fs::remove_dir_all(folder);
            return None;
        }
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        for _ in 0..20 {
            let port = free_port();
            let mut child = spawn(&folder, port, &options, tls);
            if listens(&mut child, port, tls) {
                return Some(Self {
                    child,
                    folder,
                    port,
                    options,
                    tls,
                });
            }
        }
        panic!("redis-server does not start");
    }

    /// Kills the server, at once and without a farewell.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts the killed server anew, empty, at the same port.
    pub(crate) fn restart(&mut self) {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            self.child = spawn(&self.folder, self.port, &self.options, self.tls);
            if listens(&mut self.child, self.port, self.tls) {
                return;
            }
        }
        panic!("redis-server does not start anew");
    }

    /// Stops the server's process, so that it keeps its connections and answers nothing.
    pub(crate) fn pause(&self) {
        signal(&self.child, "-STOP");
    }

    pub(crate) fn resume(&self) {
        signal(&self.child, "-CONT");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns a builder with a deadline that no slow machine misses.
    pub(crate) fn builder(&self) -> RedisBuilder {
        Redis::builder(self.url()).deadline(Duration::from_secs(5))
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

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn installed() -> bool {
    let mut version = Command::new("redis-server");
    version
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if version.status().is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(
        std::env::var_os("APERTURE_REQUIRE_REDIS").is_none_or(|value| value != "1"),
        "there is no redis-server on the path, and APERTURE_REQUIRE_REDIS is set"
    );
    // Past the harness, which keeps the output of tests that pass.
    let _ = writeln!(
        std::io::stderr(),
        "skipped: there is no redis-server on the path"
    );
    false
}

pub(crate) fn new_folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("aperture-redis-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).expect("the system has a folder for temporary files");
    folder
}

/// Returns a port that is free now. A cluster's node also uses the one that is 10 000 higher.
fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback works");
        let port = listener.local_addr().expect("it is bound").port();
        if port < 55_000 {
            return port;
        }
    }
}

fn spawn(folder: &Path, port: u16, options: &[String], tls: bool) -> Child {
    let port = port.to_string();
    let ports: [&str; 4] = match tls {
        true => ["--port", "0", "--tls-port", &port],
        false => ["--port", &port, "--tcp-backlog", "128"],
    };
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.args(ports).args(options).arg("--dir").arg(folder);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("redis-server is installed")
}

/// Returns false if the server ends before it listens.
fn listens(child: &mut Child, port: u16, tls: bool) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return false;
        }
        if answers(port, tls) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// Returns true if a server at the port accepts a connection and, unless it expects TLS, answers.
fn answers(port: u16, tls: bool) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    if tls {
        return true;
    }
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let _ = stream.write_all(b"PING\r\n");
    let mut reply = [0; 16];
    match stream.read(&mut reply) {
        Ok(count) => !reply[..count].starts_with(b"-LOADING"),
        Err(_) => false,
    }
}

fn signal(child: &Child, signal: &str) {
    let mut kill = Command::new("kill");
    let sent = kill.arg(signal).arg(child.id().to_string()).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill {signal}");
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
