//! Compares the engine's answers with the recorded ones, within the tolerances of the recording.

use std::collections::BTreeSet;

use serde_json::Value;
use tower_aperture::RejectReason;
use tower_aperture::engine::{
    CheckReport, LimiterDecision, LimiterDetails, LimiterReason, SchedulerDetails, SlotReturn,
    TokensInfo,
};

use crate::answer::{self, Answer};
use crate::http_answer;
use crate::policy::Rates;
use crate::recording::{Call, ComparedFields, Expected, Recording, decision, float};

/// Labels of this length or more are compared only in part, because of row 21 of the register of
/// quirks.
pub(crate) const LONG_KEY: usize = 256;

/// Compares answers with those of a recording.
pub(crate) struct Judge<'a> {
    pub(crate) recording: &'a Recording,
    pub(crate) rates: Rates,
}

/// `Ok` if the values are the same, or a description of the difference.
pub(crate) type Comparison = Result<(), String>;

impl Judge<'_> {
    pub(crate) fn compare(&self, call: &Call, got: &Answer) -> Comparison {
        // Answers that deviate by these rows differ only in part.
        let differs_in_part = |row: &u64| matches!(row, 21 | 35);
        if call.noisy || !call.deviates.iter().all(differs_in_part) {
            return Ok(());
        }
        if self.recording.is_sampled_at_random(call) {
            return Ok(());
        }
        let long_keys = call.deviates.contains(&21);
        match (&call.expected, got) {
            (Expected::Answer(answer), Answer::Check(report)) => {
                self.answer(answer, report, &self.recording.compared, long_keys)
            }
            (Expected::Answer(answer), Answer::Http(got)) => {
                let report = got.as_ref().as_ref();
                let report = report.map_err(|error| format!("expected an answer, got {error}"))?;
                let compared = &self.recording.compared_http;
                self.answer(decision(answer), &report.check, compared, long_keys)?;
                http_answer::compare(
                    &call.request,
                    answer,
                    report,
                    &call.deviates,
                    self.recording.slack,
                )
            }
            (Expected::Answer(answer), Answer::Cache(got)) => same("answer", answer, got),
            (Expected::Answer(answer), Answer::End(got)) => compare_end(answer, got),
            (Expected::Answer(answer), Answer::Message(Ok(got))) => {
                crate::message::compare(self, call, answer, got)
            }
            (Expected::Error(recorded), Answer::Message(Err(code))) => {
                same("error", &grpc_code(recorded), &Some(*code))
            }
            (_, Answer::Message(Err(code))) => Err(format!("expected an answer, got {code}")),
            // The recording client may have given up later than at the recorded time.
            (_, Answer::GaveUp) if call.cancel.is_some() => Ok(()),
            (Expected::Error(code), Answer::GaveUp) if is_deadline_exceeded(code) => Ok(()),
            (_, Answer::GaveUp) => Err("no answer before the client's deadline".into()),
            (Expected::Row(accepted, tokens), Answer::Check(report)) => {
                self.row(*accepted, tokens, report)
            }
            (Expected::Row(..), _) => Err("expected the answer to a check".into()),
            (Expected::Error(recorded), Answer::Http(got)) if got.is_err() => {
                let own = got.as_ref().as_ref().err().map(|error| error.grpc_code());
                same("error", &grpc_code(recorded), &own)
            }
            // The recording client gave up, so the Agent's answer is unknown.
            (Expected::Error(code), _) if is_cancelled(code) => Ok(()),
            (Expected::Error(code), _) if is_deadline_exceeded(code) && call.deadline.is_some() => {
                Ok(())
            }
            (Expected::Error(code), _) => Err(format!("error: expected {code}, got an answer")),
        }
    }

    fn answer(
        &self,
        answer: &Value,
        report: &CheckReport,
        compared: &ComparedFields,
        long_keys: bool,
    ) -> Comparison {
        let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
        same(
            "control_point",
            &text("control_point"),
            &report.control_point,
        )?;
        same("services", &list(&answer["services"]), &report.services)?;
        if compared.label_keys {
            let keys = list(&answer["flow_label_keys"]);
            same("flow_label_keys", &keys, &report.flow_label_keys)?;
        }
        if compared.telemetry_labels {
            let labels = answer["telemetry_flow_labels"].as_object();
            let labels = labels.into_iter().flatten();
            let labels = labels
                .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect();
            same(
                "telemetry_flow_labels",
                &labels,
                &report.telemetry_flow_labels,
            )?;
        }
        if compared.expect_end {
            let expect_end = answer["expect_end"].as_bool().unwrap_or(false);
            same("expect_end", &expect_end, &report.expect_end)?;
        }
        self.decisions(answer, report, long_keys)?;
        if !long_keys {
            self.verdict(answer, report)?;
        }
        let meters = set(&answer["flux_meter_infos"], |info| {
            info["flux_meter_name"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        });
        let got = report.flux_meters.iter().map(ToString::to_string);
        same("flux_meter_infos", &meters, &got.collect())?;
        let classifiers = set(&answer["classifier_infos"], |info| {
            let index = &info["classifier_index"];
            let index = index.as_str().and_then(|index| index.parse().ok());
            (
                info["policy_name"].as_str().unwrap_or_default().to_owned(),
                index.unwrap_or(0),
            )
        });
        let got = report.classifiers.iter();
        let got = got.map(|info| (info.policy_name.to_string(), info.classifier_index));
        same("classifier_infos", &classifiers, &got.collect())?;
        let lookup = answer.get("cache_lookup_response").cloned();
        let got = report.cache_lookup.as_ref().map(answer::lookup_message);
        same("cache_lookup_response", &lookup, &got)
    }

    fn verdict(&self, answer: &Value, report: &CheckReport) -> Comparison {
        let rejected = answer["decision_type"].as_str() == Some("DECISION_TYPE_REJECTED");
        same("decision_type: rejected", &rejected, &!report.accepted())?;
        let reason = answer["reject_reason"].as_str();
        same(
            "reject_reason",
            &reason.unwrap_or("REJECT_REASON_NONE"),
            &reason_name(report.reject_reason),
        )?;
        let codes = possible_codes(answer);
        if !codes.contains(&i64::from(report.denied_response_status_code)) {
            return Err(format!(
                "denied_response_status_code: expected one of {codes:?}, got {}",
                report.denied_response_status_code
            ));
        }
        let got = report.wait_time.unwrap_or_default().as_secs_f64();
        self.wait("wait_time", &answer["wait_time"], got)
    }

    fn wait(&self, field: &str, expected: &Value, got: f64) -> Comparison {
        let expected = seconds(expected).ok_or_else(|| format!("{field}: unreadable"))?;
        close(field, expected, got, self.recording.slack)
    }

    fn decisions(&self, answer: &Value, report: &CheckReport, long_keys: bool) -> Comparison {
        let expected = answer["limiter_decisions"].as_array();
        let expected = expected.map(Vec::as_slice).unwrap_or_default();
        if expected.len() != report.limiter_decisions.len() {
            let got: Vec<_> = report.limiter_decisions.iter().map(id).collect();
            let expected: Vec<_> = expected.iter().map(expected_id).collect();
            return Err(format!(
                "limiter_decisions: expected {expected:?}, got {got:?}"
            ));
        }
        for expected in expected {
            let own = expected_id(expected);
            let found = report
                .limiter_decisions
                .iter()
                .find(|decision| id(decision) == own);
            let Some(got) = found else {
                return Err(format!("limiter_decisions: expected a decision of {own:?}"));
            };
            self.decision(expected, got, long_keys)
                .map_err(|difference| format!("{} {}: {difference}", own.0, own.1))?;
        }
        Ok(())
    }

    fn decision(&self, expected: &Value, got: &LimiterDecision, long_keys: bool) -> Comparison {
        let parts = DecisionParts::of(&got.details)?;
        let info = &expected[parts.name];
        let expected_label = info["label"].as_str().unwrap_or_default();
        same("label", &expected_label, &parts.label)?;
        let workload = info["workload_index"].as_str().unwrap_or_default();
        same("workload_index", &workload, &parts.workload)?;
        let priority = float(&info["priority"]).unwrap_or(f64::NAN);
        close("priority", priority, parts.priority, 0.0)?;
        let slot = info["request_id"].as_str().is_some();
        let reason = match expected["reason"].as_str() {
            Some("LIMITER_REASON_KEY_NOT_FOUND") => LimiterReason::KeyNotFound,
            _ => LimiterReason::Unspecified,
        };
        same("reason", &reason, &got.reason)?;
        let code = code(&expected["denied_response_status_code"]);
        let got_code = i64::from(got.denied_response_status_code);
        same("denied_response_status_code", &code, &Some(got_code))?;
        if long_keys && expected_label.len() >= LONG_KEY {
            return Ok(());
        }
        let dropped = expected["dropped"].as_bool().unwrap_or(false);
        same("dropped", &dropped, &got.dropped)?;
        self.wait(
            "wait_time",
            &expected["wait_time"],
            got.wait_time.as_secs_f64(),
        )?;
        same("request_id is present", &slot, &parts.slot)?;
        let wanted = &info["tokens_info"];
        let Some(tokens) = parts.tokens else {
            return same("tokens_info is present", &wanted.is_object(), &false);
        };
        same("tokens_info is present", &wanted.is_object(), &true)?;
        let wanted = ["remaining", "current", "consumed"].map(|field| float(&wanted[field]));
        let [Some(remaining), Some(current), Some(consumed)] = wanted else {
            return Err("tokens_info: unreadable".into());
        };
        let rate = self.rate(got, remaining + current);
        self.tokens(&[remaining, current, consumed], tokens, rate)
    }

    /// Returns the tokens per second of a bucket. The bucket of a load scheduler holds the tokens
    /// of one second.
    fn rate(&self, decision: &LimiterDecision, capacity: f64) -> f64 {
        match decision.details {
            LimiterDetails::LoadScheduler { .. } => capacity.abs(),
            _ => self
                .rates
                .get(&decision.policy_name, &decision.component_id),
        }
    }

    fn tokens(&self, expected: &[f64; 3], got: &TokensInfo, rate: f64) -> Comparison {
        let tolerance = rate * 2.0 * self.recording.slack;
        let [remaining, current, consumed] = *expected;
        close("remaining", remaining, got.remaining, tolerance)?;
        close("current", current, got.current, tolerance)?;
        close("consumed", consumed, got.consumed, 0.0)
    }

    fn row(&self, accepted: bool, tokens: &[f64; 3], report: &CheckReport) -> Comparison {
        same("accepted", &accepted, &report.accepted())?;
        let Some(decision) = report.limiter_decisions.first() else {
            return Ok(());
        };
        let Some(got) = DecisionParts::of(&decision.details)?.tokens else {
            return Ok(());
        };
        let rate = self.rate(decision, tokens[0] + tokens[1]);
        self.tokens(tokens, got, rate)
    }
}

