//! The command line and its environment variables.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::values::{parse_connection_timeout, parse_duration, parse_label};

const ABOUT: &str = "An Aperture Agent of one node, which decides flows by policies in files";
const LONG_ABOUT: &str = "\
An Aperture Agent of one node, which decides flows by policies in files. It serves every SDK that \
uses the Agent's protocol, and needs no etcd, Prometheus or operator.

It is one node, for development, tests and small systems: limits apply to the decisions of this \
process, and their state is lost when it ends. With `serve --shared`, several agents share rate limits, quotas and slots in Redis or Valkey; queues and \
control loops stay with each agent. To share those too, use an Aperture Agent cluster; the policies \
are the same.";
const EXIT_CODES: &str = "\
Exit codes: 0 success, 1 failure, 2 invalid command line; `check`: 3 rejected.";

/// The command line of `tower-aperture-agent`.
#[derive(Debug, Parser)]
#[command(name = "tower-aperture-agent", version, about = ABOUT, long_about = LONG_ABOUT, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(Box<ServeArgs>),
    Validate(ValidateArgs),
    Check(CheckArgs),
    Status(StatusArgs),
    Completions(CompletionsArgs),
    /// Print the man page
    ///
    /// `tower-aperture-agent man | man -l -` shows it; to install it, write it to
    /// tower-aperture-agent.1 in a folder man1.
    Man,
}

/// Serve SDKs by policies until shutdown
///
/// The first line of standard output is `listening on ADDRESS`. SIGHUP reloads policies, API keys
/// and certificates, those of `--prometheus-ca` included. SIGTERM and SIGINT shut the agent down
/// gracefully: health reports it, waiting flows are rejected, and running calls are answered. A
/// second signal ends it immediately.
#[derive(Debug, Group)]
pub(crate) struct ServeArgs {
    /// A policy file, or a folder of .yaml and .yml files; may be given more than once (separated
    /// by commas in the variable)
    #[arg(
        long,
        value_name = "PATH",
        required = true,
        value_delimiter = ',',
        env = "TOWER_APERTURE_AGENT_POLICIES"
    )]
    pub(crate) policies: Vec<PathBuf>,
    /// Address to listen on; port 0 picks a free port
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8089",
        env = "TOWER_APERTURE_AGENT_LISTEN"
    )]
    pub(crate) listen: String,
    /// The agent group that policies select; by default, policies without a group or with `default`
    /// apply
    #[arg(long, value_name = "NAME", env = "TOWER_APERTURE_AGENT_GROUP")]
    pub(crate) agent_group: Option<String>,

    /// Certificate chain of the agent, PEM; turns on TLS
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
    /// Accept only clients with a certificate signed by one of these authorities, PEM
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_cert",
        env = "TOWER_APERTURE_AGENT_CLIENT_CA"
    )]
    pub(crate) client_ca: Option<PathBuf>,
    /// Accept only calls that carry one of the keys in this file as x-api-key; one key per line,
    /// lines that begin with # are comments
    #[arg(long, value_name = "FILE", env = "TOWER_APERTURE_AGENT_API_KEY_FILE")]
    pub(crate) api_key_file: Option<PathBuf>,

    /// The Prometheus that answers the PromQL queries of policies, http://HOST:PORT; may contain
    /// user:password
    #[arg(
        long,
        value_name = "URL",
        hide_env_values = true,
        env = "TOWER_APERTURE_AGENT_PROMETHEUS"
    )]
    pub(crate) prometheus: Option<String>,
    /// Certificate authorities to trust for it instead of the system's, PEM
    #[arg(
        long,
        value_name = "FILE",
        requires = "prometheus",
        env = "TOWER_APERTURE_AGENT_PROMETHEUS_CA"
    )]
    pub(crate) prometheus_ca: Option<PathBuf>,

    /// How often to check policy files for changes; 0 turns it off
    #[arg(
        long,
        value_name = "TIME",
        default_value = "2s",
        value_parser = parse_duration,
        env = "TOWER_APERTURE_AGENT_WATCH_INTERVAL"
    )]
    pub(crate) watch_interval: Duration,
    /// How long running calls may take during shutdown, at most 30s
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = parse_duration,
        env = "TOWER_APERTURE_AGENT_SHUTDOWN_GRACE"
    )]
    pub(crate) shutdown_grace: Duration,
    /// Load policies, keys and certificates, print what would be served and all warnings, and exit
    /// without listening
    ///
    /// Exits with 0, or with 1 and the error that would keep `serve` from starting. It does not find
    /// out whether the address is in use. `dry_run` in a policy is something else: such a policy
    /// decides about flows without limiting them.
    #[arg(long, env = "TOWER_APERTURE_AGENT_DRY_RUN")]
    pub(crate) dry_run: bool,
    /// Reject all flows in ramp mode, as an Agent of Aperture 2.x does
    #[arg(long, env = "TOWER_APERTURE_AGENT_UPSTREAM_RAMP_MODE")]
    pub(crate) upstream_ramp_mode: bool,

    #[command(flatten)]
    pub(crate) shared: SharedArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) logs: LogArgs,
}

