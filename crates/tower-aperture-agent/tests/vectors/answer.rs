//! Sends the calls of a recording to the engine, and returns its answers.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt;
use serde_json::{Map, Value, json};
use tower_aperture::FlowParams;
use tower_aperture::cache::{CacheChange, CacheLookup, CacheRefusal, CacheValue};
use tower_aperture::engine::{
    CacheEntry, CheckInput, CheckReport, Engine, EngineTicket, HttpInput, HttpInputError,
    HttpReport, HttpRequest, PendingHttpReport, PendingReport, Shared, SlotRef, SlotReturn,
    SocketAddress,
};
use tower_aperture::{LabelLimits, Labels};

use crate::recording::Call;

/// The answer to one call.
pub(crate) enum Answer {
    Check(Box<CheckReport>),
    Http(Box<Result<HttpReport, HttpInputError>>),
    /// The message of the answer.
    Cache(Value),
    End(Vec<SlotReturn>),
    /// The message from a served agent, or the code of its gRPC status.
    Message(Result<Value, i32>),
    /// The client gave up before the answer.
    GaveUp,
}

/// A call that has started.
pub(crate) enum StartedCall {
    Answer(Answer),
    /// The call must be polled for its answer, which may be ready.
    Pending(PendingAnswer),
}

/// A flow that is decided, or queued until it is decided. Dropping this cancels the check.
pub(crate) type PendingAnswer = Pin<Box<dyn Future<Output = (Answer, EngineTicket)>>>;

pub(crate) fn start(engine: &Engine<Shared>, call: &Call) -> StartedCall {
    let request = &call.request;
    StartedCall::Answer(match &*call.rpc {
        "check_http" => match check_http(engine, call) {
            Err(error) => Answer::Http(Box::new(Err(error))),
            Ok(pending) => {
                return StartedCall::Pending(Box::pin(async {
                    let (report, ticket) = pending.await;
                    (Answer::Http(Box::new(Ok(report))), ticket)
                }));
            }
        },
        "cache_lookup" => {
            let global = texts(&request["global_cache_keys"]);
            let found = engine.start_cache_lookup(
                text(&request["control_point"]),
                text(&request["result_cache_key"]),
                global,
            );
            Answer::Cache(lookup_message(&at_once(found)))
        }
        "cache_upsert" => Answer::Cache(upsert(engine, request)),
        "cache_delete" => {
            let global = texts(&request["global_cache_keys"]);
            let change = engine.start_cache_delete(
                text(&request["control_point"]),
                text(&request["result_cache_key"]),
                global,
            );
            Answer::Cache(change_message(&at_once(change)))
        }
        _ => {
            let pending = check(engine, call);
            return StartedCall::Pending(Box::pin(async {
                let (report, ticket) = pending.await;
                (Answer::Check(Box::new(report)), ticket)
            }));
        }
    })
}

/// The slots and the policy hash in the engine's answer.
#[derive(Default)]
pub(crate) struct EngineIds {
    slots: Vec<SlotRef>,
    policy_hash: Option<String>,
}

impl EngineIds {
    pub(crate) fn of(report: &CheckReport) -> Self {
        let first = report.limiter_decisions.first();
        Self {
            slots: report.slots(),
            policy_hash: first.map(|decision| decision.policy_hash.to_string()),
        }
    }
    pub(crate) fn of_message(answer: &Value) -> Self {
        let decisions = answer["limiter_decisions"].as_array();
        let decisions = decisions.map(Vec::as_slice).unwrap_or_default();
        let slots = decisions.iter().filter_map(|decision| {
            let infos = ["concurrency_limiter_info", "concurrency_scheduler_info"];
            let info = infos.map(|info| &decision[info]);
            let info = info
                .into_iter()
                .find(|info| info["request_id"].is_string())?;
            Some(SlotRef {
                policy_name: text(&decision["policy_name"]).to_owned(),
                policy_hash: text(&decision["policy_hash"]).to_owned(),
                component_id: text(&decision["component_id"]).to_owned(),
                label: text(&info["label"]).to_owned(),
                request_id: text(&info["request_id"]).to_owned(),
            })
        });
        let first = decisions.first();
        Self {
            slots: slots.collect(),
            policy_hash: first.map(|decision| text(&decision["policy_hash"]).to_owned()),
        }
    }
}

