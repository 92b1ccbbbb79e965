//! Measures the cost of a check by the program `tower-aperture-agent`, compared with a bare tonic
//! unary call.
//!
//! Run with `cargo bench --bench agent`. One rate limiter decides, with 100 live keys unless a row
//! says otherwise. The same client calls both over loopback, in processes of
//! their own and in turn, so that changes in the machine's speed affect both. The bare service
//! takes the same request and responds immediately. Processor time is that of the serving process,
//! from `/proc`, where there is one.
//!
//! `cargo bench --bench agent -- --hostile` prints only the table of hostile callers: the memory
//! that they make the agent hold, compared with its budget, and the latency of a well-behaved
//! caller.
#![allow(clippy::print_stdout)]

#[path = "support/hostile.rs"]
mod hostile;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tower_aperture::pb::check::check_response::DecisionType;
use tower_aperture::pb::check::flow_control_service_client::FlowControlServiceClient;
use tower_aperture::pb::check::flow_control_service_server::{
    FlowControlService, FlowControlServiceServer,
};
use tower_aperture::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheLookupRequest, CacheLookupResponse,
    CacheUpsertRequest, CacheUpsertResponse, CheckRequest, CheckResponse, FlowEndRequest,
    FlowEndResponse,
};

const CALLS: usize = 10_000;
const ROUNDS: usize = 5;
const USERS: usize = 100;
const LIVE_KEYS: usize = 100_000;

/// The argument that makes this program serve the bare service.
const BARE: &str = "--serve-bare";
/// The argument that makes it measure hostile callers alone.
const HOSTILE: &str = "--hostile";

/// A service that responds immediately.
struct BareService;

#[tonic::async_trait]
impl FlowControlService for BareService {
    async fn check(&self, call: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(CheckResponse {
            control_point: call.into_inner().control_point,
            ..CheckResponse::default()
        }))
    }

    async fn flow_end(
        &self,
        _: Request<FlowEndRequest>,
    ) -> Result<Response<FlowEndResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cache_lookup(
        &self,
        _: Request<CacheLookupRequest>,
    ) -> Result<Response<CacheLookupResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cache_upsert(
        &self,
        _: Request<CacheUpsertRequest>,
    ) -> Result<Response<CacheUpsertResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cache_delete(
        &self,
        _: Request<CacheDeleteRequest>,
    ) -> Result<Response<CacheDeleteResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn serve_bare() {
    let runtime = Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime starts").block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("the listener is bound");
        println!("listening on {address}");
        let server = Server::builder()
            .add_service(FlowControlServiceServer::new(BareService))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        server.await.expect("the server runs");
    });
}

/// A server process, which is killed on drop.
struct ServerProcess {
    name: String,
    address: String,
    child: Child,
    client: FlowControlServiceClient<Channel>,
    /// The users whose flows are checked, each of which has a key.
    users: usize,
}

impl ServerProcess {
    fn start(runtime: &Runtime, name: &str, mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the process starts");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        out.read_line(&mut line).expect("a line");
        let address: SocketAddr = line
            .trim_end()
            .strip_prefix("listening on ")
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("{name}: {line:?}"));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let channel = runtime.block_on(endpoint.tcp_nodelay(true).connect());
        Self {
            name: name.to_owned(),
            address: address.to_string(),
            child,
            client: FlowControlServiceClient::new(channel.expect("the server listens")),
            users: USERS,
        }
    }

    fn bare(runtime: &Runtime) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg(BARE);
        Self::start(runtime, "bare unary call", command)
    }

    fn agent(runtime: &Runtime, name: &str, policies: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tower-aperture-agent"));
        command
            .env_clear()
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn"])
            .arg("--policies")
            .arg(policies);
        Self::start(runtime, name, command)
    }

    /// Sends a check for each of many users, so that all their keys are live.
    fn with_live_keys(mut self, runtime: &Runtime) -> Self {
        self.users = LIVE_KEYS;
        send_checks(runtime, &self, LIVE_KEYS, LIVE_KEYS, 64);
        self
    }

    /// Returns the processor time that the process has used.
    fn cpu_time(&self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The fields after the name, which may contain any character; times are in hundredths of a
        // second.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_millis((user + system) * 10))
    }

    /// Megabytes.
    fn resident_megabytes(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kilobytes: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kilobytes / 1024.0)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder of policy files, which is removed on drop.
