//! A queue in front of tokens, and those who wait in it.
//!
//! Whoever changes what the head of the queue waits for decides for it on the spot, and for those
//! behind as far as tokens reach, and then wakes them; so nobody polls, and a waiter who leaves
//! only has to be taken out.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use smallvec::SmallVec;

use super::wfq::{Arrival, Wfq, workload_id};
use super::workload::{Request, Seed};
use crate::engine::clock::{Clock, Nanos, nanos};
use crate::engine::limiters::{Decided, Scheduled, Settled};
use crate::engine::request_id::RequestId;
use crate::engine::store::lock;
use crate::engine::ticket::{Held, Holder};

/// Decided for in one go; between, others get the lock.
const A_GO: usize = 32;

/// A request for tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) now: Nanos,
    pub(crate) want: f64,
    /// [`NO_DEADLINE`](crate::engine::stages::NO_DEADLINE) is none.
    pub(crate) deadline: Nanos,
}

/// What tokens came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Grant {
    pub(crate) remaining: f64,
    pub(crate) current: f64,
    pub(crate) slot: Option<RequestId>,
}

/// What the head of a queue is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Take {
    Granted(Grant),
    Refused(Grant),
    /// Granted, and to be used from then on.
    From(Nanos, Grant),
    /// Nothing there; to be asked again when something is given back, or then.
    NotBefore(Nanos),
}

/// Where the tokens of a queue come from.
pub(crate) trait Source: fmt::Debug + Send + 'static {
    /// What the policy says, for all keys.
    type Rules: fmt::Debug + Send + Sync;

    fn new(now: Nanos) -> Self;

    /// Tokens for who does not have to queue, if they are there.
    fn take_at_once(&mut self, rules: &Self::Rules, ask: &Ask) -> Option<Grant>;

    /// Tokens for the head of the queue.
    fn take(&mut self, rules: &Self::Rules, ask: &Ask) -> Take;

    /// Takes tokens back that were granted but not used; a slot is meant by its name.
    fn put_back(&mut self, rules: &Self::Rules, want: f64, grant: &Grant, now: Nanos) -> bool;

    /// When somebody who waits has to go.
    fn give_up_at(deadline: Nanos) -> Nanos {
        deadline
    }

    /// Sees how requests end.
    fn ended(&mut self, _want: f64, _granted: bool) {}
}

/// One queue.
#[derive(Debug)]
pub(crate) struct Line<S: Source> {
    rules: Arc<S::Rules>,
    clock: Arc<dyn Clock>,
    state: Mutex<State<S>>,
}

#[derive(Debug)]
pub(crate) struct State<S> {
    pub(crate) source: S,
    queue: Wfq<usize>,
    waiting: slab::Slab<Waiting>,
    /// Who is in service, as the queue knows it.
    head: Option<usize>,
    seed: Seed,
}

/// Somebody in the queue, until it has taken its answer.
#[derive(Debug)]
struct Waiting {
    want: f64,
    deadline: Nanos,
    give_up_at: Nanos,
    stage: Stage,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// As the queue knows it.
    Queued(usize),
    /// At the head, to be asked again then or when something is given back.
    Blocked(usize, Nanos),
    /// At the head, has tokens for later.
    Sleeping(usize, Nanos, Grant),
    Done(bool, Grant),
}

type Wakers = SmallVec<[Waker; A_GO]>;

impl<S: Source> Line<S> {
    pub(crate) fn new(rules: &Arc<S::Rules>, clock: &Arc<dyn Clock>, now: Nanos) -> Arc<Self> {
        Arc::new(Self {
            rules: Arc::clone(rules),
            clock: Arc::clone(clock),
            state: Mutex::new(State {
                source: S::new(now),
                queue: Wfq::new(),
                waiting: slab::Slab::new(),
                head: None,
                seed: Seed::new(now),
            }),
        })
    }

