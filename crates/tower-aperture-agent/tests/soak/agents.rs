//! Runs agents as child processes, each behind its own link.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tonic::transport::Endpoint;
use tower_aperture::pb::check::flow_control_service_client::FlowControlServiceClient;
use tower_aperture::pb::check::limiter_decision::Details;
use tower_aperture::pb::check::{CheckRequest, FlowEndRequest, InflightRequestRef};

use crate::account::{Account, Incarnation, Point};
use crate::link::Link;

/// Delay of a link in each direction.
pub(crate) const DELAY: Duration = Duration::from_millis(20);

/// Time after which a slot expires if its flow was not ended. All flows of this test are much
/// shorter.
pub(crate) const EXPIRY: Duration = Duration::from_secs(5);

/// The limits of each agent process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum number of flows in flight at [`Point::Slots`].
    pub(crate) slots: usize,
    /// Maximum number of flows in flight at [`Point::Queue`], where other flows wait.
    pub(crate) queue: usize,
    /// Capacity of the bucket at [`Point::Rate`].
    pub(crate) capacity: usize,
    /// Tokens per second of that bucket.
    pub(crate) fill: usize,
}

impl Limits {
    fn policy(&self) -> String {
        let Self {
            slots,
            queue,
            capacity,
            fill,
        } = self;
        let expiry = EXPIRY.as_secs();
        format!(
            "
circuit:
  components:
  - flow_control:
      concurrency_limiter:
        selectors: [{{control_point: {slots_point}}}]
        in_ports: {{max_concurrency: {{constant_signal: {{value: {slots}}}}}}}
        parameters: {{max_inflight_duration: {expiry}s}}
  - flow_control:
      concurrency_scheduler:
        selectors: [{{control_point: {queue_point}}}]
        in_ports: {{max_concurrency: {{constant_signal: {{value: {queue}}}}}}}
        concurrency_limiter: {{max_inflight_duration: {expiry}s}}
        scheduler: {{default_workload_parameters: {{queue_timeout: 1s}}}}
  - flow_control:
      rate_limiter:
        selectors: [{{control_point: {rate_point}}}]
        in_ports:
          bucket_capacity: {{constant_signal: {{value: {capacity}}}}}
          fill_amount: {{constant_signal: {{value: {fill}}}}}
        parameters: {{interval: 1s}}
",
            slots_point = Point::Slots.name(),
            queue_point = Point::Queue.name(),
            rate_point = Point::Rate.name(),
        )
    }
}

/// An address at which agent processes follow one another.
///
/// Each process names its policy after itself, and its answers contain that name: `a3` is the third
/// process of agent `a`.
pub(crate) struct Agent {
    letter: char,
    started: u32,
    pub(crate) link: Link,
    folder: PathBuf,
    limits: Limits,
    running: Option<Running>,
}

struct Running {
    child: Child,
    address: SocketAddr,
    incarnation: Arc<Incarnation>,
}

impl Agent {
    pub(crate) fn start(letter: char, limits: Limits, handle: &Handle, account: &Account) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("soak-{}-{number}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).expect("a folder");
        let mut agent = Self {
            letter,
            started: 0,
            link: Link::new(handle, DELAY),
            folder,
            limits,
            running: None,
        };
        agent.start_next(account);
        agent
    }

    /// Starts the next process and connects the link to it.
    pub(crate) fn start_next(&mut self, account: &Account) {
        let program = program();
        self.started += 1;
        let name = format!("{}{}", self.letter, self.started);
        let policy = self.folder.join(format!("{name}.yaml"));
        fs::write(&policy, self.limits.policy()).expect("a file");
        let incarnation = account.add_incarnation(name);
        let mut child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0"])
            // Connections that a link has lost delay the shutdown by this grace period.
            .args(["--shutdown-grace", "2s", "--policies"])
            .arg(&policy)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the agent starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let read = stdout.read_line(&mut line);
        child.stdout = Some(stdout.into_inner());
        let address = line.trim_end().strip_prefix("listening on ");
        let address = address.and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("{read:?}: {line:?}"));
        self.running = Some(Running {
            child,
            address,
            incarnation,
        });
        self.link.connect_to(address);
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the agent runs")
    }

    pub(crate) fn incarnation(&self) -> &Arc<Incarnation> {
        &self.running().incarnation
    }

    pub(crate) fn signal(&self, signal: &str) {
        let process = self.running().child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &process]).status();
        assert!(sent.expect("kill runs").success(), "{signal}");
    }

    /// Kills the process with SIGKILL. The link refuses connections from then on.
    pub(crate) fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.child.kill().expect("a child");
            self.link.refuse();
            running.child.wait().expect("a child");
        }
    }

    /// Sends SIGTERM and waits until the process ends. The link refuses connections from then on.
    pub(crate) fn terminate(&mut self) {
        self.signal("TERM");
        self.link.refuse();
        if let Some(mut running) = self.running.take() {
            running.child.wait().expect("a child");
        }
    }

    /// Returns how many slots flows hold, at both control points that have slots.
    ///
    /// Sends a check directly to the agent, not through the link. Its answer contains the number of
    /// tokens that were in use before it.
    pub(crate) async fn held_slots(&self) -> f64 {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.running().address));
        let endpoint = endpoint.expect("an address").timeout(EXPIRY);
        let channel = endpoint.connect().await.expect("the agent listens");
        let mut agent = FlowControlServiceClient::new(channel);
        let mut held = 0.0;
        for point in [Point::Slots, Point::Queue] {
            let check = CheckRequest {
                control_point: point.name().to_owned(),
                expect_end: true,
                ..CheckRequest::default()
            };
            let answer = agent.check(check).await.expect("an answer").into_inner();
            let [decision] = &*answer.limiter_decisions else {
                panic!("expected the decision of one limiter: {answer:?}");
            };
            let (tokens, label, request_id) = match decision.details.as_ref().expect("details") {
                Details::ConcurrencyLimiterInfo(info) => {
                    (info.tokens_info, &info.label, &info.request_id)
                }
                Details::ConcurrencySchedulerInfo(info) => {
                    (info.tokens_info, &info.label, &info.request_id)
                }
                other => panic!("expected a limiter with slots: {other:?}"),
            };
            let tokens = tokens.expect("tokens");
            held += tokens.current;
            let reference = InflightRequestRef {
                policy_name: decision.policy_name.clone(),
                policy_hash: decision.policy_hash.clone(),
                component_id: decision.component_id.clone(),
                label: label.clone(),
                request_id: request_id.clone(),
                tokens: tokens.consumed,
            };
            let end = FlowEndRequest {
                control_point: point.name().to_owned(),
                inflight_requests: vec![reference],
            };
            agent.flow_end(end).await.expect("an answer");
        }
        held
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // SIGKILL also ends a process that SIGSTOP has stopped.
        if let Some(running) = &mut self.running {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Incarnation {
    /// Waits until the process has answered more than `answers` checks; returns `false` at the
    /// timeout.
    pub(crate) fn wait_for_answer(&self, answers: u64, timeout: Duration) -> bool {
        let began = Instant::now();
        while self.answers() <= answers {
            if began.elapsed() > timeout {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// Returns the path of the agent's program.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tower-aperture-agent"))
}
