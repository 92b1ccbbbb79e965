//! The command `serve`: runs the agent from start to shutdown.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use aperture_redis::Redis;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tower_aperture::LabelLimits;
use tower_aperture::engine::{Engine, EngineBuilder, Shared};
use tower_aperture_agent::{Agent, ApiKey, Prometheus, PrometheusError, Tls};

use crate::args::{LimitArgs, ServeArgs};
use crate::output::{CommandError, ErrorChain, print_line};
use crate::reloader::Reloader;
use crate::signals::{ProcessSignals, SignalAction};
use crate::validate::AssumedPrometheus;
use crate::{dry_run, keys, logs, shared, tls};

pub(crate) fn run(args: &ServeArgs) -> Result<ExitCode, CommandError> {
    logs::init(&args.logs)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(args));
    // A blocked file read must not delay the end of the process.
    runtime.shutdown_background();
    result
}

/// All that serving needs but the listener.
pub(crate) struct Prepared {
    pub(crate) prometheus: Option<Prometheus>,
    /// The store of shared limits.
    pub(crate) store: Option<Redis>,
    pub(crate) engine: Engine<Shared>,
    /// `None` if calls need no key.
    pub(crate) number_of_keys: Option<usize>,
    agent: Agent,
    pub(crate) tls: Option<Tls>,
}

impl Prepared {
    /// Loads policies, keys and certificates.
    fn new(args: &ServeArgs) -> Result<Self, CommandError> {
        let prometheus = prometheus(args)?;
        let store = shared::store(&args.shared)?;
        let engine = engine(args, prometheus.as_ref(), store.as_ref())?;
        let keys = args.api_key_file.as_deref().map(keys::read).transpose()?;
        Ok(Self {
            number_of_keys: keys.as_ref().map(Vec::len),
            agent: agent(args, &engine, prometheus.as_ref(), store.as_ref(), keys),
            store,
            tls: TlsFiles::of(args).read()?,
            prometheus,
            engine,
        })
    }
}

/// Returns the error of an address that cannot be listened on.
pub(crate) fn cannot_listen(args: &ServeArgs, error: &io::Error) -> CommandError {
    format!("{}: cannot listen on this address: {error}", args.listen).into()
}