/// Compares the share of accepted flows among those that samplers decided at random.
pub(crate) fn compare_shares(recording: &Recording, answers: &[Answer]) -> Comparison {
    let (mut sampled, mut recorded, mut own) = (0.0, 0.0, 0.0);
    for (call, got) in recording.calls.iter().zip(answers) {
        let accepted = match &call.expected {
            Expected::Answer(answer) => {
                answer["decision_type"].as_str() != Some("DECISION_TYPE_REJECTED")
            }
            Expected::Row(accepted, _) => *accepted,
            Expected::Error(_) => continue,
        };
        if let Answer::Check(report) = got
            && recording.is_sampled_at_random(call)
        {
            sampled += 1.0;
            recorded += f64::from(u8::from(accepted));
            own += f64::from(u8::from(report.accepted()));
        }
    }
    let share: f64 = (recorded + own) / (2.0 * sampled);
    // Allow five standard deviations of the difference, and one flow.
    let tolerance = 5.0 * (2.0 * share * (1.0 - share) / sampled).sqrt() + 1.0 / sampled;
    if sampled > 0.0 && (recorded - own).abs() / sampled > tolerance {
        return Err(format!(
            "sampled: expected about {recorded} of {sampled} flows accepted, got {own}"
        ));
    }
    Ok(())
}

