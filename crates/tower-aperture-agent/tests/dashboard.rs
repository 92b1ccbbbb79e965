//! Tests the Grafana dashboard against the example: every expression is PromQL, and the example
//! serves every metric and label in it.
//!
//! `.ci/dashboard` also sends each expression to a real Prometheus, whose URL is in the variable
//! `PROMETHEUS`.

#[path = "../examples/dashboard.rs"]
#[allow(dead_code)]
mod example;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;

/// Time after which a test fails. Only a hanging test takes as long, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// Labels that Prometheus adds to each series.
const ADDED_LABELS: &[&str] = &["job"];

struct Panel {
    title: String,
    expr: String,
    legend: String,
}

fn dashboard() -> Value {
    let text = include_str!("../../../examples/grafana/dashboard.json");
    serde_json::from_str(text).expect("JSON")
}

fn panels() -> Vec<Panel> {
    let dashboard = dashboard();
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        if panel["type"] == "row" {
            continue;
        }
        for target in panel["targets"].as_array().expect("targets") {
            all.push(Panel {
                title: text(&panel["title"]),
                expr: text(&target["expr"]),
                legend: text(&target["legendFormat"]),
            });
        }
    }
    assert!(all.len() > 20, "{} expressions", all.len());
    all
}

/// Replaces the variables as Grafana does when every value is selected.
fn fill_in(text: &str) -> String {
    let text = text
        .replace("$__rate_interval", "1m")
        .replace("$job", ".*")
        .replace("$control_point", ".*");
    assert!(!text.contains('$'), "an unknown variable in {text}");
    text
}

/// The metrics and labels that an expression reads.
#[derive(Default)]
struct Needs {
    /// Metrics, each with the labels that it must have.
    metrics: BTreeMap<String, BTreeSet<String>>,
    /// The labels of each aggregation, in the order of the walk.
    groups: Vec<BTreeSet<String>>,
    selectors: Vec<VectorSelector>,
}

impl ExprVisitor for Needs {
    type Error = String;

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, String> {
        match expr {
            Expr::Aggregate(aggregate) => {
                if let Some(LabelModifier::Include(labels)) = &aggregate.modifier {
                    self.groups.push(labels.labels.iter().cloned().collect());
                } else {
                    self.groups.push(BTreeSet::new());
                }
            }
            Expr::VectorSelector(selector) => self.select(selector),
            Expr::MatrixSelector(matrix) => self.select(&matrix.vs),
            _ => {}
        }
        Ok(true)
    }
}

impl Needs {
    fn of(text: &str) -> Self {
        let expr = parser::parse(&fill_in(text)).unwrap_or_else(|why| panic!("{text}: {why}"));
        let mut needs = Self::default();
        walk_expr(&mut needs, &expr).expect("the expression is walked");
        assert!(!needs.metrics.is_empty(), "{text} reads no metric");
        needs
    }

    /// Adds the labels of the matchers and of the aggregation; the dashboard renames no labels.
    fn select(&mut self, selector: &VectorSelector) {
        let name = selector.name.clone().expect("selectors name a metric");
        let labels = self.metrics.entry(name).or_default();
        let matchers = selector.matchers.matchers.iter();
        labels.extend(matchers.map(|matcher| matcher.name.clone()));
        if let Some(group) = self.groups.last() {
            labels.extend(group.iter().cloned());
        }
        self.selectors.push(selector.clone());
    }
}

/// The labels of each metric in a scrape.
type Scrape = BTreeMap<String, BTreeSet<String>>;

