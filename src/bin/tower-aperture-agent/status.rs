//! `status`: what an agent is doing, as a table that is renewed each second.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use reqwest::{Certificate, Client, Identity, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::args::{Status, Target};
use crate::check::api_key;
use crate::output::{Problem, WithCauses, complain, say};
use crate::tls;

/// How often we ask.
const EVERY: Duration = Duration::from_secs(1);
/// Home, and nothing below it.
const CLEAR: &str = "\x1b[H\x1b[J";

/// What of the agent's `GET /status` is shown; what else it says is for others.
#[derive(Deserialize)]
struct Report {
    status: String,
    accepted: u64,
    rejected: u64,
    waiting: i64,
    connections: i64,
    keys: u64,
    reloads: u64,
    failed_reloads: u64,
    components: Vec<Component>,
    #[serde(default)]
    control_loops: Vec<ControlLoop>,
}

#[derive(Deserialize)]
struct Component {
    policy_name: String,
    component_id: String,
    kind: String,
    keys: u64,
}

#[derive(Deserialize)]
struct ControlLoop {
    policy_name: String,
    component_id: String,
    /// By what they are; an invalid one is null.
    output: Option<BTreeMap<String, Value>>,
}

pub(crate) fn run(args: &Status) -> Result<ExitCode, Problem> {
    let asking = Asking::new(&args.target, args.timeout)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(show(args, &asking))
}

async fn show(args: &Status, asking: &Asking) -> Result<ExitCode, Problem> {
    let mut before = None;
    let mut turns = tokio::time::interval(EVERY);
    loop {
        turns.tick().await;
        let asked = asking.ask().await;
        let now = Instant::now();
        match asked {
            Ok(report) => {
                let table = table(&args.target.addr, &report, before, now);
                if args.once {
                    say(table.trim_end());
                    return Ok(ExitCode::SUCCESS);
                }
                before = Some((report.accepted, report.rejected, now));
                let clear = if io::stdout().is_terminal() {
                    CLEAR
                } else {
                    ""
                };
                say(format_args!("{clear}{table}"));
            }
            Err(problem) if args.once || before.is_none() => return Err(problem),
            // It may come back.
            Err(problem) => complain(WithCauses(&*problem)),
        }
    }
}

/// Who is asked, and how.
struct Asking {
    client: Client,
    address: String,
    url: String,
    api_key: Option<String>,
}

impl Asking {
    fn new(target: &Target, timeout: Duration) -> Result<Self, Problem> {
        // For the TLS of this process; that there is one already is as good.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        // The agent is where it was said to be.
        let mut client = Client::builder().no_proxy();
        if !timeout.is_zero() {
            client = client.timeout(timeout);
        }
        if let Some(path) = &target.ca {
            let certificates = Certificate::from_pem_bundle(&tls::read(path)?)
                .map_err(|_| format!("{}: this is no certificate", path.display()))?;
            client = client.tls_certs_only(certificates);
        }
        if let (Some(certificate), Some(key)) = (&target.cert, &target.key) {
            let mut pem = tls::read(certificate)?;
            pem.push(b'\n');
            pem.extend(tls::read(key)?);
            let identity = Identity::from_pem(&pem).map_err(|_| {
                format!(
                    "{}: this is no certificate with a key",
                    certificate.display()
                )
            })?;
            client = client.identity(identity);
        }
        let scheme = if target.is_secure() { "https" } else { "http" };
        let address = target.address()?;
        Ok(Self {
            client: client.build()?,
            url: format!("{scheme}://{address}/status"),
            address,
            api_key: api_key(target)?,
        })
    }

    async fn ask(&self) -> Result<Report, Problem> {
        let mut request = self.client.get(&self.url);
        if let Some(key) = &self.api_key {
            request = request.header("x-api-key", key);
        }
        let address = &self.address;
        let response = request
            .send()
            .await
            .map_err(|error| format!("{address} is unreachable: {}", causes(&error)))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => {
                return Err(format!("{address} refused the API key").into());
            }
            other => return Err(format!("{address} has no status to tell: {other}").into()),
        }
        response.json().await.map_err(|error| {
            format!(
                "{address} tells another status than ours: {}",
                causes(&error)
            )
            .into()
        })
    }
}

fn causes(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    let mut text = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let _ = write!(text, "{}{next}", if text.is_empty() { "" } else { ": " });
        cause = next.source();
    }
    if text.is_empty() {
        text = error.to_string();
    }
    text
}

/// With decisions a second, where they were counted before.
fn table(
    address: &str,
    report: &Report,
    before: Option<(u64, u64, Instant)>,
    now: Instant,
) -> String {
    let rate = |count: u64, of: fn((u64, u64)) -> u64| {
        before.map_or_else(String::new, |(accepted, rejected, then)| {
            // An agent that was started anew counts from zero.
            let more = count.saturating_sub(of((accepted, rejected)));
            let seconds = now.duration_since(then).as_secs_f64().max(0.001);
            #[allow(clippy::cast_precision_loss)]
            let rate = more as f64 / seconds;
            format!("{rate:>12.1}/s")
        })
    };
    let mut text = format!("{address} is {}\n\n", report.status);
    let mut line = |name: &str, value: &dyn Display, more: &str| {
        let _ = writeln!(text, "{name:<12}{value:>12}{more}");
    };
    line(
        "accepted",
        &report.accepted,
        &rate(report.accepted, |(accepted, _)| accepted),
    );
    line(
        "rejected",
        &report.rejected,
        &rate(report.rejected, |(_, rejected)| rejected),
    );
    line("waiting", &report.waiting, "");
    line("keys", &report.keys, "");
    line("connections", &report.connections, "");
    let failed = match report.failed_reloads {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    line("reloads", &report.reloads, &failed);
    text.push('\n');
    text.push_str(&rows(report));
    text
}

fn told(output: &BTreeMap<String, Value>) -> String {
    let signals = output.iter().map(|(name, value)| match value {
        Value::Null => format!("{name} invalid"),
        value => format!("{name} {value}"),
    });
    signals.collect::<Vec<_>>().join(", ")
}

fn rows(report: &Report) -> String {
    let mut rows = vec![["policy", "component", "kind", "keys", "driven to"].map(str::to_owned)];
    for component in &report.components {
        let driven = report.control_loops.iter().find(|one| {
            (&one.policy_name, &one.component_id)
                == (&component.policy_name, &component.component_id)
        });
        let output = driven.map(|one| one.output.as_ref().map_or("not yet".to_owned(), told));
        rows.push([
            component.policy_name.clone(),
            component.component_id.clone(),
            component.kind.clone(),
            component.keys.to_string(),
            output.unwrap_or_default(),
        ]);
    }
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: [usize; 4] = std::array::from_fn(width);
    let mut text = String::new();
    for [policy, component, kind, keys, output] in &rows {
        let [w0, w1, w2, w3] = widths;
        let row = format!("{policy:<w0$}  {component:<w1$}  {kind:<w2$}  {keys:>w3$}  {output}");
        let _ = writeln!(text, "{}", row.trim_end());
    }
    text
}
