//! Tests the replay itself, with synthetic recordings whose verdicts are known.

use serde_json::{Value, json};

use crate::recording::Recording;
use crate::replay::replay;
use crate::{Verdict, loops};

const CAPACITY: u32 = 40;

fn policy(components: &str) -> String {
    format!(
        "kind: Policy\nmetadata: {{name: made}}\nspec:\n  circuit:\n    components:\n{components}"
    )
}

fn bucket(capacity: &str) -> String {
    format!(
        "    - flow_control: {{rate_limiter: {{in_ports: {{bucket_capacity: {capacity}, fill_amount: \
         {{constant_signal: {{value: 0}}}}}}, parameters: {{interval: 1s}}, request_parameters: \
         {{tokens_label_key: tokens}}, selectors: [{{control_point: here}}]}}}}\n"
    )
}

fn recording(policy: &str, calls: &[Value]) -> Value {
    json!({"policies": [policy], "calls": calls})
}

/// Returns a burst of calls with these costs that the Agent decided in this order.
fn burst(costs: &[u32], order: &[usize]) -> Vec<Value> {
    let mut calls = vec![Value::Null; costs.len()];
    let mut remaining = CAPACITY;
    for &at in order {
        let cost = costs[at];
        let granted = cost <= remaining;
        remaining -= if granted { cost } else { 0 };
        let tokens = json!({
            "remaining": remaining, "current": CAPACITY - remaining, "consumed": if granted { cost } else { 0 },
        });
        let mut response = json!({
            "control_point": "here",
            "limiter_decisions": [{
                "policy_name": "made", "component_id": "root.0", "dropped": !granted,
                "rate_limiter_info": {"label": "default", "tokens_info": tokens},
            }],
        });
        if !granted {
            response["decision_type"] = "DECISION_TYPE_REJECTED".into();
            response["reject_reason"] = "REJECT_REASON_RATE_LIMITED".into();
            response["denied_response_status_code"] = "TooManyRequests".into();
        }
        let request = json!({"control_point": "here", "labels": {"tokens": cost.to_string()}});
        let sent = at as f64 * 0.005;
        calls[at] = json!({
            "rpc": "check", "request": request, "note": "burst", "at": sent, "until": sent + 0.001,
            "response": response,
        });
    }
    calls
}

/// Returns the name of each check, and whether the replay gives the expected verdict.
pub(crate) fn run() -> Vec<(&'static str, bool)> {
    let verdict = |value: &Value| match Recording::read(value) {
        Ok(recording) => replay(&recording),
        Err(problem) => Verdict::Differs(problem),
    };
    let plain = policy(&bucket(&format!(
        "{{constant_signal: {{value: {CAPACITY}}}}}"
    )));
    let different: Vec<u32> = (1..=12).collect();
    let similar = [1, 5, 9, 1, 5, 9, 2, 1, 5, 9];
    let mut bursts_match = true;
    for (costs, order) in [
        (&different[..], &[7, 2, 11, 0, 5, 9, 1, 10, 3, 6, 8, 4][..]),
        (&different, &[11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        (&similar, &[9, 3, 6, 8, 0, 1, 7, 2, 5, 4]),
    ] {
        let calls = burst(costs, order);
        let verdict = verdict(&recording(&plain, &calls));
        if let Verdict::Differs(difference) = &verdict {
            println!("the replay: {order:?}: {difference}");
        }
        bursts_match &= matches!(verdict, Verdict::Same);
    }
    let mut impossible = burst(&different, &[7, 2, 11, 0, 5, 9, 1, 10, 3, 6, 8, 4]);
    impossible[7]["response"]["limiter_decisions"][0]["rate_limiter_info"]["tokens_info"]["remaining"] =
        json!(39);
    let differs = matches!(
        verdict(&recording(&plain, &impossible)),
        Verdict::Differs(_)
    );

    let one = burst(&[1], &[0]);
    let queried = policy(&format!(
        "    - query: {{promql: {{query_string: up, out_ports: {{output: {{signal_name: UP}}}}}}}}\n{}",
        bucket("{signal_name: UP}")
    ));
    let queries = recording(&queried, &one);
    let mut published = queries.clone();
    published["decisions"] = json!([{"at": 0.0, "key": "made-root.1", "load_multiplier": 1.0}]);
    let skipped = |verdict: &Verdict| matches!(verdict, Verdict::Skipped(reason) if reason == loops::QUERIES_PROMETHEUS);
    let loop_verdict = loops::replay(&published);

    let unsupported = "    - ema: {parameters: {ema_window: 10s, warmup_window: 5s}}\n";
    let refused = recording(
        &policy(&format!(
            "{unsupported}{}",
            bucket("{constant_signal: {value: 1}}")
        )),
        &one,
    );
    let names_ema =
        |verdict: &Verdict| matches!(verdict, Verdict::Refused(reason) if reason.contains("`ema`"));
    vec![
        (
            "bursts of ten and twelve calls, decided in any order",
            bursts_match,
        ),
        ("a burst with an outcome that no order explains", differs),
        (
            "a signal from a Prometheus query",
            skipped(&verdict(&queries)),
        ),
        (
            "a loop that queries Prometheus",
            loop_verdict.is_some_and(|verdict| skipped(&verdict)),
        ),
        (
            "a component that is not supported",
            names_ema(&verdict(&refused)),
        ),
    ]
}