fn parse_scrape(scrape: &str) -> Scrape {
    let mut all = Scrape::new();
    let lines = scrape.lines().filter(|line| !line.starts_with('#'));
    for line in lines.filter(|line| !line.is_empty()) {
        // The text of a series is a valid PromQL selector.
        let (series, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let Ok(Expr::VectorSelector(series)) = parser::parse(series) else {
            panic!("not a series: {line}");
        };
        let labels = all.entry(series.name.expect("a name")).or_default();
        labels.extend(series.matchers.matchers.into_iter().map(|label| label.name));
    }
    all
}

/// Returns the metrics and labels that panels and variables read and the scrape lacks.
fn missing(scrape: &Scrape) -> Vec<String> {
    let mut missing = Vec::new();
    let mut expressions: Vec<_> = panels()
        .into_iter()
        .map(|panel| (format!("{}: {}", panel.title, panel.expr), panel.expr))
        .collect();
    for variable in dashboard()["templating"]["list"]
        .as_array()
        .expect("a list")
    {
        let Some(query) = variable["query"]["query"].as_str() else {
            continue;
        };
        let expression = query.strip_prefix("label_values(").and_then(|query| {
            let (series, label) = query.strip_suffix(')')?.rsplit_once(", ")?;
            Some(format!("sum by ({label}) ({series})"))
        });
        expressions.push((
            query.to_owned(),
            expression.expect("label_values(series, label)"),
        ));
    }
    for (reader, expr) in expressions {
        for (name, labels) in Needs::of(&expr).metrics {
            let Some(present) = scrape.get(&name) else {
                missing.push(format!("{reader}: no metric {name}"));
                continue;
            };
            for label in labels {
                if !present.contains(&label) && !ADDED_LABELS.contains(&label.as_str()) {
                    missing.push(format!("{reader}: {name} has no label {label}"));
                }
            }
        }
    }
    missing
}

#[tokio::test]
async fn the_example_serves_every_metric_and_label_of_the_dashboard() {
    let base = example::serve("127.0.0.1:0")
        .await
        .expect("the example serves");
    let start = Instant::now();
    loop {
        example::traffic(&base).await.expect("the requests succeed");
        let mut scrape = example::flows::ask(&base, "metrics")
            .await
            .expect("a scrape");
        scrape += &example::flows::ask(&base, "agent/metrics")
            .await
            .expect("a scrape");
        let missing = missing(&parse_scrape(&scrape));
        if missing.is_empty() {
            break;
        }
        // Some series appear only after ticks of control loops, or once a bucket has tokens again.
        assert!(start.elapsed() < LONG, "{missing:#?} in\n{scrape}");
    }
}

#[test]
fn legends_show_the_labels_that_expressions_group_by() {
    for panel in panels() {
        let shown: BTreeSet<_> = panel
            .legend
            .split("{{")
            .skip(1)
            .map(|rest| rest.split("}}").next().expect("a name").to_owned())
            .collect();
        let mut groups = Needs::of(&panel.expr).groups;
        for group in &mut groups {
            group.remove("le");
            assert_eq!(*group, shown, "{}: {}", panel.title, panel.expr);
        }
        assert!(!groups.is_empty(), "{}: {}", panel.title, panel.expr);
    }
}

#[test]
fn the_dashboard_shows_every_metric_of_this_crate() {
    let shown: BTreeSet<String> = panels()
        .iter()
        .flat_map(|panel| Needs::of(&panel.expr).metrics.into_keys())
        .collect();
    let source = include_str!("../../../src/metrics/mod.rs");
    let named = source.lines().filter_map(|line| {
        let rest = line.trim_start_matches("//! ").strip_prefix("| `")?;
        rest.split('`').next()
    });
    let mut count = 0;
    for name in named.filter(|name| name.starts_with("tower_aperture_")) {
        count += 1;
        let matches = |shown: &String| shown.starts_with(name);
        assert!(shown.iter().any(matches), "no panel shows {name}");
    }
    assert!(count >= 15, "{count} names in the table");
}

#[test]
fn the_dashboard_shows_the_metrics_of_preemption_and_delay() {
    let shown: BTreeSet<String> = panels()
        .iter()
        .filter(|panel| panel.expr.contains("workload_index"))
        .flat_map(|panel| Needs::of(&panel.expr).metrics.into_keys())
        .collect();
    for kind in ["workload", "fairness"] {
        for name in [
            "preempted_tokens_sum",
            "preempted_tokens_count",
            "delayed_tokens_sum",
            "delayed_tokens_count",
            "on_time_total",
        ] {
            let name = format!("{kind}_{name}");
            assert!(shown.contains(&name), "no panel shows {name}");
        }
    }
}

#[test]
fn panels_have_distinct_ids_and_do_not_overlap() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let position = |side: &str| panel["gridPos"][side].as_u64().expect("a number");
        assert!(position("x") + position("w") <= 24, "{}", panel["title"]);
        for x in position("x")..position("x") + position("w") {
            for y in position("y")..position("y") + position("h") {
                assert!(
                    taken.insert((x, y)),
                    "{} overlaps another panel",
                    panel["title"]
                );
            }
        }
    }
}

/// Requires a Prometheus that scrapes the example, and waits until its rates have values.
#[tokio::test]
#[ignore = "needs a Prometheus, see .ci/dashboard"]
async fn prometheus_answers_every_expression() {
    let base = std::env::var("PROMETHEUS").expect("the variable PROMETHEUS");
    let start = Instant::now();
    for Panel { title, expr, .. } in panels() {
        loop {
            let mut url = http::Uri::try_from(&base).expect("a URL").into_parts();
            let query = percent_encoding::utf8_percent_encode(
                &fill_in(&expr),
                percent_encoding::NON_ALPHANUMERIC,
            )
            .to_string();
            let path = format!("/api/v1/query?query={query}");
            url.path_and_query = Some(path.parse().expect("a path"));
            let url = http::Uri::from_parts(url).expect("a URL").to_string();
            let (base, path) = url.split_at(url.find("/api").expect("a path"));
            let response = example::flows::ask(base, &path[1..])
                .await
                .expect("a response");
            let response: Value = serde_json::from_str(&response).expect("JSON");
            assert_eq!(response["status"], "success", "{title}: {expr}: {response}");
            let found = response["data"]["result"].as_array().expect("a vector");
            if !found.is_empty() {
                break;
            }
            assert!(start.elapsed() < LONG, "{title}: no value for {expr}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
