//! Reads recorded conversations.

use serde_json::Value;

/// The conversation of one file.
pub(crate) struct Recording {
    /// Replay the calls through a served agent, over a socket.
    pub(crate) over_grpc: bool,
    /// The URL of the Redis server in which the engine keeps its buckets, if it shares them.
    pub(crate) shared: Option<String>,
    pub(crate) agent_group: Option<String>,
    /// The texts of the policies, with their dynamic configuration.
    pub(crate) policies: Vec<String>,
    pub(crate) deviates: Vec<u64>,
    pub(crate) noisy: bool,
    /// The calls, ordered by `at`.
    pub(crate) calls: Vec<Call>,
    /// The fields to compare in responses to `Check`.
    pub(crate) compared: ComparedFields,
    /// The fields to compare in the check responses within responses to `CheckHTTP`.
    pub(crate) compared_http: ComparedFields,
    /// How far from the recorded times the Agent may have decided, in seconds.
    pub(crate) slack: f64,
    /// Most answers are recorded as rows of numbers, and few as whole messages.
    pub(crate) compact: bool,
    /// The decisions that the Controller published, in order.
    pub(crate) decisions: Vec<Published>,
    /// When a load scheduler had measured the demand.
    pub(crate) learned_at: Option<f64>,
}

/// Validity of a load scheduler's decision, in seconds: five periods of ten seconds.
const VALID_FOR: f64 = 50.0;

/// A decision that the Controller published for a component.
pub(crate) struct Published {
    /// When the recording saw it. On a busy machine the Agent received it earlier.
    pub(crate) at: f64,
    /// When the Controller made it, if the decision contains a time.
    pub(crate) made_at: Option<f64>,
    pub(crate) component: String,
    pub(crate) value: PublishedValue,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum PublishedValue {
    AcceptPercentage(f64),
    /// The multiplier, pass-through, and the end of the validity.
    Load(f64, bool, Option<f64>),
}

/// Whether to compare each of these fields, which some recordings leave out.
pub(crate) struct ComparedFields {
    pub(crate) label_keys: bool,
    pub(crate) telemetry_labels: bool,
    pub(crate) expect_end: bool,
}

/// One call and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) number: usize,
    pub(crate) rpc: String,
    pub(crate) request: Value,
    pub(crate) id: Option<String>,
    /// The id of the check whose flow this call ends.
    pub(crate) of: Option<String>,
    pub(crate) deadline: Option<f64>,
    /// The time after which the client cancelled the call.
    pub(crate) cancel: Option<f64>,
    pub(crate) at: f64,
    pub(crate) until: f64,
    pub(crate) burst: bool,
    pub(crate) noisy: bool,
    pub(crate) deviates: Vec<u64>,
    pub(crate) expected: Expected,
}

/// The recorded response of the Agent.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    Answer(Value),
    /// A row of a compact recording: whether the flow was accepted, and the tokens remaining,
    /// current and consumed.
    Row(bool, [f64; 3]),
    /// A gRPC status.
    Error(String),
}

impl Recording {
    pub(crate) fn read(value: &Value) -> Result<Self, String> {
        let mut policies = texts(&value["policies"]).ok_or("policies are not texts")?;
        for (name, text) in value["dynamic_config"].as_object().into_iter().flatten() {
            let text = text.as_str().ok_or("dynamic_config is not text")?;
            append_dynamic_config(&mut policies, name, text)?;
        }
        let mut calls = match value.get("rows") {
            Some(_) => read_rows(value)?,
            None => read_calls(value)?,
        };
        calls.sort_by(|a, b| a.at.total_cmp(&b.at));
        let whole = value.get("calls").is_some();
        Ok(Self {
            over_grpc: false,
            shared: None,
            agent_group: value["agent_group"].as_str().map(str::to_owned),
            policies,
            deviates: numbers(&value["deviates"]),
            noisy: value["noisy"].as_bool().unwrap_or(false),
            compared: ComparedFields::of(whole, &calls, |answer| Some(answer)),
            compared_http: ComparedFields::of(whole, &calls, |answer| answer.get("check_response")),
            // The Agent read its clock at some time between the two times of a call.
            slack: 0.002 + longest_call(value).min(0.015),
            compact: !whole,
            decisions: read_decisions(value)?,
            learned_at: value["learned_at"].as_f64(),
            calls,
        })
    }
}

