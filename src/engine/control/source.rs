use std::fmt;

/// Answers the queries of policies, such as the PromQL of a `query` component, from wherever the
/// numbers are.
///
/// The embedded engine measures what its own flows do; what else a policy asks for comes from
/// here. Without a source a policy with a query is refused, with the component and the query in the
/// message. Put one in with [`EngineBuilder::signal_source`](super::super::EngineBuilder::signal_source).
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
    /// The latest value of a query, whose text is as the policy has it; `None` when there is none,
    /// which makes the signal invalid, as `NaN` does.
    ///
    /// Called with no lock held, as often as the component's `evaluation_interval` says, by
    /// whichever flow comes first after it: it must not block. Let a task of yours fetch, and
    /// return what it fetched last.
    fn latest(&self, query: &str) -> Option<f64>;
}
