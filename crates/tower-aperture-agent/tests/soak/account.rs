//! Counts the outcome of every flow, independently of the client's own statistics.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tower_aperture::pb::check::limiter_decision::Details;
use tower_aperture::{EndResponse, Flow, FlowDecision, FlowErrorKind};

use crate::agents::Limits;

/// The control points of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// Behind a concurrency limiter.
    Slots,
    /// Behind a concurrency scheduler, where flows wait for a slot.
    Queue,
    /// Behind a rate limiter.
    Rate,
}

impl Point {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Queue => "queue",
            Self::Rate => "rate",
        }
    }
}

/// One process of an agent, as observed through its flows.
#[derive(Debug)]
pub(crate) struct Incarnation {
    pub(crate) name: String,
    limits: Limits,
    began: Instant,
    pub(crate) slots: Gauge,
    pub(crate) queue: Gauge,
    accepted_by_rate: AtomicU64,
    /// The process accepted more flows than its rate limit allows for its age.
    pub(crate) too_fast: AtomicBool,
    answers: AtomicU64,
}

impl Incarnation {
    /// Returns how many checks it has answered.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(SeqCst)
    }

    /// Counts a flow that the rate limiter accepted.
    ///
    /// The process began after `began` and decided before now, so this allows at least as much as
    /// the bucket did.
    fn accepted_by_rate(&self) {
        let accepted = self.accepted_by_rate.fetch_add(1, SeqCst) + 1;
        let filled = self.limits.fill as f64 * self.began.elapsed().as_secs_f64();
        if accepted as f64 > self.limits.capacity as f64 + filled {
            self.too_fast.store(true, SeqCst);
        }
    }
}

/// A current count and its peak.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Gauge {
    fn enter(&self) {
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.peak.fetch_max(now, SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, SeqCst);
    }

    pub(crate) fn peak(&self) -> usize {
        self.peak.load(SeqCst)
    }

    /// Resets the peak to the current count.
    pub(crate) fn reset_peak(&self) {
        self.peak.store(self.now.load(SeqCst), SeqCst);
    }
}

/// A flow that no agent decided.
#[derive(Clone, Debug)]
pub(crate) struct Undecided {
    /// When the check started and when the client gave up, since the start of the account.
    pub(crate) started: Duration,
    pub(crate) failed: Duration,
    pub(crate) point: Point,
    pub(crate) kind: FlowErrorKind,
    pub(crate) error: String,
}

#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// Flows whose answer names a slot, so that the client sends their end to the agent. The client
    /// also ends rejected flows, which hold no slot.
    pub(crate) named: AtomicU64,
    /// Ends for whose response the caller waits.
    pub(crate) awaited: AtomicU64,
    pub(crate) returned: AtomicU64,
    /// Ends whose slot was unknown to the agent that received them.
    pub(crate) unknown: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// Counts flows. Clones share their counts.
#[derive(Clone, Debug)]
pub(crate) struct Account(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    limits: Limits,
    began: Instant,
    pub(crate) started: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) rejected: AtomicU64,
    /// Accepted flows whose answer names no known incarnation.
    pub(crate) unattributed: AtomicU64,
    pub(crate) under_way: Gauge,
    pub(crate) ends: Ends,
    undecided: Mutex<Vec<Undecided>>,
    incarnations: RwLock<Vec<Arc<Incarnation>>>,
}

impl std::ops::Deref for Account {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Account {
    pub(crate) fn new(limits: Limits) -> Self {
        Self(Arc::new(Inner {
            limits,
            began: Instant::now(),
            started: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            unattributed: AtomicU64::new(0),
            under_way: Gauge::default(),
            ends: Ends::default(),
            undecided: Mutex::default(),
            incarnations: RwLock::default(),
        }))
    }

    /// Returns the time since the account began.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Adds a process that is about to start.
    pub(crate) fn add_incarnation(&self, name: String) -> Arc<Incarnation> {
        let incarnation = Arc::new(Incarnation {
            name,
            limits: self.limits,
            began: Instant::now(),
            slots: Gauge::default(),
            queue: Gauge::default(),
            accepted_by_rate: AtomicU64::new(0),
            too_fast: AtomicBool::new(false),
            answers: AtomicU64::new(0),
        });
        let mut all = self.incarnations.write().expect("no panic");
        all.push(Arc::clone(&incarnation));
        incarnation
    }

