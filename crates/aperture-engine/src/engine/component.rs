//! What all components of policies share.

use std::sync::Arc;

use super::clock::Clock;
use super::store::StoreLimits;

/// What all components of an engine share.
#[derive(Clone, Debug)]
pub(crate) struct ComponentContext {
    pub(crate) limits: StoreLimits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) upstream_ramp_mode: bool,
    pub(crate) upstream_buckets: bool,
    /// Load schedulers and samplers get their signals only from [`Engine::actuate`].
    ///
    /// [`Engine::actuate`]: super::Engine::actuate
    pub(crate) manual_signals: bool,
}