impl Recording {
    /// Returns whether a sampler without a session label decided the flow at random.
    pub(crate) fn is_sampled_at_random(&self, call: &Call) -> bool {
        let draws = |answer: &Value| {
            let decisions = answer["limiter_decisions"].as_array();
            decisions.into_iter().flatten().any(|decision| {
                let label = decision["sampler_info"]["label"].as_str();
                label.is_some_and(|label| {
                    let key = label.split(':').next().unwrap_or_default();
                    key.is_empty() || call.request["labels"].get(key).is_none()
                })
            })
        };
        match &call.expected {
            Expected::Answer(answer) => draws(answer),
            // Rows do not name the limiter, but the first answer of the recording does.
            Expected::Row(..) => self.calls.iter().any(|first| match &first.expected {
                Expected::Answer(answer) => draws(answer),
                _ => false,
            }),
            Expected::Error(_) => false,
        }
    }
}

/// Returns the check response in an answer. The answer to `CheckHTTP` has it in a field.
pub(crate) fn decision(answer: &Value) -> &Value {
    answer.get("check_response").unwrap_or(answer)
}

impl ComparedFields {
    fn of(whole: bool, calls: &[Call], decision: impl Fn(&Value) -> Option<&Value>) -> Self {
        let holds = |field: &str| {
            let mut answers = calls.iter().filter_map(|call| match &call.expected {
                Expected::Answer(answer) => decision(answer),
                _ => None,
            });
            whole && answers.any(|answer| answer.get(field).is_some())
        };
        Self {
            label_keys: holds("flow_label_keys"),
            telemetry_labels: holds("telemetry_flow_labels"),
            expect_end: holds("expect_end"),
        }
    }
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let texts = value.as_array()?.iter();
    texts.map(|text| text.as_str().map(str::to_owned)).collect()
}

fn numbers(value: &Value) -> Vec<u64> {
    let numbers = value.as_array().map(Vec::as_slice).unwrap_or_default();
    numbers.iter().filter_map(Value::as_u64).collect()
}

/// Appends a dynamic configuration to its policy resource, unless it is empty.
fn append_dynamic_config(policies: &mut [String], name: &str, text: &str) -> Result<(), String> {
    let policy = policies
        .iter_mut()
        .find(|policy| crate::policy::name(policy).as_deref() == Some(name))
        .ok_or_else(|| format!("dynamic_config names an unknown policy {name}"))?;
    if text.trim().is_empty() || text.trim() == "{}" {
        return Ok(());
    }
    policy.push_str("\ndynamicConfig:\n");
    for line in text.lines() {
        policy.push_str("  ");
        policy.push_str(line);
        policy.push('\n');
    }
    Ok(())
}

fn read_calls(value: &Value) -> Result<Vec<Call>, String> {
    let calls = value["calls"].as_array().ok_or("calls are not a list")?;
    calls
        .iter()
        .enumerate()
        .map(|(number, call)| {
            let expected = match (call.get("response"), call.get("error")) {
                (Some(answer), None) => Expected::Answer(answer.clone()),
                (None, Some(error)) => Expected::Error(error["code"].to_string()),
                _ => return Err(format!("call {number}: neither response nor error")),
            };
            Ok(Call {
                number,
                rpc: call["rpc"].as_str().unwrap_or_default().to_owned(),
                request: call["request"].clone(),
                id: call["id"].as_str().map(str::to_owned),
                of: call["of"].as_str().map(str::to_owned),
                deadline: call["deadline"].as_f64(),
                cancel: call["cancel"].as_f64(),
                at: read_time(&call["at"], number)?,
                until: read_time(call.get("until").unwrap_or(&call["at"]), number)?,
                burst: call["note"].as_str() == Some("burst"),
                noisy: call["noisy"].as_bool().unwrap_or(false),
                deviates: numbers(&call["deviates"]),
                expected,
            })
        })
        .collect()
}

