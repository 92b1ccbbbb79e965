//! Wrong values in code: each is an error that names the policy, the field and the fix.

use std::time::Duration;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn limits_need_tokens_slots_and_time() {
    for (policy, field, part) in [
        (
            limited(RateLimit::per_second(0)),
            "components[0].tokens",
            "more than zero",
        ),
        (
            limited(RateLimit::per_second(-1)),
            "components[0].tokens",
            "more than zero",
        ),
        (
            limited(RateLimit::per_second(f64::NAN)),
            "components[0].tokens",
            "finite",
        ),
        (
            limited(RateLimit::per_second(f64::INFINITY)),
            "components[0].tokens",
            "finite",
        ),
        (
            limited(RateLimit::per_second(5).burst(0)),
            "components[0].burst",
            "at least 1",
        ),
        (
            limited(RateLimit::per_second(5).burst(0.5)),
            "components[0].burst",
            "at least 1",
        ),
        (
            limited(RateLimit::per_second(5).burst(f64::NAN)),
            "components[0].burst",
            "finite",
        ),
        (
            limited(RateLimit::per_second(5).lazy_sync(0)),
            "components[0].lazy_sync",
            "more than zero",
        ),
        (
            limited(RateLimit::every(Duration::ZERO)),
            "components[0].interval",
            "more than zero",
        ),
        (
            limited(RateLimit::every(Duration::MAX)),
            "components[0].interval",
            "10 000 years",
        ),
        (
            limited(RateLimit::per_second(1).by("")),
            "components[0].by",
            "must not be empty",
        ),
        (
            limited(RateLimit::per_second(1).tokens_from("")),
            "components[0].tokens_from",
            "must not be empty",
        ),
        (
            limited(ConcurrencyLimit::slots(0)),
            "components[0].slots",
            "more than zero",
        ),
        (
            limited(ConcurrencyLimit::slots(1).max_inflight_duration(Duration::ZERO)),
            "components[0].max_inflight_duration",
            "more than zero",
        ),
        (
            limited(RateLimit::per_second(Signal::config("rate", 0.5))),
            "components[0].burst",
            "at least 1",
        ),
        (
            limited(RateLimit::per_second(Signal::config("", 5))),
            "components[0].tokens.config",
            "must not be empty",
        ),
        (
            limited(RateLimit::per_second(1)).limit(RateLimit::per_second(0)),
            "components[1].tokens",
            "more than zero",
        ),
    ] {
        assert_refused(&policy, field, part);
    }
}

#[test]
fn policies_need_names_control_points_and_parts() {
    let limit = || RateLimit::per_second(1);
    let meter = || FluxMeter::new("m").at("a");
    for (policy, field, part) in [
        (
            Policy::new("").at("a").limit(limit()),
            "name",
            "must not be empty",
        ),
        (Policy::new("p").at("a"), "", "add one by `limit`"),
        (
            Policy::new("p").limit(limit()),
            "components[0].at",
            "no control point",
        ),
        (
            Policy::new("p").at("").limit(limit()),
            "at[0].control_point",
            "empty",
        ),
        (
            Policy::new("p").limit(limit().at("a").at("")),
            "components[0].at[1].control_point",
            "empty",
        ),
        (
            Policy::new("p")
                .at(Selector::control_point("a").service(""))
                .limit(limit()),
            "at[0].service",
            "empty",
        ),
        (
            Policy::new("p").at("a").agent_group("").limit(limit()),
            "at[0].agent_group",
            "empty",
        ),
        (
            Policy::new("p").measure(meter()).measure(meter()),
            "meters[1]",
            "rename one",
        ),
        (
            Policy::new("p").at("a").measure(FluxMeter::new("")),
            "meters[0].name",
            "empty",
        ),
        (
            Policy::new("p").measure(meter().buckets([2.0, 1.0])),
            "meters[0].buckets",
            "must rise",
        ),
        (
            Policy::new("p").measure(meter().buckets([])),
            "meters[0].buckets",
            "at least one",
        ),
        (
            Policy::new("p").measure(meter().linear_buckets(1.0, 0.0, 3)),
            "meters[0].buckets",
            "more than zero",
        ),
        (
            Policy::new("p").measure(meter().exponential_bucket_range(2.0, 1.0, 3)),
            "meters[0].buckets",
            "less than",
        ),
        (
            Policy::new("p")
                .at("a")
                .limit(limit())
                .evaluation_interval(Duration::ZERO),
            "evaluation_interval",
            "more than zero",
        ),
    ] {
        assert_refused(&policy, field, part);
    }
}

