//! Opens the store in which several agents share their limits.

use aperture_engine::engine::shared::StoreAbsence;
use aperture_redis::Redis;

use crate::args::{Absence, SharedArgs};
use crate::output::CommandError;
use crate::tls;

/// Returns the store that the options name, if they name one. It connects at its first use.
///
/// # Errors
///
/// Returns an error that names the option with a wrong value.
pub(crate) fn store(args: &SharedArgs) -> Result<Option<Redis>, CommandError> {
    let [first, others @ ..] = &args.shared[..] else {
        return Ok(None);
    };
    let mut store = Redis::builder(first)
        .prefix(&args.shared_prefix)
        .deadline(args.shared_deadline)
        .shared_caches(args.shared_caches)
        .absence(match args.shared_absence {
            Absence::Share => StoreAbsence::LocalShare,
            Absence::Open => StoreAbsence::Open,
            Absence::Closed => StoreAbsence::Closed,
        });
    if args.shared_cluster || !others.is_empty() {
        store = store.cluster_nodes(others);
    }
    if let Some(path) = &args.shared_ca {
        store = store.tls_roots(tls::read(path)?);
    }
    let store = store.build().map_err(|error| {
        let option = match error.field() {
            "prefix" => "--shared-prefix",
            "deadline" => "--shared-deadline",
            "tls_roots" => "--shared-ca",
            _ => "--shared",
        };
        format!("{option}: {error}")
    })?;
    Ok(Some(store))
}