fn read_decisions(value: &Value) -> Result<Vec<Published>, String> {
    let decisions = value["decisions"].as_array().map(Vec::as_slice);
    let read = |decision: &Value| {
        let key = decision["key"].as_str().unwrap_or_default();
        let component = key.rsplit('-').next().unwrap_or_default();
        let value = match float(&decision["accept_percentage"]) {
            Some(percentage) if !decision["accept_percentage"].is_null() => {
                PublishedValue::AcceptPercentage(percentage)
            }
            _ => PublishedValue::Load(
                float(&decision["load_multiplier"]).ok_or("load_multiplier is not a number")?,
                decision["pass_through"].as_bool().unwrap_or(false),
                decision["valid_until"].as_f64(),
            ),
        };
        let at = decision["at"].as_f64().unwrap_or(f64::NEG_INFINITY);
        let made_at = decision["valid_until"].as_f64();
        Ok(Published {
            at,
            made_at: made_at.map(|until| (until - VALID_FOR).min(at)),
            component: component.to_owned(),
            value,
        })
    };
    decisions.unwrap_or_default().iter().map(read).collect()
}

fn read_time(value: &Value, number: usize) -> Result<f64, String> {
    value
        .as_f64()
        .ok_or_else(|| format!("call {number}: at is not a number"))
}

fn read_rows(value: &Value) -> Result<Vec<Call>, String> {
    let columns = texts(&value["columns"]).ok_or("columns are not names")?;
    let rows = value["rows"].as_array().ok_or("rows are not a list")?;
    let last = rows.len().saturating_sub(1);
    rows.iter()
        .enumerate()
        .map(|(number, row)| {
            let cell = |name: &str| {
                let column = columns.iter().position(|column| column == name);
                column.map_or(&Value::Null, |column| &row[column])
            };
            let request = cell("request").as_u64().unwrap_or(0) as usize;
            let token = |name: &str| float(cell(name)).unwrap_or(f64::NAN);
            let accepted = cell("accepted").as_u64();
            let expected = match (accepted, number) {
                (None, _) => Expected::Error("DEADLINE_EXCEEDED".into()),
                (_, 0) if !value["first_response"].is_null() => {
                    Expected::Answer(value["first_response"].clone())
                }
                (_, _) if number == last && !value["last_response"].is_null() => {
                    Expected::Answer(value["last_response"].clone())
                }
                (Some(accepted), _) => Expected::Row(
                    accepted == 1,
                    [token("remaining"), token("current"), token("consumed")],
                ),
            };
            Ok(Call {
                number,
                rpc: "check".into(),
                request: value["requests"][request].clone(),
                id: None,
                of: None,
                deadline: value["deadlines"][request].as_f64(),
                cancel: None,
                at: read_time(cell("at"), number)?,
                until: read_time(cell("until"), number)?,
                burst: false,
                noisy: false,
                deviates: Vec::new(),
                expected,
            })
        })
        .collect()
}

/// Reads a number. NaN and infinities are recorded as texts, and a missing number is zero.
pub(crate) fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Null => Some(0.0),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            text => text.parse().ok(),
        },
        value => value.as_f64(),
    }
}

fn longest_call(value: &Value) -> f64 {
    let calls = value["calls"].as_array().map(Vec::as_slice);
    let duration = |at: &Value, until: &Value| match (at.as_f64(), until.as_f64()) {
        (Some(at), Some(until)) => until - at,
        _ => 0.0,
    };
    let rows = value["rows"].as_array().map(Vec::as_slice);
    calls
        .unwrap_or_default()
        .iter()
        .map(|call| duration(&call["at"], &call["until"]))
        .chain(
            rows.unwrap_or_default()
                .iter()
                .map(|row| duration(&row[0], &row[1])),
        )
        .fold(0.0, f64::max)
}