#[test]
fn schedulers_need_priorities_time_and_different_names() {
    let slots = || Scheduler::slots(2);
    let load = || Scheduler::load(LoadControl::fixed(1));
    for (scheduler, field, part) in [
        (
            slots().priority_from("t", [("a", 0.0)]),
            "workloads[0].priority",
            "more than zero",
        ),
        (
            slots().priority_from("t", [("a", f64::NAN)]),
            "workloads[0].priority",
            "finite",
        ),
        (
            slots().priority_from("t", [("", 1.0)]),
            "workloads[0].name",
            "empty",
        ),
        (
            slots().priority_from("t", [("a", 1.0), ("a", 2.0), ("a", 3.0)]),
            "workloads[2]",
            "same name",
        ),
        (slots().default_priority(-1.0), "priority", "more than zero"),
        (slots().default_tokens(0.0), "tokens", "more than zero"),
        (
            slots().queue_for(Duration::from_millis(10)),
            "queue_for",
            "more than 10 ms",
        ),
        (
            slots().queue_for(Duration::MAX),
            "queue_for",
            "10 000 years",
        ),
        (slots().fair_by(""), "fair_by", "empty"),
        (
            slots().tokens_by_latency(true),
            "tokens_by_latency",
            "Scheduler::load",
        ),
        (load().by("user"), "by", "Scheduler::slots"),
        (
            load().max_idle_time(HOUR),
            "max_idle_time",
            "leave this out",
        ),
        (
            load().pass_through_while(1),
            "pass_through_while",
            "leave this out",
        ),
        (
            Scheduler::new(RateLimit::per_second(0)),
            "tokens",
            "more than zero",
        ),
    ] {
        assert_refused(
            &scheduled(scheduler),
            &format!("components[0].{field}"),
            part,
        );
    }
}

#[test]
fn control_loops_take_their_own_settings_only() {
    let aimd = || LoadControl::aimd(Signal::promql("a"), 1);
    let aiad = || LoadControl::aiad(Signal::promql("a"), 1);
    let range = |high| LoadControl::range(Signal::promql("a"), (0.0, 1.0), high);
    for (control, field, part) in [
        (aimd().decrement(0.1), "decrement", "`aiad` only"),
        (aimd().overload_below(), "overload_below", "`aiad` only"),
        (aiad().slope(1.0), "slope", "`aimd` only"),
        (aiad().degree(1.0), "degree", "`range` only"),
        (
            LoadControl::fixed(1).confirmed_by(1),
            "confirmed_by",
            "leave it out",
        ),
        (aimd().slope(f64::NAN), "slope", "finite"),
        (aimd().gradient(2.0, 1.0), "gradient", "swap"),
        (aimd().increment(0.0), "increment", "more than zero"),
        (
            aiad().min_load_multiplier(2.0),
            "min_load_multiplier",
            "less than",
        ),
        (range((1.0, 1.5)), "high.load_multiplier", "from 0 to 1"),
        (aimd().dry_run_key(""), "dry_run_key", "empty"),
        (
            LoadControl::average_latency("m"),
            "signal.mean_latency",
            "measure(FluxMeter::new(\"m\"))",
        ),
    ] {
        let policy = scheduled(Scheduler::load(control));
        assert_refused(&policy, &format!("components[0].{field}"), part);
    }
}

#[test]
fn samplers_and_ramps_need_shares_and_steps() {
    let minute = Duration::from_secs(60);
    let sampled = |sampler| Policy::new("p").at("a").sample(sampler);
    let ramped = |ramp| Policy::new("p").at("a").ramp(ramp);
    for (policy, field, part) in [
        (sampled(Sampler::percent(101)), "percent", "from 0 to 100"),
        (sampled(Sampler::percent(f64::NAN)), "percent", "finite"),
        (
            sampled(Sampler::percent(0)),
            "percent",
            "rejects every flow",
        ),
        (
            sampled(Sampler::percent(5).always_accept(["ann"])),
            "always_accept",
            "`by`",
        ),
        (ramped(LoadRamp::new()), "steps", "add one"),
        (
            ramped(LoadRamp::new().step(100.5, minute)),
            "steps[0].target_percent",
            "from 0 to 100",
        ),
        (
            ramped(LoadRamp::new().step(1.0, Duration::MAX)),
            "steps[0].duration",
            "10 000 years",
        ),
    ] {
        assert_refused(&policy, &format!("components[0].{field}"), part);
    }
}
