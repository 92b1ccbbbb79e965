//! A fake Aperture Agent: a real tonic server on loopback that does as it is told.
//!
//! It runs in a runtime of its own, so that a test's paused clock does not reach it and that
//! killing it closes every connection, as a killed process would.
//!
//! ```ignore
//! let agent = FakeAgent::start();
//! agent.on_check(|request| match request.labels.get("tier").map(String::as_str) {
//!     Some("gold") => Reply::Now(answer::granted(request)),
//!     _ => Reply::Now(answer::rejected(request, RejectReason::RateLimited)),
//! });
//! // .. use `agent.address()`, then look at `agent.checks()`, `agent.spans()`, ..
//! assert_eq!(agent.tokens_in_flight(), 0);
//! agent.kill();
//! agent.restart(); // on the same port
//! ```
//!
//! Unless told otherwise it accepts every check, takes every end and every span, and keeps caches.
//! In plaintext it does not enforce `grpc-timeout`, so that an answer may come late.

pub mod answer;
mod http_check;
mod plaintext;
mod state;

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tower::Layer;
use tower_aperture::pb::check::flow_control_service_server::FlowControlServiceServer;
use tower_aperture::pb::check::{
    CacheDeleteRequest, CacheUpsertRequest, CacheUpsertResponse, CheckRequest, CheckResponse,
    FlowEndRequest, FlowEndResponse,
};
use tower_aperture::pb::checkhttp::flow_control_service_http_server::FlowControlServiceHttpServer;
use tower_aperture::pb::checkhttp::{CheckHttpRequest, CheckHttpResponse};
use tower_aperture::pb::common::any_value::Value;
use tower_aperture::pb::trace::Span;
use tower_aperture::pb::trace_collector::trace_service_server::TraceServiceServer;
use tower_aperture::pb::trace_collector::{ExportTraceServiceRequest, ExportTraceServiceResponse};

use self::state::{State, returned, script};

/// What the Agent does with a call.
pub enum Reply<T> {
    /// Answers at once.
    Now(T),
    /// Decides, and answers after a while.
    After(Duration, T),
    /// Decides, and answers when the gate opens.
    When(Gate, T),
    /// Answers with a gRPC status.
    Status(Status),
    /// Never answers.
    Hang,
}

/// Holds answers back until it is opened.
#[derive(Clone)]
pub struct Gate(Arc<tokio::sync::watch::Sender<bool>>);

impl Gate {
    /// A closed one.
    pub fn new() -> Self {
        Self(Arc::new(tokio::sync::watch::Sender::new(false)))
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// How many calls wait for it to open; cancelled ones do not.
    pub fn waiting(&self) -> usize {
        self.0.receiver_count()
    }

    async fn passed(&self) {
        let mut open = self.0.subscribe();
        let _ = open.wait_for(|open| *open).await;
    }
}

/// One call as it came in, whatever its kind.
#[derive(Clone, Debug)]
pub struct Call {
    /// The full method path.
    pub path: String,
    pub api_key: Option<String>,
    /// `grpc-timeout` as sent.
    pub timeout: Option<String>,
    /// `grpc-encoding` as sent.
    pub encoding: Option<String>,
    /// Which connection it came on.
    pub peer: Option<SocketAddr>,
}

/// The fake Agent; dropping it kills it.
pub struct FakeAgent {
    address: SocketAddr,
    state: Arc<State>,
    tls: Option<ServerTlsConfig>,
    /// How many streams it allows at once on a connection.
    streams: Option<u32>,
    running: Mutex<Option<Running>>,
}

struct Running {
    runtime: Runtime,
    /// Dropped to thaw.
    frozen: Option<mpsc::Sender<()>>,
}

impl FakeAgent {
    /// Starts on a free port, in plaintext.
    pub fn start() -> Self {
        Self::with(None, None)
    }

    /// Starts on a free port, in plaintext; a connection has so many streams.
    pub fn start_with_streams(streams: u32) -> Self {
        Self::with(None, Some(streams))
    }

    /// Starts with TLS, with a PEM certificate and key; asks clients for a certificate of
    /// `clients`, if given.
    pub fn start_tls(certificate: &str, key: &str, clients: Option<&str>) -> Self {
        let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
        if let Some(authority) = clients {
            tls = tls.client_ca_root(Certificate::from_pem(authority));
        }
        Self::with(Some(tls), None)
    }

