//! Implements [`Actuator`] for the components of policies.

use super::clock::Nanos;
use super::control::{Actuator, Demand, Setting};
use super::registry::Component;
use super::schedulers::LoadSchedulerDecision;
use super::workload_latency::WorkloadTokens;

impl Actuator for Component {
    fn apply(&self, setting: Setting, now: Nanos) {
        match (self, setting) {
            (
                Self::RateLimiter(limiter),
                Setting::Bucket {
                    capacity,
                    fill,
                    pass_through,
                },
            ) => {
                // A limiter without inputs has constant settings only.
                if let Some(inputs) = limiter.inputs() {
                    inputs.set(capacity, fill, pass_through);
                }
            }
            (
                Self::QuotaScheduler(scheduler),
                Setting::Bucket {
                    capacity,
                    fill,
                    pass_through,
                },
            ) => scheduler.inputs().set(capacity, fill, pass_through),
            (
                Self::ConcurrencyLimiter(limiter),
                Setting::Slots {
                    max_concurrency,
                    pass_through,
                },
            ) => limiter.slot_rules().set(max_concurrency, pass_through),
            (
                Self::ConcurrencyScheduler(scheduler),
                Setting::Slots {
                    max_concurrency,
                    pass_through,
                },
            ) => scheduler.set(max_concurrency, pass_through, now),
            (Self::Sampler(sampler), Setting::AcceptPercentage(percentage)) => {
                sampler.set_percentage(percentage);
            }
            (Self::LoadScheduler(scheduler), Setting::Load(decision)) => {
                scheduler.set_estimates(decision.tokens);
                let decision = LoadSchedulerDecision {
                    load_multiplier: decision.load_multiplier,
                    pass_through: decision.pass_through,
                    valid_until: Some(decision.valid_until),
                };
                scheduler.publish(decision, now);
            }
            // Each kind of component has its own kind of setting.
            (
                Self::RateLimiter(_)
                | Self::QuotaScheduler(_)
                | Self::ConcurrencyLimiter(_)
                | Self::ConcurrencyScheduler(_)
                | Self::Sampler(_)
                | Self::LoadScheduler(_),
                _,
            ) => {}
        }
    }

    fn take_demand(&self) -> Demand {
        match self {
            Self::LoadScheduler(scheduler) => scheduler.take_demand(),
            _ => Demand::default(),
        }
    }

    fn workload_tokens(&self, now: Nanos) -> Option<WorkloadTokens> {
        match self {
            Self::LoadScheduler(scheduler) => Some(scheduler.latency()?.tokens(now)),
            _ => None,
        }
    }
}
