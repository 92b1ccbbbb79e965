//! The order in which queries are asked.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::{LOOK, Shared, TIMEOUT};
use crate::engine::PolicyQuery;

/// A query whose answer takes longer is slow.
const SLOW: Duration = Duration::from_secs(1);
/// Queries under way whose last answer was quick, and is so far.
const QUICK_AT_ONCE: usize = 8;
/// Queries under way that were slow the last time, and as many that are new.
const OTHERS_AT_ONCE: usize = 8;
/// All that are not quick, those among them that have become slow meanwhile.
const MOST_OTHERS: usize = 16;
/// All queries under way; each holds an answer of up to 256 KiB.
const MOST: usize = QUICK_AT_ONCE + MOST_OTHERS;

/// What one follower knows. Its fetches end with it.
#[derive(Default)]
pub(super) struct Turns {
    queries: HashMap<Arc<str>, Query>,
    /// What is due, by [`Pace`], the query first that is due longest.
    due: [VecDeque<Arc<str>>; 3],
    /// At most [`MOST`].
    under_way: Vec<UnderWay>,
    fetches: JoinSet<Duration>,
    /// Counts the looks, to tell which queries are gone.
    looks: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Quick,
    New,
    Slow,
}

struct Query {
    interval: Duration,
    due: Instant,
    pace: Pace,
    /// The look that found it last.
    seen: u64,
}

struct UnderWay {
    fetch: Id,
    text: Arc<str>,
    pace: Pace,
    began: Instant,
}

impl Turns {
    /// Takes over what the policies ask, and finds what is due.
    pub(super) fn look(&mut self, queries: &[PolicyQuery]) {
        let now = Instant::now();
        self.looks += 1;
        let seen = self.looks;
        for query in queries {
            let interval = query.interval.max(LOOK);
            let known = self.queries.entry(Arc::clone(&query.text));
            let known = known.or_insert(Query {
                interval,
                due: now,
                pace: Pace::New,
                seen,
            });
            known.interval = interval;
            // A policy may ask more often now.
            known.due = known.due.min(now + interval);
            known.seen = seen;
        }
        self.queries.retain(|_, query| query.seen == seen);
        for due in &mut self.due {
            due.clear();
        }
        let mut due: Vec<(&Arc<str>, &Query)> = self
            .queries
            .iter()
            // Looks are not on the dot.
            .filter(|(_, query)| query.due <= now + LOOK / 2)
            .filter(|(text, _)| self.under_way.iter().all(|one| one.text != **text))
            .collect();
        due.sort_unstable_by_key(|(_, query)| query.due);
        for (text, query) in due {
            self.due[query.pace as usize].push_back(Arc::clone(text));
        }
    }

    /// Returns true for a query that some policy asks.
    pub(super) fn knows(&self, text: &str) -> bool {
        self.queries.contains_key(text)
    }

    /// Waits until a query is answered, or for ever while none is under way.
    pub(super) async fn finished(&mut self) {
        match self.fetches.join_next_with_id().await {
            Some(finished) => self.forget(finished),
            None => std::future::pending().await,
        }
    }

    fn forget(&mut self, finished: Result<(Id, Duration), JoinError>) {
        let (fetch, took) = match finished {
            Ok(finished) => finished,
            // A fetch that panicked is tried again, with the slow ones.
            Err(error) => (error.id(), Duration::MAX),
        };
        let Some(at) = self.under_way.iter().position(|one| one.fetch == fetch) else {
            return;
        };
        let UnderWay { text, .. } = self.under_way.swap_remove(at);
        if let Some(query) = self.queries.get_mut(&text) {
            query.pace = match took > SLOW {
                true => Pace::Slow,
                false => Pace::Quick,
            };
        }
    }

    /// Asks as much of what is due as may be under way.
    pub(super) fn begin(&mut self, shared: &Arc<Shared>) {
        for pace in [Pace::Quick, Pace::New, Pace::Slow] {
            while self.has_room(pace)
                && let Some(text) = self.due[pace as usize].pop_front()
            {
                self.ask(shared, text, pace);
            }
        }
    }

    fn has_room(&self, pace: Pace) -> bool {
        let now = Instant::now();
        let is_late = |one: &UnderWay| now.saturating_duration_since(one.began) > SLOW;
        let all = self.under_way.iter();
        let quick = all.filter(|one| one.pace == Pace::Quick && !is_late(one));
        let quick = quick.count();
        if self.under_way.len() >= MOST {
            return false;
        }
        if pace == Pace::Quick {
            return quick < QUICK_AT_ONCE;
        }
        let alike = self.under_way.iter().filter(|one| match pace {
            Pace::New => one.pace == Pace::New && !is_late(one),
            Pace::Quick | Pace::Slow => one.pace == Pace::Slow,
        });
        self.under_way.len() - quick < MOST_OTHERS && alike.count() < OTHERS_AT_ONCE
    }

    fn ask(&mut self, shared: &Arc<Shared>, text: Arc<str>, pace: Pace) {
        let Some(query) = self.queries.get_mut(&text) else {
            return;
        };
        let began = Instant::now();
        let interval = query.interval;
        query.due = began + interval;
        let (shared, asked) = (Arc::clone(shared), Arc::clone(&text));
        let fetch = self.fetches.spawn(async move {
            let client = shared.client.load_full();
            let answer = client.ask(&asked).await;
            let now = Instant::now();
            shared
                .table
                .put(&asked, &answer, now + interval * 2 + TIMEOUT);
            now.saturating_duration_since(began)
        });
        self.under_way.push(UnderWay {
            fetch: fetch.id(),
            text,
            pace,
            began,
        });
    }
}