/// Ends a flow, with the engine's ids in place of the recorded ones.
pub(crate) fn end(
    engine: &Engine<Shared>,
    call: &Call,
    recorded: Option<&Value>,
    own: &EngineIds,
) -> Answer {
    Answer::End(engine.flow_end(&references(call, recorded, own), deadline(call)))
}

/// Returns the slots that a recorded end names, with the engine's ids.
pub(crate) fn references(call: &Call, recorded: Option<&Value>, own: &EngineIds) -> Vec<SlotRef> {
    let decisions = recorded.and_then(|answer| answer["limiter_decisions"].as_array());
    let decisions = decisions.map(Vec::as_slice).unwrap_or_default();
    let references = call.request["inflight_requests"].as_array();
    let references = references.map(Vec::as_slice).unwrap_or_default();
    references
        .iter()
        .map(|reference| {
            let field = |name: &str| text(&reference[name]).to_owned();
            let mut slot = SlotRef {
                policy_name: field("policy_name"),
                policy_hash: field("policy_hash"),
                component_id: field("component_id"),
                label: field("label"),
                request_id: field("request_id"),
            };
            // Only hashes and request ids are replaced; other unusual values are part of the
            // recording.
            for decision in decisions {
                let same_id = |one: &SlotRef| {
                    one.policy_name == text(&decision["policy_name"])
                        && one.component_id == text(&decision["component_id"])
                };
                let info = ["concurrency_limiter_info", "concurrency_scheduler_info"];
                let id = info.map(|info| text(&decision[info]["request_id"]));
                let own_slot = own.slots.iter().find(|one| same_id(one));
                if !slot.request_id.is_empty()
                    && id.contains(&&*slot.request_id)
                    && let Some(own) = own_slot
                {
                    slot.request_id.clone_from(&own.request_id);
                }
                if slot.policy_hash == text(&decision["policy_hash"])
                    && let Some(hash) = &own.policy_hash
                {
                    slot.policy_hash.clone_from(hash);
                }
            }
            slot
        })
        .collect()
}

fn check(engine: &Engine<Shared>, call: &Call) -> PendingReport {
    let params = params(call);
    let services = texts(&call.request["services"]);
    let input = CheckInput::new(text(&call.request["control_point"]), &params)
        .services(&services)
        .expect_end(call.request["expect_end"].as_bool().unwrap_or(false))
        .cache_lookup(call.request["cache_lookup_request"].is_object())
        .deadline(deadline(call));
    engine.start(&input)
}

fn params(call: &Call) -> FlowParams<'_> {
    let mut params = FlowParams::new();
    params.labels = Labels::with_limits(LabelLimits {
        count: usize::MAX,
        bytes: usize::MAX,
    });
    for (key, value) in call.request["labels"].as_object().into_iter().flatten() {
        params.labels.insert(key, text(value));
    }
    params.ramp_mode = call.request["ramp_mode"].as_bool().unwrap_or(false);
    let lookup = &call.request["cache_lookup_request"];
    params.result_cache_key = lookup["result_cache_key"].as_str().map(Into::into);
    let global = texts(&lookup["global_cache_keys"]).into_iter();
    params.global_cache_keys = global.map(Into::into).collect();
    params
}

fn deadline(call: &Call) -> Option<Duration> {
    call.deadline
        .map(|seconds| Duration::from_secs_f64(seconds.max(0.0)))
}

