//! The user's source of signals.

use std::fmt;

/// A source of values for the queries of policies, such as the PromQL of a `query` component.
///
/// The embedded engine measures its own flows; all other queries of a policy are answered by a
/// signal source. Without a source, a policy with a query is refused, and the error names the
/// component and the query.
/// [`EngineBuilder::signal_source`](super::super::EngineBuilder::signal_source) sets the source.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::sync::Arc;
/// use tower_aperture::engine::{Engine, SignalSource};
///
/// /// The depth of a queue that some other part of the program keeps up to date.
/// #[derive(Debug)]
/// struct QueueDepth(Arc<AtomicU64>);
///
/// impl SignalSource for QueueDepth {
///     fn latest(&self, query: &str) -> Option<f64> {
///         (query == "queue_depth").then(|| self.0.load(Ordering::Relaxed) as f64)
///     }
/// }
///
/// let depth = Arc::new(AtomicU64::new(0));
/// let engine = Engine::builder().signal_source(QueueDepth(depth.clone())).build()?;
/// # let _ = engine;
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
pub trait SignalSource: fmt::Debug + Send + Sync {
    /// Returns the latest value of a query, whose text is that of the policy; `None` if no value is
    /// available, which makes the signal invalid, as `NaN` does.
    ///
    /// Called without a lock, once per `evaluation_interval` of the component, on the thread of the
    /// first flow after it is due: it must not block. Fetch values in a task of your own, and
    /// return the last one here.
    fn latest(&self, query: &str) -> Option<f64>;
}
