//! Wrong conditions, labels and signals in code, and what only files or only code can express.

use std::time::Duration;

use super::*;

#[test]
fn matchers_need_labels_and_values() {
    let new = LabelMatcher::new;
    let nested = |depth: usize| (0..depth).fold(new().exists("a"), |inner, _| new().not(inner));
    for (matcher, field, part) in [
        (new().equals("", "a"), "[0]", "label is empty"),
        (new().one_of::<&str>("a", []), "[0]", "at least one"),
        (
            new().exists("a").none_of::<&str>("a", []),
            "[1]",
            "at least one",
        ),
        (new().any([]), "[0]", "at least one"),
        (
            new().any([new().exists("")]),
            "[0].any[0][0]",
            "label is empty",
        ),
        (nested(7), "", "more than 6 times"),
        (nested(100_000), "", "more than 6 times"),
    ] {
        let field = format!("at[0].when{field}");
        assert_refused(&matched(matcher), &field, part);
    }
}

#[test]
fn classifiers_need_different_labels() {
    let host = || Extractor::attribute("request.http.host");
    let twice = Extractor::path_templates([("/a", "1"), ("/a", "2")]);
    for (classifier, field, part) in [
        (Classifier::new(), "", "add one by `label`"),
        (
            Classifier::new().label("a", host()).label("a", host()),
            ".labels[1]",
            "twice",
        ),
        (
            Classifier::new().label("a", twice),
            ".labels[0].path_templates",
            "twice",
        ),
        (Classifier::new().label("", host()), ".labels[0]", "empty"),
        (
            Classifier::new().label("a".repeat(257), host()),
            ".labels[0]",
            "257 bytes",
        ),
        (Classifier::new().rego("", ["a"]), ".rego.module", "empty"),
    ] {
        let policy = Policy::new("p").at("a").classify(classifier);
        assert_refused(&policy, &format!("classifiers[0]{field}"), part);
    }
}

#[test]
fn signals_need_a_meaning() {
    let open = |signal: Signal| limited(RateLimit::per_second(1).pass_through_while(signal));
    let metered = |signal: Signal| open(signal).measure(FluxMeter::new("m"));
    let second = Duration::from_secs(1);
    let many = (0..1000).fold(Signal::promql("a"), |sum, _| sum.plus(1));
    let doubled = (0..64).fold(Signal::promql("a"), |sum, _| sum.clone().plus(sum));
    for (policy, field, part) in [
        (open(Signal::from(f64::NAN)), "", "finite"),
        (open(Signal::from(1).every(second)), "", "`every`"),
        (open(Signal::promql("a").held_for(second)), "", "`held_for`"),
        (
            open(Signal::promql("a").every(Duration::ZERO)),
            ".every",
            "more than zero",
        ),
        (open(Signal::promql("")), ".promql", "empty"),
        (open(Signal::all_of([])), "", "at least one"),
        (open(Signal::any_of([]).plus(1)), "", "at least one"),
        (open(many), "", "more than 256"),
        (open(doubled), "", "more than 256"),
        (
            open(Signal::mean_latency("x", second)),
            ".mean_latency",
            "no flux meter",
        ),
        (
            metered(Signal::mean_latency("m", second / 2)),
            ".mean_latency",
            "whole seconds",
        ),
        (
            metered(Signal::latency_quantile("m", 1.5, second)),
            ".latency_quantile",
            "from 0 to 1",
        ),
        (
            open(Signal::config("k", 1).plus(Signal::config("k", 2))),
            ".config",
            "one key",
        ),
    ] {
        let field = format!("components[0].pass_through_while{field}");
        assert_refused(&policy, &field, part);
    }
}

#[test]
fn the_loader_checks_policies_in_code_too() {
    let host = || Extractor::attribute("request.http.host");
    let classified = |classifier| Policy::new("p").at("a").classify(classifier);
    let (limits, rules) = (
        "spec.circuit.components[0].flow_control.rate_limiter.selectors[0].label_matcher",
        "spec.resources.flow_control.classifiers[0].rules",
    );
    for (policy, field, part) in [
        (
            matched(LabelMatcher::new().matches("a", "(")),
            format!("{limits}.expression.label_matches.regex"),
            "regular expression",
        ),
        (
            classified(Classifier::new().label("a-b", host())),
            format!("{rules}.a-b"),
            "name of a label",
        ),
        (
            classified(Classifier::new().label("a", Extractor::attribute("nothing"))),
            format!("{rules}.a.extractor.from"),
            "no such attribute",
        ),
        (
            classified(Classifier::new().label("a", Extractor::json("request.http.body", "x"))),
            format!("{rules}.a.extractor.json.pointer"),
            "starts with `/`",
        ),
        (
            Policy::new("p").measure(FluxMeter::new("m").at("a").linear_buckets(0.0, 1.0, 10_001)),
            "spec.resources.flow_control.flux_meters.m.linear_buckets.count".to_owned(),
            "from 1 to 10000",
        ),
    ] {
        assert_refused(&policy, &field, part);
    }
}

#[test]
fn a_file_cannot_express_a_dry_run() {
    let policy = limited(RateLimit::per_second(1)).dry_run(true);
    assert!(read(&policy).is_ok());
    let error = policy.to_yaml().expect_err("files have no such field");
    assert_eq!(
        error.to_string(),
        "policy `p`: dry_run: a policy file cannot express this; leave it out, and call \
         `EngineBuilder::dry_run(\"p\")` where the file is loaded"
    );
}

#[test]
fn the_control_point_of_a_layer_is_the_only_one() {
    let limit = || RateLimit::per_second(1);
    let one = Policy::new("p")
        .at("a")
        .limit(limit())
        .limit(limit().at("a"));
    assert_eq!(one.control_point(), Ok("a"));
    let two = one.limit(limit().at("b"));
    let error = two.control_point().expect_err("there are two");
    assert!(error.message().contains("`a` and `b`"), "{error}");
    let none = Policy::new("p").limit(limit());
    assert!(none.control_point().is_err());
}

#[test]
fn debug_output_has_no_values_of_labels() {
    let matcher = LabelMatcher::new()
        .equals("user", "ann")
        .matches("user", "ann");
    let selector = Selector::control_point("a").when(matcher.clone());
    let scheduler = Scheduler::slots(1).priority_from("user", [("ann", 1.0)]);
    let sampler = Sampler::percent(1).always_accept(["ann"]);
    let extractor = Extractor::path_templates([("/{id}", "ann")]);
    let policy = Policy::new("p")
        .at(selector.clone())
        .schedule(scheduler.clone());
    for text in [
        format!("{matcher:?}"),
        format!("{selector:?}"),
        format!("{scheduler:?}"),
        format!("{sampler:?}"),
        format!("{extractor:?}"),
        format!("{policy:?}"),
        format!("{:?}", policy.into_document()),
    ] {
        assert!(!text.contains("ann"), "{text}");
    }
}
