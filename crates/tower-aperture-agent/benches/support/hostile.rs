//! Hostile callers, which take as much memory and time of an agent as they can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tower_aperture::pb::check::{CacheEntry, CacheLookupRequest, CacheUpsertRequest, CheckRequest};
use tower_aperture::pb::checkhttp::CheckHttpRequest;
use tower_aperture::pb::checkhttp::check_http_request::HttpRequest;

const CHECK: &str = "/aperture.flowcontrol.check.v1.FlowControlService/";
const CHECK_HTTP: &str = "/aperture.flowcontrol.checkhttp.v1.FlowControlServiceHTTP/CheckHTTP";
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The attacks, their names, and the megabytes that the agent may hold beyond an idle one.
pub(crate) const ATTACKS: [(Attack, &str, f64); 7] = [
    (Attack::None, "none", 16.0),
    // 4096 connections of 32 KiB.
    (Attack::Idle, "4000 idle connections", 128.0),
    // 64 MiB, doubled while a response is encoded, and the caches of 64 MiB.
    (Attack::Unread, "unread responses", 256.0),
    // 64 MiB decoded, 64 MiB incoming.
    (Attack::Decodes, "large decodes", 192.0),
    // A million keys of 255 bytes would be the limit; the attack creates fewer.
    (Attack::Keys, "made-up keys of 60 kB", 64.0),
    (Attack::Points, "made-up control points", 32.0),
    // 64 MiB, and 8 KiB for each waiting flow.
    (Attack::Waiting, "8000 waiting flows", 192.0),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attack {
    None,
    Idle,
    Unread,
    Decodes,
    Keys,
    Points,
    Waiting,
}

/// The policy of the agent under attack.
pub(crate) const POLICY: &str = "
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{control_point: checkout}]
        in_ports: {bucket_capacity: {constant_signal: {value: 1000000000}}, fill_amount: {constant_signal: {value: 1000000000}}}
        parameters: {interval: 1s, limit_by_label_key: user_id}
  - flow_control:
      quota_scheduler:
        selectors: [{control_point: render}]
        in_ports: {bucket_capacity: {constant_signal: {value: 1}}, fill_amount: {constant_signal: {value: 1}}}
        rate_limiter: {interval: 3600s}
        scheduler: {}
";

/// A connection of a hostile caller.
struct HostileCaller(SendRequest<Full<Bytes>>);

impl HostileCaller {
    async fn connect(address: &str, window: u32) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let handshake = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(TokioIo::new(stream));
        let (send, connection) = handshake.await.ok()?;
        tokio::spawn(connection);
        Some(Self(send))
    }

    async fn call(&mut self, path: &str, body: Bytes) -> Option<http::Response<Incoming>> {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let call = http::Request::builder()
            .method(method)
            .uri(format!("http://agent{path}"))
            .header("content-type", "application/grpc")
            .body(Full::new(body))
            .ok()?;
        self.0.ready().await.ok()?;
        self.0.send_request(call).await.ok()
    }
}

/// Frames a message for gRPC.
fn grpc_frame(message: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).expect("a message"));
    body.put_slice(message);
    body.freeze()
}

/// Attacks the agent at `address` until `stop` is set.
pub(crate) async fn attack(kind: Attack, address: String, stop: Arc<AtomicBool>) {
    match kind {
        Attack::None => {}
        Attack::Idle => {
            let mut open = Vec::new();
            for _ in 0..4000 {
                let Some(mut caller) = HostileCaller::connect(&address, 65_535).await else {
                    break;
                };
                caller.call("/health", Bytes::new()).await;
                open.push(caller);
            }
            wait_for_stop(&stop).await;
        }
        Attack::Unread => leave_responses_unread(&address, &stop).await,
        Attack::Decodes => {
            let spans = [0x12, 0].repeat(60_000);
            let message = grpc_frame(&encode_field(1, &encode_field(2, &spans)));
            send_calls(8, &address, &stop, |_| (EXPORT, message.clone())).await;
        }
        Attack::Keys => {
            let text = "x".repeat(60_000);
            let flow = |number: usize| CheckRequest {
                control_point: "checkout".to_owned(),
                labels: [("user_id".to_owned(), format!("{number:012}{text}"))].into(),
                ..CheckRequest::default()
            };
            send_calls(8, &address, &stop, |number| {
                ("Check", grpc_frame(&flow(number).encode_to_vec()))
            })
            .await;
        }
        Attack::Points => {
            let flow = |number: usize| CheckRequest {
                control_point: format!("made-up-{number}-{}", "x".repeat(200)),
                ..CheckRequest::default()
            };
            send_calls(8, &address, &stop, |number| {
                ("Check", grpc_frame(&flow(number).encode_to_vec()))
            })
            .await;
        }
        Attack::Waiting => fill_queues(&address, &stop).await,
    }
    wait_for_stop(&stop).await;
}

