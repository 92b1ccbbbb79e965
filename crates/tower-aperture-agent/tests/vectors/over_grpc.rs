//! Sends the calls of a recording to a served agent over a socket, as an SDK does.
//!
//! Messages are built from their names and the agent's descriptors, so this test shares none of the
//! crate's conversions, which it tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tower_aperture::engine::{Engine, Shared};
use tower_aperture::pb::FILE_DESCRIPTORS;
use tower_aperture_agent::Agent;

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTORS).expect("descriptors"));
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
});

/// Time after which a call without a response fails the test.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
const CHECK: &str = "aperture.flowcontrol.check.v1";
const CHECK_HTTP: &str = "aperture.flowcontrol.checkhttp.v1";
const TRACE: &str = "opentelemetry.proto.collector.trace.v1";

/// An agent that serves until this is dropped.
pub(crate) struct Served {
    pub(crate) agent: Agent,
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the package, service and method of a call, and its request and response messages.
fn method_names(rpc: &str) -> [&'static str; 5] {
    let service = "FlowControlService";
    match rpc {
        "check" => [CHECK, service, "Check", "CheckRequest", "CheckResponse"],
        "end" => [
            CHECK,
            service,
            "FlowEnd",
            "FlowEndRequest",
            "FlowEndResponse",
        ],
        "cache_lookup" => {
            let messages = ["CacheLookupRequest", "CacheLookupResponse"];
            [CHECK, service, "CacheLookup", messages[0], messages[1]]
        }
        "cache_upsert" => {
            let messages = ["CacheUpsertRequest", "CacheUpsertResponse"];
            [CHECK, service, "CacheUpsert", messages[0], messages[1]]
        }
        "cache_delete" => {
            let messages = ["CacheDeleteRequest", "CacheDeleteResponse"];
            [CHECK, service, "CacheDelete", messages[0], messages[1]]
        }
        "check_http" => {
            let messages = ["CheckHTTPRequest", "CheckHTTPResponse"];
            [
                CHECK_HTTP,
                "FlowControlServiceHTTP",
                "CheckHTTP",
                messages[0],
                messages[1],
            ]
        }
        "export" => {
            let messages = ["ExportTraceServiceRequest", "ExportTraceServiceResponse"];
            [TRACE, "TraceService", "Export", messages[0], messages[1]]
        }
        other => panic!("unknown call: {other}"),
    }
}

fn message(name: &str, json: &Value) -> Result<DynamicMessage, String> {
    let descriptor = POOL
        .get_message_by_name(name)
        .ok_or("unknown message type")?;
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    DynamicMessage::deserialize_with_options(descriptor, json, &options)
        .map_err(|error| format!("{name}: {error}"))
}

fn json(message: &DynamicMessage) -> Result<Value, String> {
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| error.to_string())
}

/// Returns a recorded response with the field names and defaults that our responses have.
pub(crate) fn normalized(rpc: &str, answer: &Value) -> Result<Value, String> {
    let [package, _, _, _, response] = method_names(rpc);
    json(&message(&format!("{package}.{response}"), answer)?)
}

/// Returns the bytes of a message.
pub(crate) fn encode(name: &str, json: &Value) -> Result<Vec<u8>, String> {
    Ok(message(name, json)?.encode_to_vec())
}

impl Served {
    pub(crate) fn start(engine: impl Into<Engine<Shared>>) -> Self {
        let agent = Agent::builder(engine).build();
        let own = agent.clone();
        let (address, task) = RUNTIME.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let listener = listener.expect("a port");
            let address = listener.local_addr().expect("an address");
            let task = tokio::spawn(async move {
                let served = own.serve(listener, std::future::pending()).await;
                served.expect("the agent serves");
            });
            (address, task)
        });
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        Self {
            agent,
            address,
            client,
            task,
        }
    }

    /// Sends a call, and returns the response or the code of its gRPC status.
    pub(crate) fn call(
        &self,
        rpc: &str,
        request: &Value,
        deadline: Option<f64>,
    ) -> Result<Result<Value, i32>, String> {
        let [package, service, method, own, response] = method_names(rpc);
        let sent = encode(&format!("{package}.{own}"), request)?;
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(sent.len()).map_err(|error| error.to_string())?);
        body.put_slice(&sent);
        let address = self.address;
        let mut call = Request::post(format!("http://{address}/{package}.{service}/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(deadline) = deadline {
            // The server enforces the deadline; this client keeps waiting.
            let micros = (deadline.max(0.0) * 1e6).round();
            call = call.header("grpc-timeout", format!("{micros}u"));
        }
        let call = call
            .body(Full::new(body.freeze()))
            .map_err(|error| error.to_string())?;
        let exchange = RUNTIME.block_on(async {
            let exchange = async {
                let answer = self
                    .client
                    .request(call)
                    .await
                    .map_err(|error| error.to_string())?;
                let headers = answer.headers().clone();
                let body = answer
                    .into_body()
                    .collect()
                    .await
                    .map_err(|error| error.to_string())?;
                let trailers = body.trailers().cloned();
                Ok::<_, String>((headers, trailers, body.to_bytes()))
            };
            tokio::time::timeout(CALL_TIMEOUT, exchange).await
        });
        let (headers, trailers, body) =
            exchange.map_err(|_| "no response before the timeout")??;
        let status = |map: &HeaderMap| map.get("grpc-status")?.to_str().ok()?.parse().ok();
        let code: Option<i32> = status(&headers).or_else(|| status(trailers.as_ref()?));
        match code {
            Some(0) => {}
            Some(code) => return Ok(Err(code)),
            None => return Err("the response has no grpc-status".into()),
        }
        let answer = body.get(5..).ok_or("the response has no message")?;
        let descriptor = POOL.get_message_by_name(&format!("{package}.{response}"));
        let descriptor = descriptor.ok_or("unknown message type")?;
        let answer = DynamicMessage::decode(descriptor, answer);
        Ok(Ok(json(&answer.map_err(|error| error.to_string())?)?))
    }
}

/// Returns a response in protobuf's JSON with camel-case field names.
pub(crate) fn camel_case(rpc: &str, answer: &Value) -> Result<Value, String> {
    let [package, _, _, _, response] = method_names(rpc);
    message(&format!("{package}.{response}"), answer)?
        .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
        .map_err(|error| error.to_string())
}