/// The details of a decision, for any kind of component.
struct DecisionParts<'a> {
    /// The field of the message that holds the details.
    name: &'static str,
    label: &'a str,
    /// Empty for components without workloads.
    workload: &'a str,
    priority: f64,
    tokens: Option<&'a TokensInfo>,
    slot: bool,
}

impl<'a> DecisionParts<'a> {
    fn of(details: &'a LimiterDetails) -> Result<Self, String> {
        let limiter = |name, label, tokens, slot| Self {
            name,
            label,
            workload: "",
            priority: 0.0,
            tokens,
            slot,
        };
        let queue = |name, label, scheduler: &'a SchedulerDetails, slot| Self {
            name,
            label,
            workload: &scheduler.workload_index,
            priority: scheduler.priority,
            tokens: scheduler.tokens.as_ref(),
            slot,
        };
        Ok(match details {
            LimiterDetails::RateLimiter { label, tokens } => {
                limiter("rate_limiter_info", label, Some(tokens), false)
            }
            LimiterDetails::ConcurrencyLimiter {
                label,
                tokens,
                request_id,
            } => limiter(
                "concurrency_limiter_info",
                label,
                Some(tokens),
                request_id.is_some(),
            ),
            LimiterDetails::Sampler { label } => limiter("sampler_info", label, None, false),
            LimiterDetails::QuotaScheduler { label, scheduler } => {
                queue("quota_scheduler_info", label, scheduler, false)
            }
            LimiterDetails::ConcurrencyScheduler {
                label,
                scheduler,
                request_id,
            } => queue(
                "concurrency_scheduler_info",
                label,
                scheduler,
                request_id.is_some(),
            ),
            LimiterDetails::LoadScheduler { scheduler } => {
                queue("load_scheduler_info", "", scheduler, false)
            }
            other => return Err(format!("unknown details: {other:?}")),
        })
    }
}

