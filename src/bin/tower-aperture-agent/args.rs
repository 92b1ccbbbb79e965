//! What can be said on the command line, and by environment variables.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

const ABOUT: &str = "An Aperture Agent of one node: decides flows by policies in files";
const LONG_ABOUT: &str = "\
An Aperture Agent of one node: decides flows by policies in files, for every SDK that speaks the \
Agent's protocol, without etcd, Prometheus or an operator.

It is one node, for development, tests and small systems: limits hold for what this process \
decides, and are forgotten when it ends. Many nodes that share their limits are the job of an \
Aperture Agent cluster; the policies are the same.";
const CODES: &str = "\
Exit codes: 0 it went well, 1 it did not, 2 the command line makes no sense; `check`: 3 rejected.";

/// An Aperture Agent of one node.
#[derive(Debug, Parser)]
#[command(version, about = ABOUT, long_about = LONG_ABOUT, after_help = CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(Box<Serve>),
    Validate(Validate),
    Check(Check),
    Status(Status),
}

/// Answer SDKs by policies, until told to end
///
/// The first line of standard output is `listening on ADDRESS`. SIGHUP rereads policies, API
/// keys and certificates, those of `--prometheus-ca` included. SIGTERM and SIGINT shut it down gracefully: health says so, waiting flows
/// are told, what is under way is answered; a second one ends it at once.
#[derive(Debug, Group)]
pub(crate) struct Serve {
    /// A policy file, or a folder of .yaml and .yml files; may be given more than once (in the
    /// variable, with commas between)
    #[arg(
        long,
        value_name = "PATH",
        required = true,
        value_delimiter = ',',
        env = "TOWER_APERTURE_AGENT_POLICIES"
    )]
    pub(crate) policies: Vec<PathBuf>,
    /// Where to listen; port 0 takes a free one
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8089",
        env = "TOWER_APERTURE_AGENT_LISTEN"
    )]
    pub(crate) listen: String,
    /// The agent group that policies select; without it those without one, or with `default`
    #[arg(long, value_name = "NAME", env = "TOWER_APERTURE_AGENT_GROUP")]
    pub(crate) agent_group: Option<String>,

    /// Certificate chain of the server, PEM; turns TLS on
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_key",
        env = "TOWER_APERTURE_AGENT_TLS_CERT"
    )]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_cert",
        env = "TOWER_APERTURE_AGENT_TLS_KEY"
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// Let in only clients whose certificate one of these authorities signed, PEM
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_cert",
        env = "TOWER_APERTURE_AGENT_CLIENT_CA"
    )]
    pub(crate) client_ca: Option<PathBuf>,
    /// Let in only who sends one of the keys in this file as x-api-key; one key a line, lines
    /// that begin with # are comments
    #[arg(long, value_name = "FILE", env = "TOWER_APERTURE_AGENT_API_KEY_FILE")]
    pub(crate) api_key_file: Option<PathBuf>,

    /// A Prometheus that answers the PromQL of policies, http://HOST:PORT; may hold user:password
    #[arg(
        long,
        value_name = "URL",
        hide_env_values = true,
        env = "TOWER_APERTURE_AGENT_PROMETHEUS"
    )]
    pub(crate) prometheus: Option<String>,
    /// Authorities to trust for it instead of the system's, PEM
    #[arg(
        long,
        value_name = "FILE",
        requires = "prometheus",
        env = "TOWER_APERTURE_AGENT_PROMETHEUS_CA"
    )]
    pub(crate) prometheus_ca: Option<PathBuf>,

    /// How often to look whether policy files changed; 0 is never
    #[arg(
        long,
        value_name = "TIME",
        default_value = "2s",
        value_parser = time,
        env = "TOWER_APERTURE_AGENT_WATCH_INTERVAL"
    )]
    pub(crate) watch_interval: Duration,
    /// How long calls under way may take when it ends, 30s at most
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = time,
        env = "TOWER_APERTURE_AGENT_SHUTDOWN_GRACE"
    )]
    pub(crate) shutdown_grace: Duration,
    /// All flows in ramp mode are turned away, as by an Agent of Aperture 2.x
    #[arg(long, env = "TOWER_APERTURE_AGENT_UPSTREAM_RAMP_MODE")]
    pub(crate) upstream_ramp_mode: bool,

    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) logs: Logs,
}

/// What callers may cost; what is not said is as the library has it.
#[derive(Debug, Group)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Limits {
    /// Bytes of a message that comes in [default: 4 MiB]
    #[arg(
        long,
        value_name = "BYTES",
        env = "TOWER_APERTURE_AGENT_MAX_MESSAGE_SIZE"
    )]
    pub(crate) max_message_size: Option<usize>,
    /// Labels of a flow
    #[arg(
        long,
        value_name = "COUNT",
        requires = "max_label_bytes",
        env = "TOWER_APERTURE_AGENT_MAX_LABELS"
    )]
    pub(crate) max_labels: Option<usize>,
    /// Bytes of all labels of a flow
    #[arg(
        long,
        value_name = "BYTES",
        requires = "max_labels",
        env = "TOWER_APERTURE_AGENT_MAX_LABEL_BYTES"
    )]
    pub(crate) max_label_bytes: Option<usize>,
    /// Calls under way on one connection
    #[arg(long, value_name = "COUNT", env = "TOWER_APERTURE_AGENT_MAX_STREAMS")]
    pub(crate) max_streams: Option<u32>,
    /// Connections
    #[arg(
        long,
        value_name = "COUNT",
        env = "TOWER_APERTURE_AGENT_MAX_CONNECTIONS"
    )]
    pub(crate) max_connections: Option<usize>,
    /// Flows that wait in queues, all together
    #[arg(long, value_name = "COUNT", env = "TOWER_APERTURE_AGENT_MAX_WAITING")]
    pub(crate) max_waiting: Option<usize>,
    /// Keys that one component remembers [default: 1048576]
    #[arg(long, value_name = "COUNT", env = "TOWER_APERTURE_AGENT_MAX_KEYS")]
    pub(crate) max_keys: Option<usize>,
    /// Bytes of the result and global caches [default: 64 MiB]
    #[arg(long, value_name = "BYTES", env = "TOWER_APERTURE_AGENT_CACHE_BYTES")]
    pub(crate) cache_bytes: Option<usize>,
}

