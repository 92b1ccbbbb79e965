//! The queries of policies for a signal source.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::{Op, Policy};

/// A query that policies in force send to a [`SignalSource`](super::SignalSource).
///
/// ```
/// use std::time::Duration;
/// use tower_aperture::engine::{Engine, SignalSource};
///
/// #[derive(Debug)]
/// struct Numbers;
///
/// impl SignalSource for Numbers {
///     fn latest(&self, _query: &str) -> Option<f64> {
///         None
///     }
/// }
///
/// let engine = Engine::builder()
///     .policy_text("pool.yaml", "
/// blueprint: load-scheduling/promql
/// policy:
///   policy_name: pool
///   promql_query: avg(pool_in_use_ratio)
///   setpoint: 0.8
///   overload_condition: gt
///   load_scheduling_core:
///     aiad_load_scheduler:
///       load_scheduler: {selectors: [{control_point: checkout}]}
///       alerter: {alert_name: the pool is full}
/// ")
///     .signal_source(Numbers)
///     .build()?;
/// let queries = engine.queries();
/// assert_eq!(&*queries[0].text, "avg(pool_in_use_ratio)");
/// assert_eq!(queries[0].interval, Duration::from_secs(10));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyQuery {
    /// The query as written in the policy, usually PromQL.
    pub text: Arc<str>,
    /// The maximum age of an answer: the shortest `evaluation_interval` of the components with this
    /// query.
    pub interval: Duration,
}

/// Collects the queries of policies, each text once, in order of appearance.
#[derive(Debug, Default)]
pub(super) struct QueryCollector {
    all: Vec<PolicyQuery>,
    by_text: HashMap<Arc<str>, usize>,
}

impl QueryCollector {
    pub(super) fn into_vec(self) -> Vec<PolicyQuery> {
        self.all
    }

    /// Adds the queries of a policy.
    pub(super) fn add(&mut self, policy: &Policy) {
        let nodes = policy.circuit.iter().flat_map(|circuit| &circuit.nodes);
        for node in nodes {
            let Op::Query { text, interval } = &node.op else {
                continue;
            };
            match self.by_text.entry(Arc::clone(text)) {
                Entry::Occupied(known) => {
                    let known = &mut self.all[*known.get()];
                    known.interval = known.interval.min(*interval);
                }
                Entry::Vacant(slot) => {
                    slot.insert(self.all.len());
                    self.all.push(PolicyQuery {
                        text: Arc::clone(text),
                        interval: *interval,
                    });
                }
            }
        }
    }
}
