//! `serve`: the agent, from its start to its end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tower_aperture::agent::{Agent, Prometheus, PrometheusError, Tls};
use tower_aperture::engine::EngineBuilder;
use tower_aperture::{Engine, LabelLimits};

use crate::args::{Limits, Serve};
use crate::output::{Problem, WithCauses, say};
use crate::reloader::Reloader;
use crate::signals::{Signals, Wish};
use crate::validate::Later;
use crate::{keys, logs, tls};

pub(crate) fn run(args: &Serve) -> Result<ExitCode, Problem> {
    logs::begin(&args.logs)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(serve(args));
    // A file that hangs must not hold up the end.
    runtime.shutdown_background();
    ended
}

async fn serve(args: &Serve) -> Result<ExitCode, Problem> {
    let prometheus = prometheus(args)?;
    let engine = engine(args, prometheus.as_ref())?;
    let agent = agent(args, &engine, prometheus.as_ref())?;
    let tls = TlsFiles::of(args).read()?;
    let listener = TcpListener::bind(&args.listen)
        .await
        .map_err(|error| format!("{}: cannot listen there: {error}", args.listen))?;
    // From here on they do not kill.
    let mut signals = Signals::new()?;
    let _watcher = match args.watch_interval {
        Duration::ZERO => None,
        every => Some(engine.watch(every)?),
    };
    // Ends with us.
    let mut background = JoinSet::new();
    if let Some(prometheus) = prometheus.clone() {
        let engine = engine.clone();
        background.spawn(async move { prometheus.follow(&engine).await });
    }
    let address = listener.local_addr()?;
    say(format_args!("listening on {address}"));
    tracing::info!(%address, tls = args.tls_cert.is_some(), "serving");

    let (end, ending) = oneshot::channel::<()>();
    let ending = async {
        // Dropped or told, it is the end.
        let _ = ending.await;
    };
    let serving = async {
        match &tls {
            Some(tls) => agent.serve_tls(listener, tls.clone(), ending).await,
            None => agent.serve(listener, ending).await,
        }
    };
    let reloaders = reloaders(args, &engine, &agent, tls.as_ref(), prometheus.as_ref())?;
    let signalled = async {
        while signals.next().await == Wish::Reload {
            reloaders.iter().for_each(Reloader::reload);
        }
        tracing::info!(grace = ?args.shutdown_grace, "ending: calls under way are answered");
        drop(end);
        tokio::select! {
            () = signals.end() => tracing::warn!("ended at once, as told by a second signal"),
            () = tokio::time::sleep(args.shutdown_grace) => {
                tracing::warn!("ended with calls under way: the grace period is over");
            }
        }
    };
    tokio::select! {
        served = serving => served?,
        () = signalled => {}
    }
    tracing::info!("ended");
    Ok(ExitCode::SUCCESS)
}

fn prometheus(args: &Serve) -> Result<Option<Prometheus>, Problem> {
    let Some(url) = &args.prometheus else {
        return Ok(None);
    };
    let prometheus = match &args.prometheus_ca {
        Some(path) => Prometheus::trusting(url, &tls::read(path)?)
            .map_err(|error| ca_problem(path, &error))?,
        None => {
            Prometheus::new(url).map_err(|error| format!("--prometheus: {}", WithCauses(&error)))?
        }
    };
    Ok(Some(prometheus))
}

fn ca_problem(path: &Path, error: &PrometheusError) -> Problem {
    let error = WithCauses(error);
    format!("--prometheus-ca {}: {error}", path.display()).into()
}

fn engine(args: &Serve, prometheus: Option<&Prometheus>) -> Result<Engine, Problem> {
    let Some(prometheus) = prometheus else {
        return policies(args).build().map_err(|error| {
            let would_do = policies(args).signal_source(Later).build().is_ok();
            if would_do {
                let error = WithCauses(&error);
                format!("{error}; here that is --prometheus URL").into()
            } else {
                error.into()
            }
        });
    };
    let engine = policies(args).signal_source(prometheus.clone());
    Ok(engine.build()?)
}

fn policies(args: &Serve) -> EngineBuilder {
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

fn agent(args: &Serve, engine: &Engine, prometheus: Option<&Prometheus>) -> Result<Agent, Problem> {
    let mut agent = Agent::builder(engine.clone());
    if let Some(prometheus) = prometheus {
        agent = agent.prometheus(prometheus);
    }
    if let Some(path) = &args.api_key_file {
        agent = agent.api_keys(keys::read(path)?);
    }
    let Limits {
        max_message_size,
        max_labels,
        max_label_bytes,
        max_streams,
        max_connections,
        max_waiting,
        ..
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
    Ok(agent.build())
}

/// The files of the options for TLS.
struct TlsFiles {
    certificates: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
}

impl TlsFiles {
    fn of(args: &Serve) -> Self {
        Self {
            certificates: args.tls_cert.clone(),
            key: args.tls_key.clone(),
            client_ca: args.client_ca.clone(),
        }
    }

    fn read(&self) -> Result<Option<Tls>, Problem> {
        let (Some(certificates), Some(key)) = (&self.certificates, &self.key) else {
            return Ok(None);
        };
        let (chain, secret) = (tls::read(certificates)?, tls::read(key)?);
        let made = match &self.client_ca {
            Some(authorities) => Tls::with_client_ca(chain, secret, tls::read(authorities)?),
            None => Tls::from_pem(chain, secret),
        };
        let made = made.map_err(|error| {
            let (certificates, key) = (certificates.display(), key.display());
            let error = WithCauses(&error);
            format!("--tls-cert {certificates} --tls-key {key}: {error}")
        })?;
        Ok(Some(made))
    }
}

/// What SIGHUP reads again, each in a thread of its own: a file that hangs holds up nothing else.
fn reloaders(
    args: &Serve,
    engine: &Engine,
    agent: &Agent,
    tls: Option<&Tls>,
    prometheus: Option<&Prometheus>,
) -> Result<Vec<Reloader>, Problem> {
    let policies = engine.clone();
    let mut reloaders = vec![Reloader::new("policies", move || {
        policies
            .reload()
            .map_err(|error| WithCauses(&error).to_string().into())
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
            replaced.map_err(|error| ca_problem(&path, &error))
        })?);
    }
    Ok(reloaders)
}