#[derive(Debug, Group)]
#[command(next_help_heading = "Logs, on standard error")]
pub(crate) struct Logs {
    /// One line of text, or one JSON object, for each event
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        env = "TOWER_APERTURE_AGENT_LOG_FORMAT"
    )]
    pub(crate) log_format: LogFormat,
    /// error, warn, info, debug, trace, or directives as RUST_LOG has them [default: $RUST_LOG, or
    /// info]
    #[arg(long, value_name = "LEVEL", env = "TOWER_APERTURE_AGENT_LOG_LEVEL")]
    pub(crate) log_level: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Say in plain words what policies do, or why they cannot be used
///
/// Each file is judged alone; of a folder, each file and then all together. Policies whose PromQL
/// needs a Prometheus are described as if there were one.
#[derive(Debug, Group)]
pub(crate) struct Validate {
    /// Policy files, or folders of them
    #[arg(value_name = "FILE", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// The agent group that policies select
    #[arg(long, value_name = "NAME", env = "TOWER_APERTURE_AGENT_GROUP")]
    pub(crate) agent_group: Option<String>,
}

/// Ask an agent about one flow, print the decision, and end the flow
///
/// Any Aperture Agent will do. Exit code: 0 accepted, 3 rejected, 1 nobody answered.
#[derive(Debug, Group)]
pub(crate) struct Check {
    /// Where the flow enters
    pub(crate) control_point: String,
    /// Labels of the flow
    #[arg(value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// The flow runs only where a ramp lets it
    #[arg(long)]
    pub(crate) ramp: bool,
    /// How long to wait for the decision, queues included
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// Show what an agent is doing, once a second
#[derive(Debug, Group)]
pub(crate) struct Status {
    /// Show it once, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// How long to wait for an answer
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// The agent that is asked.
#[derive(Debug, Group)]
#[command(next_help_heading = "The agent")]
pub(crate) struct Target {
    /// Address of the agent; https:// in front of it needs --tls, --ca or --cert
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8089",
        env = "APERTURE_AGENT_ADDRESS"
    )]
    pub(crate) addr: String,
    /// File whose first key is sent; without it the key in the variable APERTURE_API_KEY
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Use TLS, trusting the system's roots
    #[arg(long)]
    pub(crate) tls: bool,
    /// Use TLS, trusting these authorities, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Certificate to show to an agent that asks for one, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
}

impl Target {
    pub(crate) const fn is_secure(&self) -> bool {
        self.tls || self.ca.is_some() || self.cert.is_some()
    }

    /// Returns the address as `host:port`, without the scheme that the options say already.
    ///
    /// # Errors
    ///
    /// When the scheme and the options contradict each other, or when the scheme is another one.
    pub(crate) fn address(&self) -> Result<String, String> {
        let Some((scheme, rest)) = self.addr.split_once("://") else {
            return Ok(self.addr.clone());
        };
        let secure = scheme.eq_ignore_ascii_case("https");
        // What stands before `@` may be a password.
        let shown = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        if !secure && !scheme.eq_ignore_ascii_case("http") {
            return Err(
                "--addr: only http:// and https:// are known in front of HOST:PORT".to_owned(),
            );
        }
        match (secure, self.is_secure()) {
            (true, false) => Err(format!(
                "--addr https://{shown} asks for TLS: add --tls, or --ca FILE to trust an \
                 authority of your own"
            )),
            (false, true) => Err(format!(
                "--addr http://{shown} asks for plaintext, but --tls, --ca or --cert for TLS: \
                 use https://, or leave them out"
            )),
            (true, true) | (false, false) => {
                let rest = rest.trim_end_matches('/');
                // As the library does it: with a scheme, the port may be left out.
                let bare = rest.ends_with(']') || !rest.contains(':');
                let port = if secure { 443 } else { 80 };
                Ok(match bare {
                    true => format!("{rest}:{port}"),
                    false => rest.to_owned(),
                })
            }
        }
    }
}

/// `500ms`, `10s`, `2m`; a bare number is seconds.
fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| "a time is written 500ms, 10s or 2m".to_owned())?;
    let time = match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" | "" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    };
    time.filter(|time| *time <= Duration::from_secs(1 << 32))
        .ok_or_else(|| "a time is written 500ms, 10s or 2m".to_owned())
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("a label is written key=value, as user_id=42")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_option_of_serve_has_a_variable() {
        let command = Args::command();
        let serve = command.find_subcommand("serve").expect("serve");
        let without: Vec<_> = serve
            .get_arguments()
            .filter(|arg| arg.get_env().is_none() && arg.get_id() != "help")
            .map(|arg| arg.get_id().as_str())
            .collect();
        assert!(without.is_empty(), "{without:?}");
    }

    #[test]
    fn times_have_units() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(time("10"), Ok(Duration::from_secs(10)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "s", "-1s", "1h", "1.5s", "99999999999999999999s", "ü"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
