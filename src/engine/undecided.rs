//! Flows that nothing limits: which control points no policy selects, and which flows no component
//! has decided about.

use std::sync::Arc;

use super::clock::Clock;
use super::component_entry::ComponentEntry;
use super::limiters::ComponentDecision;
use super::snapshot::Snapshot;
use super::stages::{EngineFlow, Observer};
use super::store::lock;
use super::sync::Mutex;
use crate::flow::first_seen::FirstSeen;

/// A longer name is neither kept nor logged: clients may have made it.
const LONGEST_NAME: usize = 256;

/// The control points that flows asked for and no policy selected.
///
/// At most 1024 are told apart, because clients may make names up.
#[derive(Debug, Default)]
pub(super) struct Unselected {
    seen: FirstSeen,
    names: Mutex<Vec<Arc<str>>>,
}

impl Unselected {
    /// Notes a flow that meets no component, and warns once of each control point that nothing of
    /// any policy selects.
    #[inline(never)]
    pub(super) fn note(&self, live: &Snapshot, control_point: &str) {
        if control_point.len() > LONGEST_NAME
            || live.selects(control_point)
            || !self.seen.is_new(control_point)
        {
            return;
        }
        log_event!(
            warn,
            control_point,
            "no policy selects this control point: nothing limits its flows"
        );
        if self.seen.is_full() {
            log_event!(
                warn,
                most = crate::flow::first_seen::MOST,
                "no policy selects any of many control points: further ones are not named"
            );
        }
        lock(&self.names).push(control_point.into());
    }

    /// The names that no policy selects now either, in the order of the alphabet.
    pub(super) fn names(&self, live: &Snapshot) -> Vec<Arc<str>> {
        let mut names = lock(&self.names).clone();
        names.retain(|name| !live.selects(name));
        names.sort_unstable();
        names
    }
}

/// Watches whether some component decides about a flow.
pub(super) struct Watch<'o, O> {
    observer: &'o mut O,
    /// Some component is for the flow.
    pub(super) asked: bool,
    /// Not all that were asked were skipped for want of a label.
    pub(super) decided: bool,
}

impl<'o, O: Observer> Watch<'o, O> {
    pub(super) const fn over(observer: &'o mut O) -> Self {
        Self {
            observer,
            asked: false,
            decided: false,
        }
    }
}

impl<O: Observer> Observer for Watch<'_, O> {
    #[inline(always)]
    fn on_decision(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        component: &ComponentEntry,
        decision: &ComponentDecision,
    ) {
        self.asked = true;
        self.decided |= component.has_decided(flow, decision);
        self.observer.on_decision(flow, component, decision);
    }

    #[inline(always)]
    fn look_up(&mut self, flow: &EngineFlow<'_, '_>, clock: &dyn Clock) -> bool {
        let hit = self.observer.look_up(flow, clock);
        // Schedulers are not asked then.
        self.decided |= hit;
        hit
    }
}