    pub(crate) fn incarnations(&self) -> Vec<Arc<Incarnation>> {
        self.incarnations.read().expect("no panic").clone()
    }

    pub(crate) fn undecided(&self) -> MutexGuard<'_, Vec<Undecided>> {
        self.undecided
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the start of a check. Dropping the result without an answer counts a cancelled check.
    pub(crate) fn start_check(&self, point: Point) -> OngoingCheck {
        self.started.fetch_add(1, SeqCst);
        self.under_way.enter();
        OngoingCheck {
            account: self.clone(),
            point,
            started: self.now(),
            answered: false,
        }
    }

    /// Returns the incarnation whose policy the answer names.
    fn incarnation_of(&self, flow: &Flow) -> Option<Arc<Incarnation>> {
        let response = flow.check_response()?;
        let name = &response.limiter_decisions.first()?.policy_name;
        let all = self.incarnations.read().expect("no panic");
        // Search the newest first, because it gives most answers.
        let found = all.iter().rev().find(|known| known.name == *name);
        found.map(Arc::clone)
    }

    pub(crate) fn record_end(&self, response: &EndResponse) {
        let ends = &self.ends;
        let counter = if response.error().is_some() {
            &ends.failed
        } else if response.token_returns().iter().all(|token| token.returned) {
            &ends.returned
        } else {
            &ends.unknown
        };
        counter.fetch_add(1, SeqCst);
        ends.awaited.fetch_sub(1, SeqCst);
    }
}

fn names_slot(flow: &Flow) -> bool {
    let response = flow.check_response();
    let decisions = response
        .iter()
        .flat_map(|response| &response.limiter_decisions);
    decisions
        .filter_map(|decision| decision.details.as_ref())
        .any(|details| match details {
            Details::ConcurrencyLimiterInfo(info) => !info.request_id.is_empty(),
            Details::ConcurrencySchedulerInfo(info) => !info.request_id.is_empty(),
            _ => false,
        })
}

/// A check in progress.
pub(crate) struct OngoingCheck {
    account: Account,
    point: Point,
    started: Duration,
    answered: bool,
}

impl OngoingCheck {
    /// Counts the decision of a flow. If the flow holds a slot, returns a value that the caller
    /// must drop before it ends the flow.
    pub(crate) fn record_answer(mut self, flow: &Flow) -> Option<SlotHolder> {
        self.answered = true;
        let account = &self.account;
        let decision = flow.decision();
        if decision == FlowDecision::Unreachable {
            let error = flow.error().expect("an unreachable flow has an error");
            account.undecided().push(Undecided {
                started: self.started,
                failed: account.now(),
                point: self.point,
                kind: error.kind(),
                error: error.to_string(),
            });
            return None;
        }
        if names_slot(flow) {
            account.ends.named.fetch_add(1, SeqCst);
        }
        let incarnation = account.incarnation_of(flow);
        if let Some(incarnation) = &incarnation {
            incarnation.answers.fetch_add(1, SeqCst);
        }
        if decision == FlowDecision::Rejected {
            account.rejected.fetch_add(1, SeqCst);
            return None;
        }
        account.accepted.fetch_add(1, SeqCst);
        let Some(incarnation) = incarnation else {
            account.unattributed.fetch_add(1, SeqCst);
            return None;
        };
        match self.point {
            Point::Slots => incarnation.slots.enter(),
            Point::Queue => incarnation.queue.enter(),
            Point::Rate => {
                incarnation.accepted_by_rate();
                return None;
            }
        }
        Some(SlotHolder {
            point: self.point,
            incarnation,
        })
    }
}

impl Drop for OngoingCheck {
    fn drop(&mut self) {
        self.account.under_way.leave();
        if !self.answered {
            self.account.cancelled.fetch_add(1, SeqCst);
        }
    }
}

/// Counts an accepted flow that holds a slot.
///
/// The agent grants the slot before the answer arrives and takes it back after the client sends the
/// end, so flows that are counted at the same time hold slots at the same time.
pub(crate) struct SlotHolder {
    point: Point,
    incarnation: Arc<Incarnation>,
}

impl Drop for SlotHolder {
    fn drop(&mut self) {
        match self.point {
            Point::Slots => self.incarnation.slots.leave(),
            Point::Queue => self.incarnation.queue.leave(),
            Point::Rate => {}
        }
    }
}
