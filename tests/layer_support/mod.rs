//! Shared parts of the layer's tests: a decider that records, a body that follows a script, inner
//! services, and real servers.
#![allow(dead_code, unreachable_pub)]

pub mod body;
pub mod inner;
pub mod server;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tower_aperture::{
    Check, Decider, Denial, FlowError, FlowOutcome, FlowParams, FlowStatus, Ticket, Verdict,
};

/// A timeout that only a hang reaches, even on the slowest machine.
pub const HANG: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub enum Answer {
    Accept,
    Reject(Denial),
    Unreachable(FlowError),
}

/// A check that the layer made.
#[derive(Clone, Debug)]
pub struct Asked {
    pub control_point: String,
    pub labels: Vec<(String, String)>,
    pub dropped: u32,
    pub shortened: u32,
    pub check_timeout: Option<Duration>,
    pub ramp_mode: bool,
}

impl Asked {
    pub fn label(&self, key: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    }
}

/// A decider that records checks and ends. It makes the same decision for every flow, or waits for
/// the decisions of the test.
#[derive(Clone, Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The decision for every flow; `None` if the test decides.
    answer: Option<Answer>,
    log: Mutex<Log>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Log {
    asked: Vec<Asked>,
    waiting: VecDeque<oneshot::Sender<Answer>>,
    given_up: usize,
    ends: Vec<FlowOutcome>,
    lost: usize,
}

impl Recorder {
    fn new(answer: Option<Answer>) -> Self {
        Self {
            shared: Arc::new(Shared {
                answer,
                log: Mutex::default(),
                changed: Notify::new(),
            }),
        }
    }

    pub fn accepting() -> Self {
        Self::new(Some(Answer::Accept))
    }

    pub fn rejecting(denial: Denial) -> Self {
        Self::new(Some(Answer::Reject(denial)))
    }

    pub fn unreachable(error: FlowError) -> Self {
        Self::new(Some(Answer::Unreachable(error)))
    }

    /// Returns a recorder whose decisions wait for [`answer`](Self::answer).
    pub fn by_hand() -> Self {
        Self::new(None)
    }

    /// Makes the decision that has waited longest.
    pub fn answer(&self, answer: Answer) {
        let waiting = self.shared.log().waiting.pop_front();
        let waiting = waiting.expect("a decision waits");
        let _ = waiting.send(answer);
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.shared.log().asked.clone()
    }

    /// Returns the only check so far.
    pub fn question(&self) -> Asked {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "exactly one check: {asked:?}");
        asked.remove(0)
    }

    /// Returns the ends so far; panics if a ticket was dropped without an end.
    pub fn ends(&self) -> Vec<FlowOutcome> {
        let log = self.shared.log();
        assert_eq!(log.lost, 0, "every ticket must be ended");
        log.ends.clone()
    }

    /// Returns the only end so far, as status and HTTP status.
    pub fn end(&self) -> (FlowStatus, Option<u16>) {
        let ends = self.ends();
        assert_eq!(ends.len(), 1, "exactly one end: {ends:?}");
        (
            ends[0].status,
            ends[0].http_status.map(|status| status.as_u16()),
        )
    }

    /// Returns the number of decisions that were dropped before they were made.
    pub fn given_up(&self) -> usize {
        self.shared.log().given_up
    }

    async fn until(&self, expected: &str, done: impl Fn(&Log) -> bool) {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                if done(&self.shared.log()) {
                    return;
                }
                changed.await;
            }
        };
        assert!(
            tokio::time::timeout(HANG, wait).await.is_ok(),
            "no {expected} in time"
        );
    }

    /// Waits for the only end and returns it.
    pub async fn ended(&self) -> (FlowStatus, Option<u16>) {
        self.until("end", |log| !log.ends.is_empty()).await;
        self.end()
    }

    pub async fn ended_times(&self, times: usize) -> Vec<FlowOutcome> {
        self.until("ends", |log| log.ends.len() >= times).await;
        self.ends()
    }

    pub async fn asked_once(&self) {
        self.until("check", |log| !log.asked.is_empty()).await;
    }

    pub async fn asked_times(&self, times: usize) {
        self.until("checks", |log| log.asked.len() >= times).await;
    }

    pub async fn gave_up(&self) {
        self.until("dropped decision", |log| log.given_up > 0).await;
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn record(&self, record: impl FnOnce(&mut Log)) {
        record(&mut self.log());
        self.changed.notify_waiters();
    }

    fn verdict(self: &Arc<Self>, answer: Answer) -> Verdict<Recorded> {
        let ticket = || Recorded {
            shared: self.clone(),
            ended: false,
        };
        match answer {
            Answer::Accept => Verdict::Accepted(ticket()),
            Answer::Reject(denial) => Verdict::Rejected(denial, ticket()),
            Answer::Unreachable(error) => Verdict::Unreachable(error),
        }
    }
}

/// The ticket of a recorded flow.
#[derive(Debug)]
pub struct Recorded {
    shared: Arc<Shared>,
    ended: bool,
}

impl Ticket for Recorded {
    fn end(mut self, outcome: FlowOutcome) {
        self.ended = true;
        self.shared.record(|log| log.ends.push(outcome));
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.record(|log| log.lost += 1);
        }
    }
}

/// A decision that the test makes.
#[derive(Debug)]
pub struct ByHand {
    shared: Arc<Shared>,
    answer: oneshot::Receiver<Answer>,
    made: bool,
}

impl Future for ByHand {
    type Output = Verdict<Recorded>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(cx));
        self.made = true;
        Poll::Ready(
            self.shared
                .verdict(answer.expect("the test makes the decision")),
        )
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        if !self.made {
            self.shared.record(|log| log.given_up += 1);
        }
    }
}

impl Decider for Recorder {
    type Ticket = Recorded;
    type Pending = ByHand;

    fn decide(&self, control_point: &str, params: &FlowParams<'_>) -> Check<Recorded, ByHand> {
        let asked = Asked {
            control_point: control_point.to_owned(),
            labels: params
                .labels
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            dropped: params.labels.dropped(),
            shortened: params.labels.shortened(),
            check_timeout: params.check_timeout,
            ramp_mode: params.ramp_mode,
        };
        let check = match &self.shared.answer {
            Some(answer) => Check::Ready(self.shared.verdict(answer.clone())),
            None => {
                let (sender, answer) = oneshot::channel();
                self.shared.record(|log| log.waiting.push_back(sender));
                Check::Pending(ByHand {
                    shared: self.shared.clone(),
                    answer,
                    made: false,
                })
            }
        };
        self.shared.record(|log| log.asked.push(asked));
        check
    }
}