/// Limits that several agents share in Redis or Valkey.
#[derive(Debug, Group)]
#[command(next_help_heading = "Shared limits")]
pub(crate) struct SharedArgs {
    /// The Redis or Valkey in which agents share token buckets and slots,
    /// redis[s]://[USER:PASSWORD@]HOST[:PORT]; several URLs, separated by commas, are nodes of one
    /// cluster
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        hide_env_values = true,
        env = "TOWER_APERTURE_AGENT_SHARED"
    )]
    pub(crate) shared: Vec<String>,
    /// Treat the server as a node of a cluster, also if only one URL is given
    #[arg(long, requires = "shared", env = "TOWER_APERTURE_AGENT_SHARED_CLUSTER")]
    pub(crate) shared_cluster: bool,
    /// The beginning of all keys: agents with the same prefix and policies share their limits
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "aperture",
        env = "TOWER_APERTURE_AGENT_SHARED_PREFIX"
    )]
    pub(crate) shared_prefix: String,
    /// How long a flow waits for the server, 1ms to 10s
    #[arg(
        long,
        value_name = "TIME",
        default_value = "20ms",
        value_parser = parse_duration,
        env = "TOWER_APERTURE_AGENT_SHARED_DEADLINE"
    )]
    pub(crate) shared_deadline: Duration,
    /// How flows are decided while the server is slow or away
    #[arg(
        long,
        value_name = "HOW",
        default_value = "share",
        env = "TOWER_APERTURE_AGENT_SHARED_ABSENCE"
    )]
    pub(crate) shared_absence: Absence,
    /// Share the result caches and the global cache, too: values leave this process, and a lookup
    /// costs a round trip
    #[arg(long, requires = "shared", env = "TOWER_APERTURE_AGENT_SHARED_CACHES")]
    pub(crate) shared_caches: bool,
    /// Certificate authorities to trust for it instead of the system's, PEM
    #[arg(
        long,
        value_name = "FILE",
        requires = "shared",
        env = "TOWER_APERTURE_AGENT_SHARED_CA"
    )]
    pub(crate) shared_ca: Option<PathBuf>,
}

/// How flows are decided while the store of shared limits is slow or away.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Absence {
    /// By this agent's share of each limit: the limit divided by the agents seen lately
    Share,
    /// Every flow is accepted
    Open,
    /// Every flow that a shared limit selects is rejected
    Closed,
}

/// Limits on what callers may use; the library's defaults apply to those that are not given.
#[derive(Debug, Group)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Bytes of an incoming message [default: 4 MiB]
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
    /// Concurrent calls per connection
    #[arg(long, value_name = "COUNT", env = "TOWER_APERTURE_AGENT_MAX_STREAMS")]
    pub(crate) max_streams: Option<u32>,
    /// Connections
    #[arg(
        long,
        value_name = "COUNT",
        env = "TOWER_APERTURE_AGENT_MAX_CONNECTIONS"
    )]
    pub(crate) max_connections: Option<usize>,
    /// Waiting flows in queues, in total
    #[arg(long, value_name = "COUNT", env = "TOWER_APERTURE_AGENT_MAX_WAITING")]
    pub(crate) max_waiting: Option<usize>,
    /// How long a connection may stay open without a call, 1s to 60m [default: 60s]
    #[arg(
        long,
        value_name = "TIME",
        value_parser = parse_connection_timeout,
        env = "TOWER_APERTURE_AGENT_IDLE_TIMEOUT"
    )]
    pub(crate) idle_timeout: Option<Duration>,
    /// How long a caller may take to read a response before its connection is closed, 1s to 60m,
    /// and up to half as much again [default: 30s]
    #[arg(
        long,
        value_name = "TIME",
        value_parser = parse_connection_timeout,
        env = "TOWER_APERTURE_AGENT_ANSWER_TIMEOUT"
    )]
    pub(crate) answer_timeout: Option<Duration>,
    /// Keys with state per component [default: 1048576]
    #[arg(long, value_name = "COUNT", env = "TOWER_APERTURE_AGENT_MAX_KEYS")]
    pub(crate) max_keys: Option<usize>,
    /// Bytes of the result and global caches [default: 64 MiB]
    #[arg(long, value_name = "BYTES", env = "TOWER_APERTURE_AGENT_CACHE_BYTES")]
    pub(crate) cache_bytes: Option<usize>,
}