/// Waits until `stop` is set.
async fn wait_for_stop(stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Opens `number` connections, each of which sends one call after the other.
async fn send_calls(
    number: usize,
    address: &str,
    stop: &Arc<AtomicBool>,
    call: impl Fn(usize) -> (&'static str, Bytes),
) {
    let mut callers = Vec::new();
    for _ in 0..number {
        callers.extend(HostileCaller::connect(address, 65_535).await);
    }
    let mut made = 0;
    while !stop.load(Relaxed) {
        let round = callers.iter_mut().map(|caller| {
            made += 1;
            let (method, body) = call(made);
            let path = match method {
                "Check" => format!("{CHECK}{method}"),
                path => path.to_owned(),
            };
            async move { caller.call(&path, body).await }
        });
        futures_util::future::join_all(round).await;
    }
}

/// Sends lookups of a few bytes whose responses of 8 MB are never read.
async fn leave_responses_unread(address: &str, stop: &AtomicBool) {
    let Some(mut caller) = HostileCaller::connect(address, 65_535).await else {
        return;
    };
    let keys: Vec<String> = (0..8).map(|key| key.to_string()).collect();
    for key in &keys {
        let entry = CacheEntry {
            value: vec![b'x'; 1_000_000].into(),
            ..CacheEntry::default()
        };
        let upsert = CacheUpsertRequest {
            global_cache_entries: [(key.clone(), entry)].into(),
            ..CacheUpsertRequest::default()
        };
        let path = format!("{CHECK}CacheUpsert");
        caller
            .call(&path, grpc_frame(&upsert.encode_to_vec()))
            .await;
    }
    let lookup = CacheLookupRequest {
        global_cache_keys: keys,
        ..CacheLookupRequest::default()
    };
    let body = grpc_frame(&lookup.encode_to_vec());
    let (mut callers, mut held) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let Some(mut caller) = HostileCaller::connect(address, 1).await else {
            continue;
        };
        for _ in 0..50 {
            held.push(
                caller
                    .call(&format!("{CHECK}CacheLookup"), body.clone())
                    .await,
            );
        }
        callers.push(caller);
    }
    wait_for_stop(stop).await;
}

/// Starts flows with a path of 16 KiB that wait, on eight connections.
async fn fill_queues(address: &str, stop: &AtomicBool) {
    let flow = CheckHttpRequest {
        control_point: "render".to_owned(),
        request: Some(HttpRequest {
            path: "x".repeat(16 << 10),
            ..HttpRequest::default()
        }),
        ..CheckHttpRequest::default()
    };
    let body = grpc_frame(&flow.encode_to_vec());
    for _ in 0..8 {
        let Some(caller) = HostileCaller::connect(address, 65_535).await else {
            continue;
        };
        for _ in 0..1000 {
            let (mut caller, body) = (HostileCaller(caller.0.clone()), body.clone());
            tokio::spawn(async move { caller.call(CHECK_HTTP, body).await });
        }
    }
    wait_for_stop(stop).await;
}

/// Encodes a field that contains an encoded message.
fn encode_field(field: u8, inner: &[u8]) -> Vec<u8> {
    let mut message = vec![field << 3 | 2];
    prost::encoding::encode_varint(inner.len() as u64, &mut message);
    message.extend(inner);
    message
}

/// The highest p99 latency of a well-behaved caller: the check timeout of SDKs.
pub(crate) const MAX_P99: Duration = Duration::from_millis(200);

/// The duration of each attack.
pub(crate) const ATTACK_DURATION: Duration = Duration::from_secs(8);

/// Whether the attack that began at `started` is over.
pub(crate) fn is_over(started: Instant) -> bool {
    started.elapsed() > ATTACK_DURATION
}