fn check_http(engine: &Engine<Shared>, call: &Call) -> Result<PendingHttpReport, HttpInputError> {
    let request = &call.request;
    let headers = request["request"]["headers"].as_object();
    let headers: Vec<(&str, &str)> = headers
        .into_iter()
        .flatten()
        .map(|(name, value)| (&**name, text(value)))
        .collect();
    let mut input = HttpInput::new(text(&request["control_point"]))
        .ramp_mode(request["ramp_mode"].as_bool().unwrap_or(false))
        .expect_end(request["expect_end"].as_bool().unwrap_or(false))
        .deadline(deadline(call));
    if let Some(source) = address(&request["source"]) {
        input = input.source(source);
    }
    if let Some(destination) = address(&request["destination"]) {
        input = input.destination(destination);
    }
    let http = &request["request"];
    if http.is_object() {
        input = input.request(HttpRequest {
            method: text(&http["method"]),
            path: text(&http["path"]),
            host: text(&http["host"]),
            scheme: text(&http["scheme"]),
            protocol: text(&http["protocol"]),
            size: text(&http["size"]).parse().unwrap_or_default(),
            body: text(&http["body"]),
            headers: &headers,
        });
    }
    engine.start_http(&input)
}

fn address(value: &Value) -> Option<SocketAddress<'_>> {
    let port = value["port"].as_u64().unwrap_or_default();
    let protocol = match &value["protocol"] {
        Value::String(name) => i32::from(name == "UDP"),
        number => number.as_i64().unwrap_or_default() as i32,
    };
    let address = SocketAddress::new(text(&value["address"]), port as u32).protocol(protocol);
    value.is_object().then_some(address)
}

/// Returns the output of a future that does not wait: the store of a replay has no caches.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the caches are in process")
}

fn upsert(engine: &Engine<Shared>, request: &Value) -> Value {
    let bytes = |entry: &Value| STANDARD.decode(text(&entry["value"])).unwrap_or_default();
    let result = &request["result_cache_entry"];
    let value = bytes(result);
    let result_entry = result
        .is_object()
        .then(|| CacheEntry::new(text(&result["key"]), &value).ttl(ttl(&result["ttl"])));
    let global = request["global_cache_entries"].as_object();
    let global: Vec<(&String, Vec<u8>, &Value)> = global
        .into_iter()
        .flatten()
        .map(|(key, entry)| (key, bytes(entry), &entry["ttl"]))
        .collect();
    let entries = global
        .iter()
        .map(|(key, value, time)| CacheEntry::new(key, value).ttl(ttl(time)));
    let control_point = text(&request["control_point"]);
    let change = engine.start_cache_upsert(control_point, result_entry, entries);
    change_message(&at_once(change))
}

/// Reads a time to live. Any below one millisecond, including a negative one, expires at once.
fn ttl(value: &Value) -> Option<Duration> {
    let seconds: f64 = value.as_str()?.strip_suffix('s')?.parse().ok()?;
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_nanos(1)))
}

/// Returns the message of a lookup, without default values.
pub(crate) fn lookup_message(found: &CacheLookup) -> Value {
    let global = found.global.iter();
    message(
        found.result.as_ref().map(lookup_entry),
        global.map(|(key, value)| (key.clone(), lookup_entry(value))),
    )
}

fn lookup_entry(value: &CacheValue) -> Value {
    match value {
        Ok(Some(value)) if value.is_empty() => json!({}),
        Ok(Some(value)) => json!({"value": STANDARD.encode(value)}),
        Ok(None) => json!({"lookup_status": "MISS"}),
        Err(refusal) => json!({
            "lookup_status": "MISS",
            "operation_status": "ERROR",
            "error": refusal.to_string(),
        }),
    }
}

fn change_message(change: &CacheChange) -> Value {
    let global = change.global.iter();
    message(
        change.result.as_ref().map(change_entry),
        global.map(|(key, answer)| (key.clone(), change_entry(answer))),
    )
}

fn change_entry(answer: &Result<(), CacheRefusal>) -> Value {
    match answer {
        Ok(()) => json!({}),
        Err(refusal) => json!({"operation_status": "ERROR", "error": refusal.to_string()}),
    }
}

fn message(result: Option<Value>, global: impl Iterator<Item = (String, Value)>) -> Value {
    let mut message = Map::new();
    if let Some(result) = result {
        message.insert("result_cache_response".into(), result);
    }
    let global: Map<String, Value> = global.collect();
    if !global.is_empty() {
        message.insert("global_cache_responses".into(), global.into());
    }
    message.into()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn texts(value: &Value) -> Vec<&str> {
    let values = value.as_array().map(Vec::as_slice).unwrap_or_default();
    values.iter().map(text).collect()
}
