//! Runs the program as a child process that ends with its test.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// A timeout that only a process that hangs reaches.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Returns a command for the program, with an empty environment.
pub(crate) fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tower-aperture-agent"));
    command.args(args).env_clear();
    command
}

/// Runs the program until it exits.
pub(crate) fn run(args: &[&str]) -> RunResult {
    RunResult::of(program(args))
}

/// The exit code and the output of a run of the program.
pub(crate) struct RunResult {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl RunResult {
    pub(crate) fn of(mut command: Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let kill_after = KillAfter::new(LONG, child.id());
        let output = child.wait_with_output().expect("the program exits");
        drop(kill_after);
        let Output {
            status,
            stdout,
            stderr,
        } = output;
        Self {
            code: status
                .code()
                .unwrap_or_else(|| panic!("{command:?} was killed: {stderr:?}")),
            out: String::from_utf8(stdout).expect("text"),
            err: String::from_utf8(stderr).expect("text"),
        }
    }
}

/// Kills a process that hangs, unless this value is dropped in time.
struct KillAfter(Option<mpsc::Sender<()>>, Option<thread::JoinHandle<()>>);

impl KillAfter {
    fn new(time: Duration, process: u32) -> Self {
        let (ended, waiting) = mpsc::channel();
        let watch = thread::spawn(move || {
            if waiting.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("kill")
                    .args(["-s", "KILL", &process.to_string()])
                    .status();
            }
        });
        Self(Some(ended), Some(watch))
    }
}

impl Drop for KillAfter {
    fn drop(&mut self) {
        drop(self.0.take());
        if let Some(watch) = self.1.take() {
            let _ = watch.join();
        }
    }
}

/// A folder that is removed at the end of its test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("agent-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    /// Writes a file atomically and returns its path.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let (path, new) = (self.0.join(name), self.0.join(format!(".{name}.new")));
        fs::write(&new, text).expect("a file");
        fs::rename(new, &path).expect("a file");
        path.to_str().expect("text").to_owned()
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("text")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running `serve` that listens.
pub(crate) struct Serving {
    child: Child,
    pub(crate) address: String,
    log: Arc<Mutex<String>>,
}

impl Serving {
    /// Serves the policies on a free port.
    pub(crate) fn start(policies: &str, more: &[&str]) -> Self {
        let mut args = vec!["serve", "--policies", policies, "--listen", "127.0.0.1:0"];
        args.extend(more);
        Self::of(program(&args))
    }

    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let log = Arc::new(Mutex::new(String::new()));
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let written = Arc::clone(&log);
        thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|read| read > 0) {
                written.lock().expect("no panic").push_str(&line);
                line.clear();
            }
        });
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut first = String::new();
        out.read_line(&mut first).expect("a line");
        // Keeps the pipe open.
        thread::spawn(move || out.read_to_string(&mut String::new()));
        let address = first
            .trim_end()
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("{first:?}, {:?}", log.lock()))
            .to_owned();
        Self {
            child,
            address,
            log,
        }
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no panic").clone()
    }

    /// Waits until the log contains `text` at least `times` times.
    pub(crate) fn wait_for_log(&self, text: &str, times: usize) {
        until(&format!("{text:?} is logged"), || {
            self.log().matches(text).count() >= times
        });
    }

    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args(["-s", signal, &self.child.id().to_string()])
            .status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits until the program exits.
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        let mut status = None;
        until("the program exits", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("the program exited")
    }

    /// Sends a GET over HTTP/1.1 and returns the status and the body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("the program listens");
        let call = format!("GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n");
        stream
            .write_all(call.as_bytes())
            .expect("the program reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.into());
        status
            .zip(body)
            .unwrap_or_else(|| panic!("{path}: {answer}"))
    }

    /// Runs `check` against the program.
    pub(crate) fn check(&self, args: &[&str]) -> RunResult {
        let mut all = vec!["check", "--addr", &self.address];
        all.extend(args);
        run(&all)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("--- log of the program\n{}", self.log());
        }
    }
}

/// Waits until `done` returns true.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LONG, "timed out waiting until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A policy that accepts `flows` flows at `checkout` for each user, and then none.
pub(crate) fn limit(flows: u32) -> String {
    format!(
        "
blueprint: rate-limiting/base
policy:
  policy_name: limit
  rate_limiter:
    bucket_capacity: {flows}
    fill_amount: 0
    parameters: {{interval: 3600s, limit_by_label_key: user_id}}
    selectors: [{{control_point: checkout}}]
"
    )
}