struct PolicyFolder(PathBuf);

impl PolicyFolder {
    fn folder(name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("bench-policies-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// Creates a folder with one file.
    fn of(policy: &str) -> Self {
        let folder = Self::folder("one-file");
        fs::write(folder.join("policy.yaml"), policy).expect("a file");
        Self(folder)
    }

    /// Creates a folder with a policy for the flows of the bench, and others at control points of
    /// their own.
    fn new(number: usize) -> Self {
        let folder = Self::folder(&number.to_string());
        for at in 0..number {
            let point = match at {
                0 => "checkout".to_owned(),
                at => format!("elsewhere-{at}"),
            };
            let policy = format!(
                "
blueprint: rate-limiting/base
policy:
  policy_name: per-user-{at}
  rate_limiter:
    bucket_capacity: 1000000000
    fill_amount: 1000000000
    parameters: {{interval: 1s, limit_by_label_key: user_id}}
    selectors: [{{control_point: {point}}}]
"
            );
            fs::write(folder.join(format!("{at}.yaml")), policy).expect("a file");
        }
        Self(folder)
    }
}

impl Drop for PolicyFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn flow(user: usize) -> CheckRequest {
    CheckRequest {
        control_point: "checkout".to_owned(),
        labels: [
            ("user_id".to_owned(), user.to_string()),
            ("tier".to_owned(), "gold".to_owned()),
        ]
        .into(),
        expect_end: true,
        ..CheckRequest::default()
    }
}

/// Sends `calls` checks, `in_flight` of them concurrently, and returns their latencies.
fn send_checks(
    runtime: &Runtime,
    serving: &ServerProcess,
    calls: usize,
    users: usize,
    in_flight: usize,
) -> Vec<Duration> {
    let remaining = Arc::new(AtomicUsize::new(calls));
    runtime.block_on(async {
        let tasks = (0..in_flight).map(|_| {
            let (remaining, mut client) = (Arc::clone(&remaining), serving.client.clone());
            tokio::spawn(async move {
                let mut took = Vec::with_capacity(calls / in_flight + 1);
                while let Ok(left) =
                    remaining.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
                {
                    let flow = flow(left % users);
                    let started = Instant::now();
                    let answer = client.check(flow).await.expect("a response");
                    took.push(started.elapsed());
                    assert_eq!(answer.get_ref().decision_type(), DecisionType::Accepted);
                }
                took
            })
        });
        let mut took = Vec::with_capacity(calls);
        for task in tasks.collect::<Vec<_>>() {
            took.extend(task.await.expect("no call fails"));
        }
        took
    })
}

/// The measurements of all rounds.
#[derive(Default)]
struct CallMeasurements {
    took: Vec<Duration>,
    time: Duration,
    used: Option<Duration>,
}

impl CallMeasurements {
    fn per_second(&self) -> f64 {
        self.took.len() as f64 / self.time.as_secs_f64()
    }

    /// Microseconds.
    fn percentile_micros(&self, share: f64) -> f64 {
        self.took[(self.took.len() as f64 * share) as usize].as_secs_f64() * 1e6
    }

    /// Microseconds.
    fn cpu_micros_per_call(&self) -> Option<f64> {
        Some(self.used?.as_secs_f64() * 1e6 / self.took.len() as f64)
    }
}

fn measure(runtime: &Runtime, all: &[ServerProcess], in_flight: usize) -> Vec<CallMeasurements> {
    let mut figures: Vec<CallMeasurements> =
        all.iter().map(|_| CallMeasurements::default()).collect();
    for serving in all {
        send_checks(runtime, serving, CALLS / 2, serving.users, in_flight);
    }
    for _ in 0..ROUNDS {
        for (serving, figures) in all.iter().zip(&mut figures) {
            let (used, started) = (serving.cpu_time(), Instant::now());
            figures.took.extend(send_checks(
                runtime,
                serving,
                CALLS,
                serving.users,
                in_flight,
            ));
            figures.time += started.elapsed();
            let used = used
                .zip(serving.cpu_time())
                .map(|(before, now)| now - before);
            figures.used = used.map(|used| figures.used.unwrap_or_default() + used);
        }
    }
    for figures in &mut figures {
        figures.took.sort_unstable();
    }
    figures
}

/// Measures a well-behaved caller during each kind of attack. Returns false if one of them made the
/// agent hold more than its budget.
fn hostile_callers(runtime: &Runtime) -> bool {
    let folder = PolicyFolder::of(hostile::POLICY);
    println!(
        "\n{:<24} {:>10} {:>10} {:>7} {:>9} {:>9} {:>8}",
        "hostile callers", "resident", "budget", "", "p50 µs", "p99 µs", "refused"
    );
    // On a runtime of their own, as if they were on another machine.
    let attackers = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime starts");
    let mut within = true;
    for (kind, name, budget) in hostile::ATTACKS {
        let serving = ServerProcess::agent(runtime, "agent", &folder.0);
        send_checks(runtime, &serving, 100, USERS, 1);
        let before = serving.resident_megabytes().unwrap_or_default();
        let stop = Arc::new(AtomicBool::new(false));
        let attack = hostile::attack(kind, serving.address.clone(), Arc::clone(&stop));
        let attack = attackers.spawn(attack);
        let (mut took, mut refused, mut peak) = (Vec::new(), 0, before);
        let started = Instant::now();
        while !hostile::is_over(started) {
            let mut client = serving.client.clone();
            let started = Instant::now();
            let answer = runtime.block_on(client.check(flow(took.len() % USERS)));
            took.push(started.elapsed());
            refused += usize::from(answer.is_err());
            if took.len() % 16 == 0 {
                peak = peak.max(serving.resident_megabytes().unwrap_or_default());
            }
        }
        stop.store(true, Relaxed);
        let _ = runtime.block_on(attack);
        took.sort_unstable();
        let at = |share: f64| took[(took.len() as f64 * share) as usize].as_secs_f64() * 1e6;
        let held = peak - before;
        let fits = held <= budget;
        within &= fits && refused == 0;
        // A busy machine may delay calls; this is shown, but is not a failure.
        let fits = fits && at(0.99) <= hostile::MAX_P99.as_secs_f64() * 1e6;
        println!(
            "{name:<24} {:>10} {:>10} {:>7} {:>9.0} {:>9.0} {refused:>8}",
            format!("+{held:.1} MB"),
            format!("{budget:.0} MB"),
            if fits { "within" } else { "BEYOND" },
            at(0.5),
            at(0.99),
        );
        let _ = std::io::stdout().flush();
    }
    within
}

fn or_na(value: Option<f64>, unit: &str) -> String {
    value.map_or("n/a".to_owned(), |value| format!("{value:.1}{unit}"))
}

fn main() {
    if std::env::args().any(|arg| arg == BARE) {
        return serve_bare();
    }
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    if std::env::args().any(|arg| arg == HOSTILE) {
        assert!(hostile_callers(&runtime), "an attack exceeded the budget");
        return;
    }
    let (one, thousand) = (PolicyFolder::new(1), PolicyFolder::new(1000));
    let all = [
        ServerProcess::bare(&runtime),
        ServerProcess::agent(&runtime, "agent", &one.0),
        ServerProcess::agent(&runtime, "agent, 100 000 keys", &one.0).with_live_keys(&runtime),
        ServerProcess::agent(&runtime, "agent, 1000 policies", &thousand.0),
    ];
    println!(
        "{:<22} {:>9} {:>9} {:>7} {:>9} {:>9} {:>10} {:>7} {:>9}",
        "", "in flight", "calls/s", "ratio", "p50 µs", "p99 µs", "CPU µs", "ratio", "resident"
    );
    for in_flight in [1, 64, 512] {
        let figures = measure(&runtime, &all, in_flight);
        let bare = &figures[0];
        for (serving, figures) in all.iter().zip(&figures) {
            let used = figures.cpu_micros_per_call();
            let ratio = used
                .zip(bare.cpu_micros_per_call())
                .map(|(used, bare)| used / bare);
            println!(
                "{:<22} {in_flight:>9} {:>9.0} {:>6.2}x {:>9.1} {:>9.1} {:>10} {:>7} {:>9}",
                serving.name,
                figures.per_second(),
                figures.per_second() / bare.per_second(),
                figures.percentile_micros(0.5),
                figures.percentile_micros(0.99),
                or_na(used, ""),
                ratio.map_or("n/a".to_owned(), |ratio| format!("{ratio:.2}x")),
                or_na(serving.resident_megabytes(), " MB"),
            );
        }
        let _ = std::io::stdout().flush();
    }
    assert!(hostile_callers(&runtime), "an attack exceeded the budget");
}
