//! The timeouts of `serve` after which connections are closed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::program::{Folder, LONG, Serving, limit, program};

/// Reads until the program closes the connection, and returns how long that took.
fn until_closed(stream: &mut TcpStream) -> Duration {
    let begun = Instant::now();
    stream.set_read_timeout(Some(LONG)).expect("a timeout");
    // A reset closes the connection too.
    if let Err(error) = stream.read_to_end(&mut Vec::new()) {
        let kind = error.kind();
        assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "{error}");
    }
    begun.elapsed()
}

/// Returns the value of a metric of the program.
fn metric(serving: &Serving, name: &str) -> f64 {
    let (_, metrics) = serving.get("/metrics");
    let mut lines = metrics.lines();
    let line = lines.find(|line| line.starts_with(&format!("tower_aperture_agent_{name}{{")));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("{name}: {metrics}"))
}

#[test]
fn a_connection_without_a_call_is_closed_after_the_idle_timeout() {
    let folder = Folder::new();
    let policies = folder.write("limit.yaml", limit(1));
    let serving = Serving::start(&policies, &["--idle-timeout", "1s"]);
    let mut idle = TcpStream::connect(&serving.address).expect("the program listens");
    let took = until_closed(&mut idle);
    assert!(took > Duration::from_millis(900), "{took:?}");
    assert_eq!(metric(&serving, "connections_idle_closed_total"), 1.0);
}

#[test]
fn a_connection_whose_response_is_not_read_is_closed_after_the_answer_timeout() {
    let folder = Folder::new();
    let policies = folder.write("limit.yaml", limit(1));
    let mut command = program(&["serve", "--policies", &policies, "--listen", "127.0.0.1:0"]);
    command
        .args(["--idle-timeout", "60m"])
        .env("TOWER_APERTURE_AGENT_ANSWER_TIMEOUT", "1s");
    let serving = Serving::of(command);
    let mut caller = TcpStream::connect(&serving.address).expect("the program listens");
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS with INITIAL_WINDOW_SIZE 1: the rest of the response cannot be sent.
    sent.extend([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1]);
    // HEADERS that end the stream: `:method: GET`, `:scheme: http`, `:path`, `:authority: a`.
    let headers = [&[0x82, 0x86, 0x04, 7][..], b"/health", &[0x01, 1], b"a"].concat();
    let length = u8::try_from(headers.len()).expect("few headers");
    sent.extend([0, 0, length, 1, 0x05, 0, 0, 0, 1]);
    sent.extend(headers);
    caller.write_all(&sent).expect("the program reads");
    let took = until_closed(&mut caller);
    assert!(took > Duration::from_millis(900), "{took:?}");
    assert_eq!(metric(&serving, "connections_untaken_closed_total"), 1.0);
}