    fn with(tls: Option<ServerTlsConfig>, streams: Option<u32>) -> Self {
        super::logs::ask_every_subscriber();
        let tokens = Arc::<Mutex<HashSet<String>>>::default();
        let held = Arc::clone(&tokens);
        let mut agent = Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            state: Arc::new(State {
                on_check: script(|request| Reply::Now(answer::accepted(request))),
                on_check_http: script(|request| Reply::Now(http_check::accepted(request))),
                on_flow_end: script(move |request| Reply::Now(returned(request, &held))),
                on_export: script(|_| Reply::Now(ExportTraceServiceResponse::default())),
                calls: Mutex::default(),
                checks: Mutex::default(),
                http_checks: Mutex::default(),
                flow_ends: Mutex::default(),
                exports: Mutex::default(),
                tokens,
                cache: Mutex::default(),
                upserts: Mutex::default(),
                upsert_answer: Mutex::default(),
                on_delete: script(|_| Reply::Now(())),
            }),
            tls,
            streams,
            running: Mutex::default(),
        };
        agent.address = agent.serve();
        agent
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    // --- what it does

    /// Decides checks from now on.
    pub fn on_check(
        &self,
        script: impl Fn(&CheckRequest) -> Reply<CheckResponse> + Send + Sync + 'static,
    ) {
        *lock(&self.state.on_check) = Arc::new(script);
    }

    /// Decides checks made of HTTP attributes from now on.
    pub fn on_check_http(
        &self,
        script: impl Fn(&CheckHttpRequest) -> Reply<CheckHttpResponse> + Send + Sync + 'static,
    ) {
        *lock(&self.state.on_check_http) = Arc::new(script);
    }

    /// Answers FlowEnd from now on. Only the script that it starts with gives tokens back; see
    /// [`take_tokens`](Self::take_tokens).
    pub fn on_flow_end(
        &self,
        script: impl Fn(&FlowEndRequest) -> Reply<FlowEndResponse> + Send + Sync + 'static,
    ) {
        *lock(&self.state.on_flow_end) = Arc::new(script);
    }

    /// The answer to FlowEnd that it starts with, for scripts that only sometimes do otherwise.
    pub fn take_tokens(&self) -> impl Fn(&FlowEndRequest) -> FlowEndResponse + Send + Sync + use<> {
        let tokens = Arc::clone(&self.state.tokens);
        move |request| returned(request, &tokens)
    }

    /// Takes spans from now on.
    pub fn on_export(
        &self,
        script: impl Fn(&ExportTraceServiceRequest) -> Reply<ExportTraceServiceResponse>
        + Send
        + Sync
        + 'static,
    ) {
        *lock(&self.state.on_export) = Arc::new(script);
    }

    /// Answers upserts from now on, and does none of them.
    pub fn answer_upserts(&self, answer: CacheUpsertResponse) {
        *lock(&self.state.upsert_answer) = Some(answer);
    }

    /// When deletes from caches are done, or with what they fail instead.
    pub fn on_delete(
        &self,
        script: impl Fn(&CacheDeleteRequest) -> Reply<()> + Send + Sync + 'static,
    ) {
        *lock(&self.state.on_delete) = Arc::new(script);
    }

    /// Ends it as a killed process ends: every connection breaks, the port refuses.
    pub fn kill(&self) {
        if let Some(mut running) = lock(&self.running).take() {
            running.frozen = None;
            // Not on this thread: a runtime must not be waited for within another.
            let ended = std::thread::spawn(move || {
                running.runtime.shutdown_timeout(Duration::from_secs(10));
            });
            ended.join().expect("the agent's runtime ends");
        }
        let address = self.address;
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(address).is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts again, on the same port and with the same scripts.
    pub fn restart(&self) {
        self.kill();
        self.serve();
    }

    /// Stops working without closing anything: connections stay, nothing is read or answered.
    pub fn freeze(&self) {
        if let Some(running) = &mut *lock(&self.running) {
            let (frozen, thaw) = mpsc::channel::<()>();
            let (ready, is_ready) = mpsc::channel::<()>();
            running.runtime.spawn(async move {
                let _ = ready.send(());
                // Blocks the only thread there is, on purpose.
                let _ = thaw.recv();
            });
            is_ready.recv().expect("the agent's thread");
            running.frozen = Some(frozen);
        }
    }

    /// Goes on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        if let Some(running) = &mut *lock(&self.running) {
            running.frozen = None;
        }
    }

    // --- what it saw

