//! A component that only exists here, to show what a new one takes: this file and a line in the
//! registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::clock::{DecisionTime, Nanos};
use crate::engine::component::{ComponentContext, FromPolicy, PolicyComponent, ReportedKind};
use crate::engine::control::{Actuator, Setting};
use crate::engine::decision::{ComponentDecision, DecisionStep, DecisionWithSlot};
use crate::engine::engine_flow::EngineFlow;
use crate::engine::limiters::Limiter;
use crate::engine::{CheckInput, Engine, LimiterDetails};
use crate::policy::{self, ComponentKind};
use aperture_core::{FlowParams, RejectReason};

/// The session label by which a policy of this test asks for a [`TurnTaker`] instead of a sampler.
const TURNS: &str = "registry-test-turns";

/// Accepts every second flow.
#[derive(Debug)]
pub(crate) struct TurnTaker {
    /// Shared with the component that takes over in a reload.
    flows: Arc<AtomicU64>,
    denied_code: i32,
}

impl FromPolicy for TurnTaker {
    type Spec = policy::Sampler;

    fn spec(kind: &ComponentKind) -> Option<&Self::Spec> {
        match kind {
            ComponentKind::Sampler(spec) => {
                (spec.session_label_key.as_deref() == Some(TURNS)).then_some(spec)
            }
            _ => None,
        }
    }

    fn new(spec: &Self::Spec, _: &ComponentContext) -> Option<Self> {
        Some(Self {
            flows: Arc::default(),
            denied_code: spec.denied_response_status_code,
        })
    }

    fn successor(&self, spec: &Self::Spec, _: &ComponentContext) -> Option<Self> {
        Some(Self {
            flows: Arc::clone(&self.flows),
            denied_code: spec.denied_response_status_code,
        })
    }

    fn take_over(&self, _: &Self, _: &Self::Spec, _: &ComponentContext, _: Nanos) {}
}

impl PolicyComponent for TurnTaker {
    fn reported_kind(&self) -> ReportedKind {
        ReportedKind::Sampler
    }

    fn step(&self) -> DecisionStep {
        DecisionStep::Limiters
    }

    fn denied_code(&self) -> i32 {
        self.denied_code
    }
}

impl Actuator for TurnTaker {
    fn apply(&self, _: Setting, _: Nanos) -> bool {
        false
    }
}

impl Limiter for TurnTaker {
    fn decide(&self, _: &EngineFlow<'_, '_>, _: &DecisionTime<'_>) -> DecisionWithSlot {
        let before = self.flows.fetch_add(1, Ordering::Relaxed);
        DecisionWithSlot::from(ComponentDecision {
            dropped: before % 2 == 1,
            ..ComponentDecision::ACCEPTED
        })
    }
}

fn policy_of(code: u16) -> String {
    format!(
        "
circuit:
  components:
  - flow_control:
      sampler:
        in_ports: {{accept_percentage: {{constant_signal: {{value: 100}}}}}}
        parameters:
          session_label_key: {TURNS}
          denied_response_status_code: {code}
          selectors: [{{control_point: here}}]
"
    )
}

#[test]
fn a_component_of_the_registry_decides_is_reported_and_keeps_its_state_in_a_reload() {
    let engine = Engine::builder()
        .policy_text("turns.yaml", policy_of(403))
        .build()
        .expect("the policy is valid");
    let params = FlowParams::new();
    let input = CheckInput::new("here", &params);
    let first = engine.check(&input);
    assert!(first.accepted());
    let details = &first.limiter_decisions[0].details;
    assert!(
        matches!(details, LimiterDetails::Sampler { .. }),
        "{details:?}"
    );

    // With its state, the component rejects the next flow, with the status of the new policy.
    let reloaded = engine.reload_with([("turns.yaml", policy_of(503))]);
    reloaded.expect("the policy is valid");
    let second = engine.check(&input);
    assert_eq!(second.reject_reason, Some(RejectReason::RateLimited));
    assert_eq!(second.denied_response_status_code, 503);
    assert!(engine.check(&input).accepted());
}