fn compare_end(expected: &Value, got: &[SlotReturn]) -> Comparison {
    let expected = expected["token_return_statuses"].as_array();
    let expected = expected.map(Vec::as_slice).unwrap_or_default();
    same("token_return_statuses: number", &expected.len(), &got.len())?;
    for (expected, got) in expected.iter().zip(got) {
        let returned = expected["returned"].as_bool().unwrap_or(false);
        same("returned", &returned, &got.returned)?;
        same("error", &expected["error"].as_str(), &got.error)?;
    }
    Ok(())
}

pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
    field: &str,
    expected: &T,
    got: &T,
) -> Comparison {
    if expected == got {
        return Ok(());
    }
    Err(format!("{field}: expected {expected:?}, got {got:?}"))
}

/// Compares numbers. Allows for rounding, because recorded numbers are texts and may be large.
pub(crate) fn close(field: &str, expected: f64, got: f64, tolerance: f64) -> Comparison {
    let rounding = 1e-9 + expected.abs().max(got.abs()) * 1e-12;
    let both_nan = expected.is_nan() && got.is_nan();
    if both_nan || expected == got || (expected - got).abs() <= tolerance + rounding {
        return Ok(());
    }
    Err(format!("{field}: expected {expected}, got {got}"))
}

pub(crate) fn set<T: Ord>(value: &Value, read: impl Fn(&Value) -> T) -> BTreeSet<T> {
    let values = value.as_array().map(Vec::as_slice).unwrap_or_default();
    values.iter().map(read).collect()
}