    /// Every call of any kind, in order of arrival.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.state.calls).clone()
    }

    /// The checks, in order of arrival.
    pub fn checks(&self) -> Vec<CheckRequest> {
        lock(&self.state.checks).clone()
    }

    /// The checks made of HTTP attributes, in order of arrival.
    pub fn http_checks(&self) -> Vec<CheckHttpRequest> {
        lock(&self.state.http_checks).clone()
    }

    /// The FlowEnd calls, in order of arrival.
    pub fn flow_ends(&self) -> Vec<FlowEndRequest> {
        lock(&self.state.flow_ends).clone()
    }

    /// How many flows were ended, in however many calls.
    pub fn refs_ended(&self) -> usize {
        let ends = lock(&self.state.flow_ends);
        ends.iter().map(|end| end.inflight_requests.len()).sum()
    }

    pub fn exports(&self) -> Vec<ExportTraceServiceRequest> {
        lock(&self.state.exports).clone()
    }

    /// All upserts so far.
    pub fn upserts(&self) -> Vec<CacheUpsertRequest> {
        lock(&self.state.upserts).clone()
    }

    /// All spans of all exports.
    pub fn spans(&self) -> Vec<Span> {
        self.exports()
            .into_iter()
            .flat_map(|export| export.resource_spans)
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans)
            .collect()
    }

    /// Tokens granted by answers with a request id that no FlowEnd has given back.
    pub fn tokens_in_flight(&self) -> usize {
        lock(&self.state.tokens).len()
    }

    /// Waits until `done`; fails the test after 20 s.
    pub async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done(self) {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            // Real time, also where the test's clock stands still.
            let pause = || std::thread::sleep(Duration::from_millis(5));
            let _ = tokio::task::spawn_blocking(pause).await;
        }
    }

    fn serve(&self) -> SocketAddr {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let (state, tls, address) = (Arc::clone(&self.state), self.tls.clone(), self.address);
        let streams = self.streams;
        let (bound, is_bound) = mpsc::channel();
        runtime.spawn(async move {
            let incoming = bind(address).await;
            let _ = bound.send(incoming.local_addr());
            let record = Arc::clone(&state);
            let record = tower::util::MapRequestLayer::new(
                move |request: http::Request<tonic::body::Body>| {
                    record.record(&request);
                    request
                },
            );
            let checks = FlowControlServiceServer::from_arc(Arc::clone(&state))
                .max_decoding_message_size(64 * 1024 * 1024);
            #[cfg(feature = "gzip")]
            let checks = {
                use tonic::codec::CompressionEncoding::Gzip;
                checks.accept_compressed(Gzip).send_compressed(Gzip)
            };
            let http_checks = FlowControlServiceHttpServer::from_arc(Arc::clone(&state));
            #[cfg(feature = "gzip")]
            let http_checks =
                http_checks.accept_compressed(tonic::codec::CompressionEncoding::Gzip);
            let spans = TraceServiceServer::from_arc(state);
            #[cfg(feature = "gzip")]
            let spans = spans.accept_compressed(tonic::codec::CompressionEncoding::Gzip);
            let routes = Routes::new(checks)
                .add_service(http_checks)
                .add_service(spans)
                .prepare();
            let Some(tls) = tls else {
                return plaintext::serve(incoming, record.layer(routes), streams).await;
            };
            Server::builder()
                .initial_connection_window_size(plaintext::WINDOW)
                .max_concurrent_streams(streams)
                .layer(record)
                .tls_config(tls)
                .expect("the test's identity")
                .add_routes(routes)
                .serve_with_incoming(incoming)
                .await
                .expect("the agent serves");
        });
        let address = is_bound
            .recv()
            .expect("the agent starts")
            .expect("a local address");
        *lock(&self.running) = Some(Running {
            runtime,
            frozen: None,
        });
        address
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        if let Some(mut running) = lock(&self.running).take() {
            running.frozen = None;
            running.runtime.shutdown_background();
        }
    }
}

/// The port may take a moment to become free again.
async fn bind(address: SocketAddr) -> TcpIncoming {
    let mut tries = 0;
    loop {
        match TcpIncoming::bind(address) {
            Ok(incoming) => return incoming.with_nodelay(Some(true)),
            Err(error) if tries >= 200 => panic!("cannot bind {address}: {error}"),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls `future` until `done`, which has to come first, and gives it up then.
pub async fn give_up<F: Future>(future: F, what: &str, done: impl Fn() -> bool) {
    let mut future = std::pin::pin!(future);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        let polled = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        assert!(polled.is_pending(), "over before it could be given up");
        let pause = || std::thread::sleep(Duration::from_millis(1));
        let _ = tokio::task::spawn_blocking(pause).await;
    }
}

/// The text attribute `key` of a span.
pub fn text(span: &Span, key: &str) -> Option<String> {
    match attribute(span, key)? {
        Value::StringValue(text) => Some(text),
        other => panic!("{key} is no text: {other:?}"),
    }
}

/// The whole-number attribute `key` of a span.
pub fn int(span: &Span, key: &str) -> Option<i64> {
    match attribute(span, key)? {
        Value::IntValue(int) => Some(int),
        other => panic!("{key} is no int: {other:?}"),
    }
}

fn attribute(span: &Span, key: &str) -> Option<Value> {
    let found: Vec<_> = span.attributes.iter().filter(|a| a.key == key).collect();
    assert!(found.len() <= 1, "{key} is there {} times", found.len());
    found.first()?.value.clone()?.value
}
