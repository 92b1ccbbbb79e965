//! The command `status`: shows the state of an agent as a table, once a second.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use reqwest::{Certificate, Client, Identity, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::args::{StatusArgs, TargetArgs};
use crate::check::api_key;
use crate::output::{CommandError, ErrorChain, print_error, print_line};
use crate::tls;

/// How often the status is fetched.
const REFRESH_PERIOD: Duration = Duration::from_secs(1);
/// Moves the cursor to the top left corner and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[J";

/// The fields of the agent's `GET /status` that are shown; others are ignored.
#[derive(Deserialize)]
struct StatusResponse {
    status: String,
    accepted: u64,
    rejected: u64,
    waiting: i64,
    connections: i64,
    keys: u64,
    reloads: u64,
    failed_reloads: u64,
    components: Vec<ComponentRow>,
    #[serde(default)]
    control_loops: Vec<ControlLoopRow>,
}

#[derive(Deserialize)]
struct ComponentRow {
    policy_name: String,
    component_id: String,
    kind: String,
    keys: u64,
}

#[derive(Deserialize)]
struct ControlLoopRow {
    policy_name: String,
    component_id: String,
    /// Values by name; an invalid one is null.
    output: Option<BTreeMap<String, Value>>,
}

pub(crate) fn run(args: &StatusArgs) -> Result<ExitCode, CommandError> {
    let client = StatusClient::new(&args.target, args.timeout)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(show(args, &client))
}

async fn show(args: &StatusArgs, client: &StatusClient) -> Result<ExitCode, CommandError> {
    let mut before = None;
    let mut ticks = tokio::time::interval(REFRESH_PERIOD);
    loop {
        ticks.tick().await;
        let result = client.fetch().await;
        let now = Instant::now();
        match result {
            Ok(report) => {
                let table = table(&args.target.addr, &report, before, now);
                if args.once {
                    print_line(table.trim_end());
                    return Ok(ExitCode::SUCCESS);
                }
                before = Some((report.accepted, report.rejected, now));
                let clear = if io::stdout().is_terminal() {
                    CLEAR
                } else {
                    ""
                };
                print_line(format_args!("{clear}{table}"));
            }
            Err(error) if args.once || before.is_none() => return Err(error),
            // The agent may return.
            Err(error) => print_error(ErrorChain(&*error)),
        }
    }
}

/// Fetches the status of an agent.
struct StatusClient {
    client: Client,
    address: String,
    url: String,
    api_key: Option<String>,
}

impl StatusClient {
    fn new(target: &TargetArgs, timeout: Duration) -> Result<Self, CommandError> {
        // Needed for TLS. An error only means that a provider is installed already.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        // The address is that of the agent, so proxies are not used.
        let mut client = Client::builder().no_proxy();
        if !timeout.is_zero() {
            client = client.timeout(timeout);
        }
        if let Some(path) = &target.ca {
            let certificates = Certificate::from_pem_bundle(&tls::read(path)?).map_err(|_| {
                format!("{}: the file contains no valid certificate", path.display())
            })?;
            client = client.tls_certs_only(certificates);
        }
        if let (Some(certificate), Some(key)) = (&target.cert, &target.key) {
            let mut pem = tls::read(certificate)?;
            pem.push(b'\n');
            pem.extend(tls::read(key)?);
            let identity = Identity::from_pem(&pem).map_err(|_| {
                format!(
                    "{}: the files contain no certificate with a matching key",
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

    async fn fetch(&self) -> Result<StatusResponse, CommandError> {
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
            other => return Err(format!("{address} did not return a status: {other}").into()),
        }
        response.json().await.map_err(|error| {
            format!(
                "{address} returned a status in an unknown format: {}",
                causes(&error)
            )
            .into()
        })
    }
}

/// Describes an error by its causes, without the URL that its own text contains.
fn causes(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not respond in time".to_owned();
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

/// Returns the table, with decisions per second if an earlier report is given.
fn table(
    address: &str,
    report: &StatusResponse,
    before: Option<(u64, u64, Instant)>,
    now: Instant,
) -> String {
    let rate = |count: u64, of: fn((u64, u64)) -> u64| {
        before.map_or_else(String::new, |(accepted, rejected, then)| {
            // The counts of a restarted agent begin at zero.
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

/// Formats the output of a control loop.
fn format_output(output: &BTreeMap<String, Value>) -> String {
    let signals = output.iter().map(|(name, value)| match value {
        Value::Null => format!("{name} invalid"),
        value => format!("{name} {value}"),
    });
    signals.collect::<Vec<_>>().join(", ")
}

/// Formats the table of components.
fn rows(report: &StatusResponse) -> String {
    let mut rows = vec![["policy", "component", "kind", "keys", "driven to"].map(str::to_owned)];
    for component in &report.components {
        let driven = report.control_loops.iter().find(|control_loop| {
            (&control_loop.policy_name, &control_loop.component_id)
                == (&component.policy_name, &component.component_id)
        });
        let output = driven.map(|control_loop| {
            control_loop
                .output
                .as_ref()
                .map_or("not yet".to_owned(), format_output)
        });
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
