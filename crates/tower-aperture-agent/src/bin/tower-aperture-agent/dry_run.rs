//! `serve --dry-run`: describes what would be served, without listening.

use crate::args::ServeArgs;
use crate::keys;
use crate::output::CommandError;
use crate::serve::{Prepared, cannot_listen};

/// Resolves the address to listen on, as listening does. The address may be in use: by the agent
/// that is to be restarted with these settings.
///
/// # Errors
///
/// Returns the error of `serve` when the address is invalid or its host is unknown.
pub(crate) async fn resolve(args: &ServeArgs) -> Result<(), CommandError> {
    match tokio::net::lookup_host(&args.listen).await {
        Ok(_addresses) => Ok(()),
        Err(error) => Err(cannot_listen(args, &error)),
    }
}

/// Returns the settings, the policies with their notes, and further warnings.
pub(crate) fn describe(args: &ServeArgs, prepared: &Prepared) -> String {
    let engine = &prepared.engine;
    let security = match (&prepared.tls, &args.client_ca) {
        (None, _) => "in plaintext",
        (Some(_), None) => "with TLS",
        (Some(_), Some(_)) => "with TLS, for clients with a certificate",
    };
    let keys = match prepared.number_of_keys {
        None => "none, so every call is accepted".to_owned(),
        Some(keys) => format!("{keys} accepted"),
    };
    // The URL may contain a password.
    let prometheus = match &prepared.prometheus {
        None => "none".to_owned(),
        Some(_) => format!("for {} queries of policies", engine.queries().len()),
    };
    // The URL may contain a password.
    let shared = match (&prepared.store, args.shared.shared.len()) {
        (None, _) => "no".to_owned(),
        (Some(_), 1) => format!("in one server, prefix {}", args.shared.shared_prefix),
        (Some(_), nodes) => format!(
            "in a cluster of which {nodes} nodes are known, prefix {}",
            args.shared.shared_prefix
        ),
    };
    let caches = match args.shared.shared_caches {
        true => "shared, in the same server",
        false => "in this process",
    };
    let reload = match args.watch_interval.is_zero() {
        true => "on SIGHUP only".to_owned(),
        false => format!(
            "on SIGHUP, and when policy files change, checked every {:?}",
            args.watch_interval
        ),
    };
    let group = args.agent_group.as_deref().unwrap_or("none");
    let policies = engine.describe();
    let listen = &args.listen;
    let mut text = format!(
        "dry run: serve would listen on {listen}, {security}\n\
         API keys: {keys}\n\
         Prometheus: {prometheus}\n\
         shared limits: {shared}\n\
         caches: {caches}\n\
         reloads: {reload}\n\
         agent group: {group}\n\
         \n\
         {policies}"
    );
    if let Some(warning) = args.api_key_file.as_deref().and_then(keys::open_to_all) {
        text.push_str("warnings\n  ");
        text.push_str(&warning);
        text.push('\n');
    }
    text
}
