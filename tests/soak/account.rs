//! What became of every flow, counted apart from the client, which counts as well.

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

/// One process of an agent, as its flows see it.
#[derive(Debug)]
pub(crate) struct Incarnation {
    pub(crate) name: String,
    limits: Limits,
    began: Instant,
    pub(crate) slots: Gauge,
    pub(crate) queue: Gauge,
    accepted_by_rate: AtomicU64,
    /// It accepted more flows than its rate limit allows for its age.
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

/// How many there are, and the most there were.
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

    /// Forgets an earlier peak.
    pub(crate) fn restart(&self) {
        self.peak.store(self.now.load(SeqCst), SeqCst);
    }
}

/// A flow that no agent decided about.
#[derive(Clone, Debug)]
pub(crate) struct Undecided {
    /// When it was asked and when the client gave up, since the begin of the account.
    pub(crate) asked: Duration,
    pub(crate) failed: Duration,
    pub(crate) point: Point,
    pub(crate) kind: FlowErrorKind,
    pub(crate) error: String,
}

#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// Flows whose answer names a slot, which the client ends at the agent. A rejected flow holds
    /// none under that name, and is ended all the same.
    pub(crate) named: AtomicU64,
    /// Ends whose answer the caller waits for.
    pub(crate) awaited: AtomicU64,
    pub(crate) returned: AtomicU64,
    /// The agent that took the end knew nothing of the slot.
    pub(crate) unknown: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// Counts flows. Its clones are one account.
#[derive(Clone, Debug)]
pub(crate) struct Account(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    limits: Limits,
    began: Instant,
    pub(crate) started: AtomicU64,
    pub(crate) left: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) rejected: AtomicU64,
    /// Accepted flows whose answer names no incarnation.
    pub(crate) strangers: AtomicU64,
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
            left: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            strangers: AtomicU64::new(0),
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

    /// Counts a check that starts. Dropped without an answer, its caller has left.
    pub(crate) fn ask(&self, point: Point) -> Asking {
        self.started.fetch_add(1, SeqCst);
        self.under_way.enter();
        Asking {
            account: self.clone(),
            point,
            asked: self.now(),
            answered: false,
        }
    }

    /// Returns the incarnation whose policy the answer names.
    fn incarnation_of(&self, flow: &Flow) -> Option<Arc<Incarnation>> {
        let response = flow.check_response()?;
        let name = &response.limiter_decisions.first()?.policy_name;
        let all = self.incarnations.read().expect("no panic");
        // The newest answers most.
        let found = all.iter().rev().find(|known| known.name == *name);
        found.map(Arc::clone)
    }

    pub(crate) fn end_answered(&self, response: &EndResponse) {
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

fn names_a_slot(flow: &Flow) -> bool {
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

/// A check under way.
pub(crate) struct Asking {
    account: Account,
    point: Point,
    asked: Duration,
    answered: bool,
}

impl Asking {
    /// Counts the answer. What is returned lives while the flow runs, and is dropped before its
    /// end.
    pub(crate) fn answered(mut self, flow: &Flow) -> Option<Runs> {
        self.answered = true;
        let account = &self.account;
        let decision = flow.decision();
        if decision == FlowDecision::Unreachable {
            let error = flow.error().expect("an unreachable flow says why");
            account.undecided().push(Undecided {
                asked: self.asked,
                failed: account.now(),
                point: self.point,
                kind: error.kind(),
                error: error.to_string(),
            });
            return None;
        }
        if names_a_slot(flow) {
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
            account.strangers.fetch_add(1, SeqCst);
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
        Some(Runs {
            point: self.point,
            incarnation,
        })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.account.under_way.leave();
        if !self.answered {
            self.account.left.fetch_add(1, SeqCst);
        }
    }
}

/// An accepted flow that holds a slot. The agent gave the slot before the answer came and takes it
/// back after the end is sent, so all that run at once hold slots at once.
pub(crate) struct Runs {
    point: Point,
    incarnation: Arc<Incarnation>,
}

impl Drop for Runs {
    fn drop(&mut self) {
        match self.point {
            Point::Slots => self.incarnation.slots.leave(),
            Point::Queue => self.incarnation.queue.leave(),
            Point::Rate => {}
        }
    }
}