    /// Looks at the tokens, or turns their knobs.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&S::Rules, &mut S) -> R) -> R {
        act(&self.rules, &mut lock(&self.state).source)
    }

    /// Decides about a request, or puts it in the queue.
    pub(crate) fn schedule(self: &Arc<Self>, request: &Request<'_>, now: Nanos) -> Scheduled {
        let want = request.tokens;
        let ask = Ask {
            now,
            want,
            deadline: request.deadline,
        };
        let mut state = lock(&self.state);
        if !state.queue.is_open()
            && let Some(grant) = state.source.take_at_once(&self.rules, &ask)
        {
            state.source.ended(want, true);
            drop(state);
            return Scheduled::Settled(self.settled(true, want, &grant));
        }
        let inverse = 1.0 / request.priority;
        let arrival = Arrival {
            workload: &workload_id(request.workload, inverse),
            fairness: state.seed.queue(request.fairness, now),
            tokens: want,
            inverse,
        };
        let at = state.waiting.insert(Waiting {
            want,
            deadline: request.deadline,
            give_up_at: S::give_up_at(request.deadline),
            stage: Stage::Queued(0),
            waker: None,
        });
        let (place, opens) = state.queue.arrive(&arrival, at);
        state.waiting[at].stage = Stage::Queued(place);
        let mut wakers = Wakers::new();
        if opens {
            state.head = Some(place);
            state.advance(&self.rules, now, &mut wakers);
        }
        if let Stage::Done(granted, grant) = state.waiting[at].stage {
            state.waiting.remove(at);
            drop(state);
            return Scheduled::Settled(self.settled(granted, want, &grant));
        }
        let next_time = state.waiting[at].next_time();
        drop(state);
        Scheduled::Waits(Waiter {
            line: Arc::clone(self) as Arc<dyn Waits>,
            at: Some(at),
            next_time,
        })
    }

    fn settled(self: &Arc<Self>, granted: bool, want: f64, grant: &Grant) -> Settled {
        let held = grant.slot.filter(|_| granted).map(|id| {
            let holder: Arc<dyn Holder> = Arc::<Self>::clone(self);
            Held::new(holder, id)
        });
        Settled {
            decided: Decided {
                remaining: grant.remaining,
                current: grant.current,
                consumed: if granted { want } else { 0.0 },
                dropped: !granted,
                request_id: grant.slot,
                ..Decided::REFUSED
            },
            held,
        }
    }

    /// Decides for the heads of the queue as far as tokens reach, and wakes them.
    pub(crate) fn serve(&self, now: Nanos) {
        loop {
            let mut wakers = Wakers::new();
            let more = lock(&self.state).advance(&self.rules, now, &mut wakers);
            for waker in wakers {
                waker.wake();
            }
            if !more {
                return;
            }
        }
    }

    /// Gives tokens or a slot back and lets the next one have them.
    pub(crate) fn put_back(&self, want: f64, slot: Option<RequestId>, now: Nanos) -> bool {
        let grant = Grant {
            slot,
            ..Grant::default()
        };
        let mut state = lock(&self.state);
        let back = state.source.put_back(&self.rules, want, &grant, now);
        let waits = state.head.is_some();
        drop(state);
        if waits {
            self.serve(now);
        }
        back
    }
}

impl<S: Source> Holder for Line<S> {
    fn give_back(&self, id: RequestId) -> bool {
        self.put_back(0.0, Some(id), nanos(self.clock.now()))
    }
}

impl Waiting {
    fn next_time(&self) -> Nanos {
        match self.stage {
            Stage::Queued(_) => self.give_up_at,
            Stage::Blocked(_, then) => self.give_up_at.min(then),
            Stage::Sleeping(_, then, _) => then,
            Stage::Done(..) => Nanos::MIN,
        }
    }
}

impl<S: Source> State<S> {
    /// True when there is more to do: a go is over.
    fn advance(&mut self, rules: &S::Rules, now: Nanos, wakers: &mut Wakers) -> bool {
        while let Some(place) = self.head {
            if wakers.len() >= A_GO {
                return true;
            }
            let Some(&at) = self.queue.payload(place) else {
                return false;
            };
            let Some(waiting) = self.waiting.get_mut(at) else {
                return false;
            };
            let ask = Ask {
                now,
                want: waiting.want,
                deadline: waiting.deadline,
            };
            let taken = match waiting.stage {
                Stage::Sleeping(_, until, grant) if until <= now => Take::Granted(grant),
                Stage::Sleeping(..) | Stage::Done(..) => return false,
                Stage::Queued(_) | Stage::Blocked(..) if now >= waiting.give_up_at => {
                    Take::Refused(Grant::default())
                }
                Stage::Queued(_) | Stage::Blocked(..) => self.source.take(rules, &ask),
            };
            let (granted, grant) = match taken {
                Take::Granted(grant) => (true, grant),
                Take::Refused(grant) => (false, grant),
                Take::From(until, grant) if until <= now => (true, grant),
                Take::From(until, grant) => {
                    waiting.stage = Stage::Sleeping(place, until, grant);
                    // Its timer is still set for when it would have had to go.
                    wakers.extend(waiting.waker.take());
                    return false;
                }
                Take::NotBefore(then) => {
                    let earlier = then < waiting.next_time();
                    waiting.stage = Stage::Blocked(place, then);
                    if earlier {
                        wakers.extend(waiting.waker.take());
                    }
                    return false;
                }
            };
            waiting.stage = Stage::Done(granted, grant);
            wakers.extend(waiting.waker.take());
            self.source.ended(ask.want, granted);
            self.head = self.queue.served(place, granted).1;
        }
        false
    }