async fn serve(args: &ServeArgs) -> Result<ExitCode, CommandError> {
    let prepared = Prepared::new(args)?;
    if args.dry_run {
        dry_run::resolve(args).await?;
        print_line(dry_run::describe(args, &prepared).trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let Prepared {
        prometheus,
        engine,
        agent,
        tls,
        ..
    } = prepared;
    let listener = TcpListener::bind(&args.listen)
        .await
        .map_err(|error| cannot_listen(args, &error))?;
    // From here on, signals no longer kill the process.
    let mut signals = ProcessSignals::new()?;
    let _watcher = match args.watch_interval {
        Duration::ZERO => None,
        every => Some(engine.watch(every)?),
    };
    // Dropping it at the end of this function cancels its tasks.
    let mut background = JoinSet::new();
    if let Some(prometheus) = prometheus.clone() {
        let engine = engine.clone();
        background.spawn(async move { prometheus.follow(&engine).await });
    }
    let address = listener.local_addr()?;
    print_line(format_args!("listening on {address}"));
    tracing::info!(%address, tls = args.tls_cert.is_some(), "serving");

    let (shutdown, requested) = oneshot::channel::<()>();
    let shutdown_requested = async {
        // A dropped sender requests shutdown too.
        let _ = requested.await;
    };
    let serving = async {
        match &tls {
            Some(tls) => {
                agent
                    .serve_tls(listener, tls.clone(), shutdown_requested)
                    .await
            }
            None => agent.serve(listener, shutdown_requested).await,
        }
    };
    let reloaders = reloaders(args, &engine, &agent, tls.as_ref(), prometheus.as_ref())?;
    let signal_handling = async {
        while signals.next().await == SignalAction::Reload {
            reloaders.iter().for_each(Reloader::reload);
        }
        tracing::info!(grace = ?args.shutdown_grace, "shutting down: running calls are answered");
        drop(shutdown);
        tokio::select! {
            () = signals.shutdown() => tracing::warn!("ended immediately because of a second signal"),
            () = tokio::time::sleep(args.shutdown_grace) => {
                tracing::warn!("ended with running calls: the grace period is over");
            }
        }
    };
    tokio::select! {
        served = serving => served?,
        () = signal_handling => {}
    }
    tracing::info!("ended");
    Ok(ExitCode::SUCCESS)
}

fn prometheus(args: &ServeArgs) -> Result<Option<Prometheus>, CommandError> {
    let Some(url) = &args.prometheus else {
        return Ok(None);
    };
    let prometheus =
        match &args.prometheus_ca {
            Some(path) => Prometheus::trusting(url, &tls::read(path)?)
                .map_err(|error| ca_error(path, &error))?,
            None => Prometheus::new(url)
                .map_err(|error| format!("--prometheus: {}", ErrorChain(&error)))?,
        };
    Ok(Some(prometheus))
}

fn ca_error(path: &Path, error: &PrometheusError) -> CommandError {
    let error = ErrorChain(error);
    format!("--prometheus-ca {}: {error}", path.display()).into()
}

fn engine(
    args: &ServeArgs,
    prometheus: Option<&Prometheus>,
    store: Option<&Redis>,
) -> Result<Engine<Shared>, CommandError> {
    let policies = match store {
        Some(store) => policies(args).shared(store.clone()),
        None => policies(args).into(),
    };
    let Some(prometheus) = prometheus else {
        return policies.build().map_err(|error| {
            let needs_prometheus = self::policies(args)
                .signal_source(AssumedPrometheus)
                .build()
                .is_ok();
            if needs_prometheus {
                let error = ErrorChain(&error);
                format!("{error}; to configure one, use --prometheus URL").into()
            } else {
                error.into()
            }
        });
    };
    let engine = policies.signal_source(prometheus.clone());
    Ok(engine.build()?)
}

fn policies(args: &ServeArgs) -> EngineBuilder {
    let mut engine = Engine::builder().upstream_ramp_mode(args.upstream_ramp_mode);
    for path in &args.policies {
        engine = if path.is_dir() {
            engine.policy_folder(path)
        } else {
            engine.policy_file(path)
        };
    }
    if let Some(group) = &args.agent_group {
        engine = engine.agent_group(group);
    }
    if let Some(keys) = args.limits.max_keys {
        engine = engine.max_keys(keys);
    }
    if let Some(bytes) = args.limits.cache_bytes {
        engine = engine.cache_bytes(bytes);
    }
    engine
}

fn agent(
    args: &ServeArgs,
    engine: &Engine<Shared>,
    prometheus: Option<&Prometheus>,
    store: Option<&Redis>,
    keys: Option<Vec<ApiKey>>,
) -> Agent {
    let mut agent = Agent::builder(engine.clone());
    if let Some(store) = store {
        agent = agent.shared_store(store);
    }
    if let Some(prometheus) = prometheus {
        agent = agent.prometheus(prometheus);
    }
    if let Some(keys) = keys {
        agent = agent.api_keys(keys);
    }
    let LimitArgs {
        max_message_size,
        max_labels,
        max_label_bytes,
        max_streams,
        max_connections,
        max_waiting,
        idle_timeout,
        answer_timeout,
        // Limits of the engine.
        max_keys: _,
        cache_bytes: _,
    } = args.limits;
    if let Some(bytes) = max_message_size {
        agent = agent.max_message_size(bytes);
    }
    if let (Some(count), Some(bytes)) = (max_labels, max_label_bytes) {
        agent = agent.max_labels(LabelLimits { count, bytes });
    }
    if let Some(streams) = max_streams {
        agent = agent.max_concurrent_streams(streams);
    }
    if let Some(connections) = max_connections {
        agent = agent.max_connections(connections);
    }
    if let Some(flows) = max_waiting {
        agent = agent.max_waiting(flows);
    }
    if let Some(timeout) = idle_timeout {
        agent = agent.idle_timeout(timeout);
    }
    if let Some(timeout) = answer_timeout {
        agent = agent.answer_timeout(timeout);
    }
    agent.build()
}

/// The files that the TLS options name.
struct TlsFiles {
    certificates: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
}

impl TlsFiles {
    fn of(args: &ServeArgs) -> Self {
        Self {
            certificates: args.tls_cert.clone(),
            key: args.tls_key.clone(),
            client_ca: args.client_ca.clone(),
        }
    }

    fn read(&self) -> Result<Option<Tls>, CommandError> {
        let (Some(certificates), Some(key)) = (&self.certificates, &self.key) else {
            return Ok(None);
        };
        let (chain, private_key) = (tls::read(certificates)?, tls::read(key)?);
        let tls = match &self.client_ca {
            Some(authorities) => Tls::with_client_ca(chain, private_key, tls::read(authorities)?),
            None => Tls::from_pem(chain, private_key),
        };
        let tls = tls.map_err(|error| {
            let (certificates, key) = (certificates.display(), key.display());
            let error = ErrorChain(&error);
            format!("--tls-cert {certificates} --tls-key {key}: {error}")
        })?;
        Ok(Some(tls))
    }
}

/// Returns a reloader for each kind of file that SIGHUP reloads. Each has a thread of its own, so
/// that a blocked file delays no other.
fn reloaders(
    args: &ServeArgs,
    engine: &Engine<Shared>,
    agent: &Agent,
    tls: Option<&Tls>,
    prometheus: Option<&Prometheus>,
) -> Result<Vec<Reloader>, CommandError> {
    let policies = engine.clone();
    let mut reloaders = vec![Reloader::new("policies", move || {
        policies
            .reload()
            .map_err(|error| ErrorChain(&error).to_string().into())
    })?];
    if let Some(path) = args.api_key_file.clone() {
        let agent = agent.clone();
        reloaders.push(Reloader::new("API keys", move || {
            agent.replace_api_keys(keys::read(&path)?);
            Ok(())
        })?);
    }
    if let Some(tls) = tls.cloned() {
        let files = TlsFiles::of(args);
        reloaders.push(Reloader::new("TLS certificates", move || {
            if let Some(read) = files.read()? {
                tls.replace(&read);
            }
            Ok(())
        })?);
    }
    if let (Some(path), Some(prometheus)) = (args.prometheus_ca.clone(), prometheus.cloned()) {
        reloaders.push(Reloader::new("authorities of Prometheus", move || {
            let replaced = prometheus.replace_authorities(&tls::read(&path)?);
            replaced.map_err(|error| ca_error(&path, &error))
        })?);
    }
    Ok(reloaders)
}
