//! The form of a recorded conversation.

use serde_json::Value;

/// One file.
pub(crate) struct Recording {
    /// To a served agent, over a socket.
    pub(crate) over_grpc: bool,
    pub(crate) agent_group: Option<String>,
    /// Texts with their dynamic configuration.
    pub(crate) policies: Vec<String>,
    pub(crate) deviates: Vec<u64>,
    pub(crate) noisy: bool,
    /// In the order of `at`.
    pub(crate) calls: Vec<Call>,
    /// Of decisions, and of those in answers to HTTP requests.
    pub(crate) shown: Shown,
    pub(crate) shown_http: Shown,
    /// How far from the recorded times it was decided, in seconds.
    pub(crate) slack: f64,
    /// Whole answers are few: rows of numbers.
    pub(crate) compact: bool,
    /// What the Controller published, in its order.
    pub(crate) decisions: Vec<Published>,
    /// When a load scheduler had learned the demand.
    pub(crate) learned_at: Option<f64>,
}

/// Decisions of load schedulers are valid for five periods of ten seconds.
const VALID_FOR: f64 = 50.0;

/// What the Controller told a component.
pub(crate) struct Published {
    /// When it was seen. On a busy machine that was later than when the Agent heard of it.
    pub(crate) at: f64,
    /// When the Controller made it, for decisions that say so.
    pub(crate) made_at: Option<f64>,
    pub(crate) component: String,
    pub(crate) told: Told,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    AcceptPercentage(f64),
    /// Multiplier, pass-through, until when.
    Load(f64, bool, Option<f64>),
}

/// Fields that are compared: some answers were shortened by them.
pub(crate) struct Shown {
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
    /// The check whose slots are given back.
    pub(crate) of: Option<String>,
    pub(crate) deadline: Option<f64>,
    /// The client gave up after so long.
    pub(crate) cancel: Option<f64>,
    pub(crate) at: f64,
    pub(crate) until: f64,
    pub(crate) burst: bool,
    pub(crate) noisy: bool,
    pub(crate) deviates: Vec<u64>,
    pub(crate) expected: Expected,
}

/// What the Agent answered.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    Answer(Value),
    /// A row of a compact recording: accepted; remaining, current and consumed.
    Row(bool, [f64; 3]),
    /// A gRPC status.
    Error(String),
}

impl Recording {
    pub(crate) fn read(value: &Value) -> Result<Self, String> {
        let mut policies = texts(&value["policies"]).ok_or("policies are not texts")?;
        for (name, text) in value["dynamic_config"].as_object().into_iter().flatten() {
            let text = text.as_str().ok_or("dynamic_config is not text")?;
            configure(&mut policies, name, text)?;
        }
        let mut calls = match value.get("rows") {
            Some(_) => rows(value)?,
            None => calls(value)?,
        };
        calls.sort_by(|a, b| a.at.total_cmp(&b.at));
        let whole = value.get("calls").is_some();
        Ok(Self {
            over_grpc: false,
            agent_group: value["agent_group"].as_str().map(str::to_owned),
            policies,
            deviates: numbers(&value["deviates"]),
            noisy: value["noisy"].as_bool().unwrap_or(false),
            shown: Shown::of(whole, &calls, |answer| Some(answer)),
            shown_http: Shown::of(whole, &calls, |answer| answer.get("check_response")),
            // The Agent looked at its clock somewhere between the two times of a call.
            slack: 0.002 + longest(value).min(0.015),
            compact: !whole,
            decisions: published(value)?,
            learned_at: value["learned_at"].as_f64(),
            calls,
        })
    }
}

impl Recording {
    /// A sampler without a session to go by decided about it.
    pub(crate) fn is_drawn(&self, call: &Call) -> bool {
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
            // Rows do not say who decided: the first answer of the recording does.
            Expected::Row(..) => self.calls.iter().any(|first| match &first.expected {
                Expected::Answer(answer) => draws(answer),
                _ => false,
            }),
            Expected::Error(_) => false,
        }
    }
}

/// The decision in an answer: that to an HTTP request has it in a field.
pub(crate) fn decision(answer: &Value) -> &Value {
    answer.get("check_response").unwrap_or(answer)
}

impl Shown {
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

/// Puts a dynamic configuration where a policy resource has it, if there is anything in it.
fn configure(policies: &mut [String], name: &str, text: &str) -> Result<(), String> {
    let policy = policies
        .iter_mut()
        .find(|policy| crate::policy::name(policy).as_deref() == Some(name))
        .ok_or_else(|| format!("dynamic_config of an unknown policy {name}"))?;
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

fn calls(value: &Value) -> Result<Vec<Call>, String> {
    let calls = value["calls"].as_array().ok_or("calls are no list")?;
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
                at: at(&call["at"], number)?,
                until: at(call.get("until").unwrap_or(&call["at"]), number)?,
                burst: call["note"].as_str() == Some("burst"),
                noisy: call["noisy"].as_bool().unwrap_or(false),
                deviates: numbers(&call["deviates"]),
                expected,
            })
        })
        .collect()
}

fn published(value: &Value) -> Result<Vec<Published>, String> {
    let decisions = value["decisions"].as_array().map(Vec::as_slice);
    let read = |decision: &Value| {
        let key = decision["key"].as_str().unwrap_or_default();
        let component = key.rsplit('-').next().unwrap_or_default();
        let told = match float(&decision["accept_percentage"]) {
            Some(percentage) if !decision["accept_percentage"].is_null() => {
                Told::AcceptPercentage(percentage)
            }
            _ => Told::Load(
                float(&decision["load_multiplier"]).ok_or("load_multiplier is no number")?,
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
            told,
        })
    };
    decisions.unwrap_or_default().iter().map(read).collect()
}

fn at(value: &Value, number: usize) -> Result<f64, String> {
    value
        .as_f64()
        .ok_or_else(|| format!("call {number}: at is no number"))
}

fn rows(value: &Value) -> Result<Vec<Call>, String> {
    let columns = texts(&value["columns"]).ok_or("columns are no names")?;
    let rows = value["rows"].as_array().ok_or("rows are no list")?;
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
                at: at(cell("at"), number)?,
                until: at(cell("until"), number)?,
                burst: false,
                noisy: false,
                deviates: Vec::new(),
                expected,
            })
        })
        .collect()
}

/// Numbers; NaN and infinities are texts.
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

fn longest(value: &Value) -> f64 {
    let calls = value["calls"].as_array().map(Vec::as_slice);
    let took = |at: &Value, until: &Value| match (at.as_f64(), until.as_f64()) {
        (Some(at), Some(until)) => until - at,
        _ => 0.0,
    };
    let rows = value["rows"].as_array().map(Vec::as_slice);
    calls
        .unwrap_or_default()
        .iter()
        .map(|call| took(&call["at"], &call["until"]))
        .chain(
            rows.unwrap_or_default()
                .iter()
                .map(|row| took(&row[0], &row[1])),
        )
        .fold(0.0, f64::max)
}
