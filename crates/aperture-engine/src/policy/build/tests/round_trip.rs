//! Properties: a printed policy loads, and does the same.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::yaml::{Mapping, Value, YamlNode, YamlValue, print, read as read_yaml};

/// Texts that a careless printer would change.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ -~]{0,12}",
        "[a-zA-Z_./-]{1,12}",
        "[ \n\t:#'\"\\\\{}\\[\\],&*!|>%@`~-]{0,8}",
        "(yes|no|on|Off|null|~|true|1|0x1f|1e3|1s|.5s|-1s|1.5s|1:30|NaN|.inf|<<|---|y|2001-01-01)",
        "([a-z ]{0,6}\n){1,4}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            mapping(inner, 0).prop_map(Value::from),
        ]
    })
}

fn mapping(inner: impl Strategy<Value = Value>, least: usize) -> impl Strategy<Value = Mapping> {
    prop::collection::btree_map(text(), inner, least..4).prop_map(|map| {
        map.into_iter()
            .fold(Mapping::new(), |map, (key, value)| map.with(key, value))
    })
}

/// Returns the content of a tree, with its order.
fn content(node: &YamlNode) -> String {
    match &node.value {
        YamlValue::Scalar { kind, raw } => match kind {
            crate::policy::yaml::ScalarKind::Text => format!("{raw:?}"),
            kind => format!("{kind:?}"),
        },
        YamlValue::List(items) => {
            let items: Vec<String> = items.iter().map(|item| content(item)).collect();
            format!("[{}]", items.join(", "))
        }
        YamlValue::Map(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|entry| format!("{:?}: {}", entry.key, content(&entry.value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![1.0..100.0, (1..1000_u32).prop_map(f64::from), Just(1e30)]
}

fn time() -> impl Strategy<Value = Duration> {
    (11_000_000..90_000_000_000_u64).prop_map(Duration::from_nanos)
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,3}",
        "[ -~]{1,8}",
        text().prop_filter("a name", |text| !text.is_empty())
    ]
}

fn matcher() -> impl Strategy<Value = LabelMatcher> {
    let leaf =
        (word(), prop::collection::vec(word(), 1..3), 0..5_u8).prop_map(|(label, values, kind)| {
            match kind {
                0 => LabelMatcher::new()
                    .equals(label.clone(), "a")
                    .equals(label, &*values[0]),
                1 => LabelMatcher::new().one_of(label, values),
                2 => LabelMatcher::new().none_of(label, values),
                3 => LabelMatcher::new().exists(label),
                _ => LabelMatcher::new().absent(label),
            }
        });
    leaf.prop_recursive(5, 12, 2, |inner| {
        (prop::collection::vec(inner, 1..3), any::<bool>()).prop_map(|(mut inner, any)| match any {
            true => LabelMatcher::new().any(inner).exists("x"),
            false => LabelMatcher::new().not(inner.remove(0)),
        })
    })
}

fn signal() -> impl Strategy<Value = Signal> {
    let leaf = prop_oneof![
        number().prop_map(Signal::from),
        (word(), number()).prop_map(|(key, _)| Signal::config(key, 7)),
        (word(), time()).prop_map(|(query, every)| Signal::promql(query).every(every)),
        time().prop_map(|time| Signal::mean_latency("m", Duration::from_secs(time.as_secs() + 1))),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        (inner.clone(), inner, time(), 0..5_u8).prop_map(|(left, right, time, kind)| match kind {
            0 => left.plus(right),
            1 => left.times(right),
            2 => left.greater_than(right).held_for(time),
            3 => Signal::any_of([left, right]),
            _ => left.negated(),
        })
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    (word(), matcher(), any::<bool>()).prop_map(|(name, matcher, service)| {
        let selector = Selector::control_point(name).when(matcher);
        if service {
            selector.service("shop")
        } else {
            selector
        }
    })
}

fn rate_limit() -> impl Strategy<Value = RateLimit> {
    let signals = (number(), signal());
    (time(), signals, word(), time(), any::<[bool; 5]>()).prop_map(
        |(interval, (number, signal), label, idle, on)| {
            let mut limit = RateLimit::within(interval, number).continuous_fill(on[0]);
            if on[1] {
                limit = limit.by(label).max_idle_time(idle);
            }
            if on[2] {
                limit = limit.burst(number + 1.0).lazy_sync(2);
            }
            if on[3] {
                limit = limit.pass_through_while(signal);
            }
            if on[4] {
                limit.tokens_from("cost")
            } else {
                limit
            }
        },
    )
}

fn scheduler() -> impl Strategy<Value = Scheduler> {
    let limit = prop_oneof![
        rate_limit().prop_map(Limit::from),
        number().prop_map(|slots| ConcurrencyLimit::slots(slots).into()),
    ];
    let control = prop_oneof![
        (signal(), signal()).prop_map(|(signal, setpoint)| LoadControl::aimd(signal, setpoint)),
        (signal(), signal()).prop_map(|(signal, setpoint)| LoadControl::aiad(signal, setpoint)),
        signal().prop_map(|signal| LoadControl::range(signal, (1.0, 1.0), (2.0, 0.5))),
        signal().prop_map(LoadControl::fixed),
    ];
    let scheduler = prop_oneof![
        limit.prop_map(Scheduler::new),
        control.prop_map(Scheduler::load),
    ];
    let priorities = prop::collection::btree_map(word(), number(), 0..3);
    (scheduler, priorities, matcher(), time(), word()).prop_map(
        |(scheduler, priorities, matcher, time, label)| {
            scheduler
                .priority_from("tier", priorities)
                .workload(Workload::new("the last one", matcher).tokens(2.0))
                .queue_for(time)
                .fair_by(label)
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let parts = (
        prop::collection::vec(rate_limit(), 0..2),
        prop::collection::vec(scheduler(), 0..2),
        prop::collection::vec((signal(), word()), 0..2),
    );
    (word(), selector(), parts, any::<bool>()).prop_map(
        |(name, selector, (limits, schedulers, ramps), classify)| {
            let name = name.replace(['"', '\\', '\n'], "_");
            let meter = FluxMeter::new("m").buckets([1.0, 2.0]);
            let mut policy = Policy::new(name).at(selector).measure(meter);
            for limit in limits {
                policy = policy.limit(limit);
            }
            for scheduler in schedulers {
                policy = policy.schedule(scheduler);
            }
            for (signal, value) in ramps {
                let ramp = LoadRamp::new().step(5.0, Duration::from_secs(1));
                let ramp = ramp.by("user").always_accept([value]);
                policy = policy.ramp(ramp.backward_while(signal));
            }
            let host = Extractor::attribute("request.http.host");
            match classify {
                true => policy.classify(Classifier::new().label("host", host)),
                false => policy,
            }
        },
    )
}

/// Bounds the cases of a property whose cases are large.
fn at_most_cases(cases: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    let cases = config.cases.min(cases);
    ProptestConfig { cases, ..config }
}

proptest! {
    #![proptest_config(at_most_cases(2000))]

    #[test]
    fn a_printed_document_reads_as_it_was(document in mapping(value(), 1)) {
        let text = print(&document);
        let read = read_yaml(&"p.yaml".into(), &text);
        let read = read.map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(content(&read), content(&Value::from(document).to_node()), "{}", text);
    }

    #[test]
    fn a_printed_policy_is_the_same_policy(policy in policy()) {
        let in_code = read(&policy);
        let in_code = in_code.map_err(|error| TestCaseError::fail(error.to_string()))?;
        let text = policy.to_yaml().expect("it has nothing that files lack");
        let in_file = load("p.yaml", &text);
        let in_file = in_file.map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(&in_code.policy.hash, &in_file.policy.hash, "the same content");
        // The errors about queries without a source have positions in a file.
        let model = |mut loaded: LoadedPolicy| {
            loaded.policy.unanswered_queries.clear();
            model(loaded)
        };
        prop_assert_eq!(model(in_code), model(in_file), "{}", text);
    }
}

#[test]
fn the_deepest_matcher_of_a_load_scheduler_can_be_printed() {
    let one_of = || LabelMatcher::new().none_of("a", ["b"]).exists("c");
    let matcher = (0..6).fold(one_of(), |inner, _| {
        LabelMatcher::new().any([inner.clone(), inner]).exists("c")
    });
    let scheduler = Scheduler::load(LoadControl::aimd(Signal::promql("a"), 1));
    let scheduler = scheduler.workload(Workload::new("deep", matcher));
    let policy = Policy::new("p").at("a").schedule(scheduler);
    let text = policy.to_yaml().expect("the policy is valid");
    assert_eq!(load("p.yaml", &text).map(|_| ()), Ok(()));
}
