//! Starts servers on loopback, and kills them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aperture_redis::{Redis, RedisBuilder};

use crate::support::PATIENCE;

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
