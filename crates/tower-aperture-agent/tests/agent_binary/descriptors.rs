//! The program when it has no free file descriptors.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::program::{Folder, Serving, limit, until};

const NOT_ACCEPTED: &str = "a connection cannot be accepted";

#[test]
fn the_program_logs_a_lack_of_descriptors_once_and_recovers() {
    let folder = Folder::new();
    let policies = folder.write("limit.yaml", limit(1));
    let mut command = Command::new("sh");
    command
        .env_clear()
        .args(["-c", "ulimit -n 48 && exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_tower-aperture-agent"))
        .args(["serve", "--listen", "127.0.0.1:0", "--policies", &policies]);
    let serving = Serving::of(command);
    let connections: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(&serving.address).expect("the kernel accepts the connection"))
        .collect();
    serving.wait_for_log(NOT_ACCEPTED, 1);
    // The agent retries ten times a second.
    let begun = Instant::now();
    until("a second and a half has passed", || {
        begun.elapsed() > Duration::from_millis(1500)
    });
    assert_eq!(
        serving.log().matches(NOT_ACCEPTED).count(),
        1,
        "{}",
        serving.log()
    );
    drop(connections);
    until("the agent accepts connections again", || {
        let call = "GET /health HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n";
        let mut answer = String::new();
        TcpStream::connect(&serving.address)
            .and_then(|mut stream| {
                stream.write_all(call.as_bytes())?;
                stream.read_to_string(&mut answer)
            })
            .is_ok_and(|_| answer.contains("serving"))
    });
}
