//! The queries that policies ask a signal source.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use crate::policy::{Op, Policy};

/// What policies in force ask a [`SignalSource`](super::SignalSource) for.
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
    /// The query as the policy has it, PromQL as a rule.
    pub text: Arc<str>,
    /// How old an answer may be: the shortest `evaluation_interval` of those who ask.
    pub interval: Duration,
}

impl Engine {
    /// What the policies in force ask their [`SignalSource`](super::SignalSource), each text once:
    /// for those who fetch the answers. Queries that the engine answers itself are left out.
    #[must_use]
    pub fn queries(&self) -> Vec<PolicyQuery> {
        self.shared.live.load().queries.clone()
    }
}

/// What policies ask, each text once and in their order.
#[derive(Debug, Default)]
pub(super) struct Queries {
    all: Vec<PolicyQuery>,
    by_text: HashMap<Arc<str>, usize>,
}

impl Queries {
    pub(super) fn into_vec(self) -> Vec<PolicyQuery> {
        self.all
    }

    /// Adds what a policy asks.
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
                Entry::Vacant(place) => {
                    place.insert(self.all.len());
                    self.all.push(PolicyQuery {
                        text: Arc::clone(text),
                        interval: *interval,
                    });
                }
            }
        }
    }
}
