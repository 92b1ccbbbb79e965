//! The calls of a recording as an SDK would make them: to a served agent, over a socket.
//!
//! Messages go by their names and the agent's own descriptors, so nothing of the crate's
//! conversions is shared with what checks them.

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
use tower_aperture::Engine;
use tower_aperture::agent::Agent;
use tower_aperture::pb::FILE_DESCRIPTORS;

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTORS).expect("descriptors"));
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
});

const PATIENCE: Duration = Duration::from_secs(60);
const CHECK: &str = "aperture.flowcontrol.check.v1";
const CHECK_HTTP: &str = "aperture.flowcontrol.checkhttp.v1";
const TRACE: &str = "opentelemetry.proto.collector.trace.v1";

/// An agent until it is dropped.
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

/// Package, service, method, and the messages of both ways.
fn names(rpc: &str) -> [&'static str; 5] {
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
        other => panic!("no call of the name {other}"),
    }
}

fn message(name: &str, json: &Value) -> Result<DynamicMessage, String> {
    let descriptor = POOL.get_message_by_name(name).ok_or("no such message")?;
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

/// A recorded answer, spelled as ours are.
pub(crate) fn spelled(rpc: &str, answer: &Value) -> Result<Value, String> {
    let [package, _, _, _, response] = names(rpc);
    json(&message(&format!("{package}.{response}"), answer)?)
}

/// The bytes of a message.
pub(crate) fn encoded(name: &str, json: &Value) -> Result<Vec<u8>, String> {
    Ok(message(name, json)?.encode_to_vec())
}

impl Served {
    pub(crate) fn start(engine: Engine) -> Self {
        let agent = Agent::builder(engine).build();
        let own = agent.clone();
        let (address, task) = RUNTIME.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let listener = listener.expect("a port");
            let address = listener.local_addr().expect("its address");
            let task = tokio::spawn(async move {
                let served = own.serve(listener, std::future::pending()).await;
                served.expect("it serves");
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

    /// The answer or the code of the gRPC status.
    pub(crate) fn call(
        &self,
        rpc: &str,
        request: &Value,
        deadline: Option<f64>,
    ) -> Result<Result<Value, i32>, String> {
        let [package, service, method, own, response] = names(rpc);
        let sent = encoded(&format!("{package}.{own}"), request)?;
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(sent.len()).map_err(|error| error.to_string())?);
        body.put_slice(&sent);
        let address = self.address;
        let mut call = Request::post(format!("http://{address}/{package}.{service}/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(deadline) = deadline {
            // The server is told; nobody here gives up.
            let micros = (deadline.max(0.0) * 1e6).round();
            call = call.header("grpc-timeout", format!("{micros}u"));
        }
        let call = call
            .body(Full::new(body.freeze()))
            .map_err(|error| error.to_string())?;
        let answered = RUNTIME.block_on(async {
            let answered = async {
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
            tokio::time::timeout(PATIENCE, answered).await
        });
        let (headers, trailers, body) = answered.map_err(|_| "no answer, ever")??;
        let status = |map: &HeaderMap| map.get("grpc-status")?.to_str().ok()?.parse().ok();
        let code: Option<i32> = status(&headers).or_else(|| status(trailers.as_ref()?));
        match code {
            Some(0) => {}
            Some(code) => return Ok(Err(code)),
            None => return Err("no grpc-status".into()),
        }
        let answer = body.get(5..).ok_or("no message")?;
        let descriptor = POOL.get_message_by_name(&format!("{package}.{response}"));
        let descriptor = descriptor.ok_or("no such message")?;
        let answer = DynamicMessage::decode(descriptor, answer);
        Ok(Ok(json(&answer.map_err(|error| error.to_string())?)?))
    }
}

/// An answer as the other spelling of protobuf's JSON has it.
pub(crate) fn camel_case(rpc: &str, answer: &Value) -> Result<Value, String> {
    let [package, _, _, _, response] = names(rpc);
    message(&format!("{package}.{response}"), answer)?
        .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
        .map_err(|error| error.to_string())
}