    /// Takes somebody out of the queue who has no answer yet.
    fn take_out(&mut self, rules: &S::Rules, at: usize, now: Nanos) {
        let Some(waiting) = self.waiting.get(at) else {
            return;
        };
        match waiting.stage {
            Stage::Queued(place) if self.head != Some(place) => {
                self.queue.cancel(place);
            }
            Stage::Queued(place) | Stage::Blocked(place, _) => {
                self.head = self.queue.served(place, false).1;
            }
            Stage::Sleeping(place, _, grant) => {
                self.source.put_back(rules, waiting.want, &grant, now);
                self.head = self.queue.served(place, false).1;
            }
            Stage::Done(true, grant) => {
                self.source.put_back(rules, waiting.want, &grant, now);
            }
            Stage::Done(false, _) => {}
        }
    }
}

/// A queue, whatever its tokens are.
trait Waits: Send + Sync {
    fn poll(self: Arc<Self>, at: usize, now: Nanos, waker: &Waker) -> Result<Settled, Nanos>;
    /// `refused`: the queue counts it as turned away.
    fn leave(&self, at: usize, refused: bool);
}

impl<S: Source> Waits for Line<S> {
    /// The answer, or when to ask again.
    fn poll(self: Arc<Self>, at: usize, now: Nanos, waker: &Waker) -> Result<Settled, Nanos> {
        let mut wakers = Wakers::new();
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let due = state
            .waiting
            .get(at)
            .is_some_and(|waiting| waiting.next_time() <= now);
        let mut more = false;
        if due {
            let waiting = &mut state.waiting[at];
            // It is awake.
            waiting.waker = None;
            match waiting.stage {
                Stage::Queued(place) if state.head != Some(place) => {
                    let want = waiting.want;
                    state.queue.cancel(place);
                    state.source.ended(want, false);
                    state.waiting[at].stage = Stage::Done(false, Grant::default());
                }
                Stage::Done(..) => {}
                _ => more = state.advance(&self.rules, now, &mut wakers),
            }
        }
        let answer = match state.waiting.get_mut(at) {
            None => Some((false, 0.0, Grant::default())),
            Some(waiting) => match waiting.stage {
                Stage::Done(granted, grant) => {
                    let want = waiting.want;
                    state.waiting.remove(at);
                    Some((granted, want, grant))
                }
                _ => {
                    match &mut waiting.waker {
                        Some(known) => known.clone_from(waker),
                        unknown => *unknown = Some(waker.clone()),
                    }
                    None
                }
            },
        };
        let next_time = state.waiting.get(at).map(Waiting::next_time);
        drop(guard);
        for waker in wakers {
            waker.wake();
        }
        if more {
            self.serve(now);
        }
        match answer {
            Some((granted, want, grant)) => Ok(self.settled(granted, want, &grant)),
            None => Err(next_time.unwrap_or(now)),
        }
    }

    fn leave(&self, at: usize, refused: bool) {
        let now = nanos(self.clock.now());
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if refused
            && let Some(waiting) = state.waiting.get(at)
            && !matches!(waiting.stage, Stage::Done(..))
        {
            state.source.ended(waiting.want, false);
        }
        state.take_out(&self.rules, at, now);
        if state.waiting.contains(at) {
            state.waiting.remove(at);
        }
        let waits = state.head.is_some();
        drop(guard);
        if waits {
            self.serve(now);
        }
    }
}

/// A place in a queue; dropping it leaves the queue and gives back what was granted meanwhile.
pub(crate) struct Waiter {
    line: Arc<dyn Waits>,
    /// `None` when the answer was taken.
    at: Option<usize>,
    next_time: Nanos,
}

impl Waiter {
    pub(crate) fn poll(&mut self, now: Nanos, waker: &Waker) -> Poll<Settled> {
        let Some(at) = self.at else {
            return Poll::Ready(Settled::from(Decided::REFUSED));
        };
        match Arc::clone(&self.line).poll(at, now, waker) {
            Ok(settled) => {
                self.at = None;
                Poll::Ready(settled)
            }
            Err(next_time) => {
                self.next_time = next_time;
                Poll::Pending
            }
        }
    }

    /// Leaves the queue as one that is turned away.
    pub(crate) fn refuse(mut self) {
        if let Some(at) = self.at.take() {
            self.line.leave(at, true);
        }
    }

    /// When to ask again if nobody wakes.
    pub(crate) fn next_time(&self) -> Nanos {
        self.next_time
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(at) = self.at.take() {
            self.line.leave(at, false);
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").finish_non_exhaustive()
    }
}