#[derive(Debug, Group)]
#[command(next_help_heading = "Logs, on standard error")]
pub(crate) struct LogArgs {
    /// One line of text or one JSON object per event
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        env = "TOWER_APERTURE_AGENT_LOG_FORMAT"
    )]
    pub(crate) log_format: LogFormat,
    /// error, warn, info, debug, trace, or directives in the syntax of RUST_LOG [default:
    /// $RUST_LOG, or info]
    #[arg(long, value_name = "LEVEL", env = "TOWER_APERTURE_AGENT_LOG_LEVEL")]
    pub(crate) log_level: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Describe what policies do, or why they cannot be used
///
/// Each file is validated alone; the files of a folder are also validated together. Policies whose
/// PromQL needs a Prometheus are described as if there were one.
#[derive(Debug, Group)]
pub(crate) struct ValidateArgs {
    /// Policy files, or folders of them
    #[arg(value_name = "FILE", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// The agent group that policies select
    #[arg(long, value_name = "NAME", env = "TOWER_APERTURE_AGENT_GROUP")]
    pub(crate) agent_group: Option<String>,
}

/// Check one flow, print the decision, and end the flow
///
/// Works with any Aperture Agent. Exit codes: 0 accepted, 3 rejected, 1 unreachable.
#[derive(Debug, Group)]
pub(crate) struct CheckArgs {
    /// Control point of the flow
    pub(crate) control_point: String,
    /// Labels of the flow
    #[arg(value_name = "KEY=VALUE", value_parser = parse_label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Start the flow in ramp mode: it runs only if a load ramp admits it
    #[arg(long)]
    pub(crate) ramp: bool,
    /// How long to wait for the decision, queues included
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// Show the state of an agent, once a second
#[derive(Debug, Group)]
pub(crate) struct StatusArgs {
    /// Show it once and exit
    #[arg(long)]
    pub(crate) once: bool,
    /// How long to wait for a response
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// Print a script that completes commands and options in a shell
///
/// For bash: `source <(tower-aperture-agent completions bash)` in ~/.bashrc.
#[derive(Debug, Group)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

/// The agent to connect to.
#[derive(Debug, Group)]
#[command(next_help_heading = "The agent")]
pub(crate) struct TargetArgs {
    /// Address of the agent; with https:// in front it needs --tls, --ca or --cert
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8089",
        env = "APERTURE_AGENT_ADDRESS"
    )]
    pub(crate) addr: String,
    /// File whose first key is sent; by default the key in the variable APERTURE_API_KEY
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Use TLS, trusting the system's roots
    #[arg(long)]
    pub(crate) tls: bool,
    /// Use TLS, trusting these authorities, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Client certificate for an agent that requires one, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
}

impl TargetArgs {
    pub(crate) const fn is_secure(&self) -> bool {
        self.tls || self.ca.is_some() || self.cert.is_some()
    }

    /// Returns the address as `host:port`, without a scheme that agrees with the other options.
    ///
    /// # Errors
    ///
    /// Returns an error when the scheme contradicts the other options, or is neither http nor
    /// https.
    pub(crate) fn address(&self) -> Result<String, String> {
        let Some((scheme, rest)) = self.addr.split_once("://") else {
            return Ok(self.addr.clone());
        };
        let secure = scheme.eq_ignore_ascii_case("https");
        // The part before `@` may be a password.
        let shown = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        if !secure && !scheme.eq_ignore_ascii_case("http") {
            return Err("--addr: HOST:PORT may be preceded only by http:// or https://".to_owned());
        }
        match (secure, self.is_secure()) {
            (true, false) => Err(format!(
                "--addr https://{shown} requires TLS: add --tls, or --ca FILE to trust your own \
                 authority"
            )),
            (false, true) => Err(format!(
                "--addr http://{shown} requires plaintext, but --tls, --ca or --cert require TLS: \
                 use https://, or omit them"
            )),
            (true, true) | (false, false) => {
                let rest = rest.trim_end_matches('/');
                // As in the library: the port is optional after a scheme.
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use tower_aperture::Engine;
    use tower_aperture_agent::Agent;

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
    fn connection_timeouts_have_the_defaults_of_the_library() {
        let engine = Engine::builder().build().expect("an engine");
        let library = format!("{:?}", Agent::builder(engine).build());
        assert!(library.contains("idle: 60s, answer: 30s"), "{library}");
        let help = Args::command()
            .find_subcommand_mut("serve")
            .expect("serve")
            .render_long_help()
            .to_string();
        for (option, default) in [("idle", "60s"), ("answer", "30s")] {
            let option = help.split(&format!("--{option}-timeout")).nth(1);
            let option = option.and_then(|help| help.split("[env").next());
            let option = option.expect("the option").split_whitespace();
            let option = option.collect::<Vec<_>>().join(" ");
            assert!(option.contains("1s to 60m"), "{option}");
            assert!(
                option.contains(&format!("[default: {default}]")),
                "{option}"
            );
        }
    }
}
