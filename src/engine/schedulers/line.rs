//! A queue in front of tokens, and those who wait in it.
//!
//! Whoever changes what the head of the queue waits for decides for it on the spot, and for those
//! behind as far as tokens reach, and then wakes them; so nobody polls, and a waiter who leaves
//! only has to be taken out.

use std::sync::Arc;
use std::task::Waker;

use smallvec::SmallVec;

use super::supply::{Ask, Grant, Source, Take};
use super::waiter::{Waiter, Waits};
use super::wfq::{Arrival, LONGEST, Overtaken, Wfq, workload_id};
use super::workload::{Request, Seed};
use crate::engine::clock::{Clock, Nanos, nanos};
use crate::engine::limiters::{Decided, Scheduled, Settled};
use crate::engine::request_id::RequestId;
use crate::engine::store::lock;
use crate::engine::sync::Mutex;
use crate::engine::ticket::{Held, Holder};

/// Decided for in one go; between, others get the lock.
const A_GO: usize = 32;

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
    /// Known once it is granted.
    overtaken: Option<Overtaken>,
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
                queue: Wfq::new(S::overtaking(rules)),
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
        if state.is_late(now) {
            drop(state);
            self.serve(now);
            state = lock(&self.state);
        }
        if !state.queue.is_open()
            && let Some(grant) = state.source.take_at_once(&self.rules, &ask)
        {
            state.source.ended(want, true);
            drop(state);
            return Scheduled::Settled(self.settled(true, want, &grant, None));
        }
        let inverse = (1.0 / request.priority).min(LONGEST);
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
            overtaken: None,
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
            let gone = state.waiting.remove(at);
            state.source.ended(want, granted);
            drop(state);
            return Scheduled::Settled(self.settled(granted, want, &grant, gone.overtaken));
        }
        let next_time = state.waiting[at].next_time();
        drop(state);
        let line: Arc<dyn Waits> = Arc::<Self>::clone(self);
        Scheduled::Waits(Waiter::new(line, at, next_time))
    }

    fn settled(
        self: &Arc<Self>,
        granted: bool,
        want: f64,
        grant: &Grant,
        overtaken: Option<Overtaken>,
    ) -> Settled {
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
                overtaken,
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

    /// Carries the tokens over to changed rules and decides by those for the heads of the queue.
    ///
    /// `again` asks anew for the head's tokens when it sleeps until they are there: by the changed
    /// rules they may be there earlier.
    pub(crate) fn change(&self, again: bool, now: Nanos, change: impl FnOnce(&mut S)) {
        let mut state = lock(&self.state);
        if again
            && let Some(at) = state.at_head()
            && let State {
                source, waiting, ..
            } = &mut *state
            && let Some(waiting) = waiting.get_mut(at)
            && let Stage::Sleeping(place, until, grant) = waiting.stage
            && until > now
        {
            waiting.stage = Stage::Queued(place);
            source.cancel(&self.rules, waiting.want, &grant, now);
        }
        change(&mut state.source);
        let waits = state.head.is_some();
        drop(state);
        if waits {
            self.serve(now);
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
    fn at_head(&self) -> Option<usize> {
        self.queue.payload(self.head?).copied()
    }

    /// The head was to look at its tokens and did not: nobody polls it. Others do so in its place.
    fn is_late(&self, now: Nanos) -> bool {
        let head = self.at_head().and_then(|at| self.waiting.get(at));
        head.is_some_and(|waiting| waiting.next_time() <= now)
    }

    /// True when there is more to do: a go is over.
    fn advance(&mut self, rules: &S::Rules, now: Nanos, wakers: &mut Wakers) -> bool {
        while let Some(place) = self.head {
            if wakers.len() >= A_GO {
                return true;
            }
            let Some(at) = self.at_head() else {
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
                Stage::Sleeping(_, until, grant) if until <= now => {
                    self.source.settle();
                    Take::Granted(grant)
                }
                Stage::Sleeping(..) | Stage::Done(..) => return false,
                Stage::Queued(_) | Stage::Blocked(..) if now >= waiting.give_up_at => {
                    Take::Refused(Grant::default())
                }
                Stage::Queued(_) | Stage::Blocked(..) => self.source.take(rules, &ask),
            };
            let (granted, grant) = match taken {
                Take::Granted(grant) => (true, grant),
                Take::Refused(grant) => (false, grant),
                Take::From(until, grant) if until <= now => {
                    self.source.settle();
                    (true, grant)
                }
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
            waiting.overtaken = self.queue.overtaken(place).filter(|_| granted);
            wakers.extend(waiting.waker.take());
            self.head = self.queue.served(place, granted).1;
        }
        false
    }

    /// Takes a request out of the queue that has not taken its answer yet.
    fn take_out(&mut self, rules: &S::Rules, at: usize, now: Nanos) {
        let Some(waiting) = self.waiting.get(at) else {
            return;
        };
        self.source.ended(waiting.want, false);
        match waiting.stage {
            Stage::Queued(place) if self.head != Some(place) => {
                self.queue.cancel(place);
            }
            Stage::Queued(place) | Stage::Blocked(place, _) => {
                self.head = self.queue.served(place, false).1;
            }
            Stage::Sleeping(place, _, grant) => {
                self.source.cancel(rules, waiting.want, &grant, now);
                self.head = self.queue.served(place, false).1;
            }
            Stage::Done(true, grant) => {
                self.source.put_back(rules, waiting.want, &grant, now);
            }
            Stage::Done(false, _) => {}
        }
    }
}

impl<S: Source> Waits for Line<S> {
    fn poll(self: Arc<Self>, at: usize, now: Nanos, waker: &Waker) -> Result<Settled, Nanos> {
        let mut wakers = Wakers::new();
        // Dropped after the lock: a task may go with its last waker, and wait in this queue.
        let mut replaced = None;
        let mut guard = lock(&self.state);
        if guard.is_late(now) && guard.at_head() != Some(at) {
            drop(guard);
            self.serve(now);
            guard = lock(&self.state);
        }
        let state = &mut *guard;
        let due = state
            .waiting
            .get(at)
            .is_some_and(|waiting| waiting.next_time() <= now);
        let mut more = false;
        if due {
            let waiting = &mut state.waiting[at];
            // It is awake.
            replaced = waiting.waker.take();
            match waiting.stage {
                Stage::Queued(place) if state.head != Some(place) => {
                    state.queue.cancel(place);
                    state.waiting[at].stage = Stage::Done(false, Grant::default());
                }
                Stage::Done(..) => {}
                _ => more = state.advance(&self.rules, now, &mut wakers),
            }
        }
        let answer = match state.waiting.get_mut(at) {
            None => Some((false, 0.0, Grant::default(), None)),
            Some(waiting) => match waiting.stage {
                Stage::Done(granted, grant) => {
                    let gone = state.waiting.remove(at);
                    state.source.ended(gone.want, granted);
                    replaced = replaced.or(gone.waker);
                    Some((granted, gone.want, grant, gone.overtaken))
                }
                _ => {
                    let known = waiting.waker.as_ref();
                    if !known.is_some_and(|known| known.will_wake(waker))
                        && let Some(before) = waiting.waker.replace(waker.clone())
                    {
                        replaced = Some(before);
                    }
                    None
                }
            },
        };
        let next_time = state.waiting.get(at).map(Waiting::next_time);
        drop(guard);
        drop(replaced);
        for waker in wakers {
            waker.wake();
        }
        if more {
            self.serve(now);
        }
        match answer {
            Some((granted, want, grant, overtaken)) => {
                Ok(self.settled(granted, want, &grant, overtaken))
            }
            None => Err(next_time.unwrap_or(now)),
        }
    }

    fn leave(&self, at: usize) {
        let now = nanos(self.clock.now());
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.take_out(&self.rules, at, now);
        let gone = state.waiting.try_remove(at);
        let waits = state.head.is_some();
        drop(guard);
        drop(gone);
        if waits {
            self.serve(now);
        }
    }
}