fn list(value: &Value) -> Vec<String> {
    let values = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts = values.iter().map(|text| text.as_str().unwrap_or_default());
    texts.map(str::to_owned).collect()
}

fn id(decision: &LimiterDecision) -> (&str, &str) {
    (&decision.policy_name, &decision.component_id)
}

fn expected_id(decision: &Value) -> (&str, &str) {
    let text = |field: &str| decision[field].as_str().unwrap_or_default();
    (text("policy_name"), text("component_id"))
}

/// Reads a duration such as `"1.5s"`; an absent one is zero.
pub(crate) fn seconds(value: &Value) -> Option<f64> {
    match value {
        Value::Null => Some(0.0),
        value => value.as_str()?.strip_suffix('s')?.parse().ok(),
    }
}

fn reason_name(reason: Option<RejectReason>) -> &'static str {
    match reason {
        None => "REJECT_REASON_NONE",
        Some(RejectReason::RateLimited) => "REJECT_REASON_RATE_LIMITED",
        Some(RejectReason::NoTokens) => "REJECT_REASON_NO_TOKENS",
        Some(RejectReason::NotSampled) => "REJECT_REASON_NOT_SAMPLED",
        Some(RejectReason::NoMatchingRamp) => "REJECT_REASON_NO_MATCHING_RAMP",
        Some(_) => "unknown",
    }
}

/// Reads a status code, from a number or from the HTTP reason phrase without spaces.
pub(crate) fn code(value: &Value) -> Option<i64> {
    match value {
        Value::Null => Some(0),
        Value::String(name) if name == "Empty" => Some(0),
        Value::String(name) => (100..600)
            .find(|code| {
                http::StatusCode::from_u16(*code)
                    .ok()
                    .and_then(|status| status.canonical_reason())
                    .is_some_and(|phrase| {
                        let letters = phrase.chars().filter(char::is_ascii_alphanumeric);
                        letters.collect::<String>().eq_ignore_ascii_case(name)
                    })
            })
            .map(i64::from),
        value => value.as_i64(),
    }
}

/// Returns the status codes of the limiters that dropped the flow. The response has one of them.
pub(crate) fn possible_codes(answer: &Value) -> Vec<i64> {
    let recorded = code(&answer["denied_response_status_code"]);
    let mut codes: Vec<i64> = recorded.into_iter().collect();
    let decisions = answer["limiter_decisions"].as_array();
    for decision in decisions.into_iter().flatten() {
        if decision["dropped"].as_bool() == Some(true) {
            let own = code(&decision["denied_response_status_code"]);
            codes.push(
                own.filter(|code| *code != 0)
                    .unwrap_or_else(|| default_code(decision)),
            );
        }
    }
    codes
}

fn default_code(decision: &Value) -> i64 {
    if decision.get("sampler_info").is_some() {
        403
    } else if decision.get("rate_limiter_info").is_some()
        || decision.get("concurrency_limiter_info").is_some()
    {
        429
    } else {
        503
    }
}

fn grpc_code(recorded: &str) -> Option<i32> {
    match recorded.trim_matches('"') {
        "UNKNOWN" => Some(2),
        "INVALID_ARGUMENT" => Some(3),
        _ => None,
    }
}

fn is_cancelled(code: &str) -> bool {
    matches!(
        code.trim_matches('"').to_uppercase().as_str(),
        "CANCELLED" | "CANCELED" | "1"
    )
}

fn is_deadline_exceeded(code: &str) -> bool {
    let code = code.trim_matches('"').replace('_', "").to_uppercase();
    matches!(code.as_str(), "DEADLINEEXCEEDED" | "4")
}
