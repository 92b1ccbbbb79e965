//! The schedule that decides when each query is sent.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::client::{QUERY_TIMEOUT, QueryClient};
use super::latest::LatestResults;
use aperture_engine::engine::PolicyQuery;

/// The interval between searches for due and new queries.
pub(super) const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// A query that takes longer than this is slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// Concurrent queries that were quick last time and have not become slow since.
const MAX_QUICK: usize = 8;
/// Concurrent queries that were slow last time, and as many that are new.
const MAX_SLOW_OR_NEW: usize = 8;
/// Concurrent queries that are not quick, including quick ones that have become slow.
const MAX_NOT_QUICK: usize = 16;
/// All concurrent queries; each holds a response of up to 256 KiB.
const MAX_RUNNING: usize = MAX_QUICK + MAX_NOT_QUICK;

/// What fetches read and write: the client, which may be replaced, and the results.
pub(super) struct Shared {
    pub(super) client: ArcSwap<QueryClient>,
    pub(super) results: LatestResults,
}

/// The queries of the policies in force and the fetches that run. Dropping it cancels the fetches.
#[derive(Default)]
pub(super) struct QuerySchedule {
    queries: HashMap<Arc<str>, ScheduledQuery>,
    /// Due queries by [`QueryPace`], each queue in order of due time.
    due: [VecDeque<Arc<str>>; 3],
    /// At most [`MAX_RUNNING`].
    running: Vec<RunningQuery>,
    fetches: JoinSet<Duration>,
    /// Counts refreshes, to detect queries that are no longer in use.
    refreshes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueryPace {
    Quick,
    New,
    Slow,
}

struct ScheduledQuery {
    interval: Duration,
    due: Instant,
    pace: QueryPace,
    /// The last refresh that found the query in a policy.
    last_refresh: u64,
}

struct RunningQuery {
    fetch: Id,
    text: Arc<str>,
    pace: QueryPace,
    started: Instant,
}

impl QuerySchedule {
    /// Updates the queries from the policies and collects those that are due.
    pub(super) fn refresh(&mut self, queries: &[PolicyQuery]) {
        let now = Instant::now();
        self.refreshes += 1;
        let last_refresh = self.refreshes;
        for query in queries {
            let interval = query.interval.max(REFRESH_INTERVAL);
            let known = self.queries.entry(Arc::clone(&query.text));
            let known = known.or_insert(ScheduledQuery {
                interval,
                due: now,
                pace: QueryPace::New,
                last_refresh,
            });
            known.interval = interval;
            // A policy may have shortened the interval.
            known.due = known.due.min(now + interval);
            known.last_refresh = last_refresh;
        }
        self.queries
            .retain(|_, query| query.last_refresh == last_refresh);
        for due in &mut self.due {
            due.clear();
        }
        let mut due: Vec<(&Arc<str>, &ScheduledQuery)> = self
            .queries
            .iter()
            // Refreshes are not exactly on time.
            .filter(|(_, query)| query.due <= now + REFRESH_INTERVAL / 2)
            .filter(|(text, _)| self.running.iter().all(|running| running.text != **text))
            .collect();
        due.sort_unstable_by_key(|(_, query)| query.due);
        for (text, query) in due {
            self.due[query.pace as usize].push_back(Arc::clone(text));
        }
    }

    /// Returns true if a policy in force uses the query.
    pub(super) fn contains(&self, text: &str) -> bool {
        self.queries.contains_key(text)
    }

    /// Waits until a query finishes; forever while none runs.
    pub(super) async fn finished(&mut self) {
        match self.fetches.join_next_with_id().await {
            Some(finished) => self.finish(finished),
            None => std::future::pending().await,
        }
    }

    /// Removes a finished query and classifies it by its duration.
    fn finish(&mut self, finished: Result<(Id, Duration), JoinError>) {
        let (fetch, took) = match finished {
            Ok(finished) => finished,
            // A fetch that panicked is retried among the slow ones.
            Err(error) => (error.id(), Duration::MAX),
        };
        let Some(at) = self
            .running
            .iter()
            .position(|running| running.fetch == fetch)
        else {
            return;
        };
        let RunningQuery { text, .. } = self.running.swap_remove(at);
        if let Some(query) = self.queries.get_mut(&text) {
            query.pace = match took > SLOW_AFTER {
                true => QueryPace::Slow,
                false => QueryPace::Quick,
            };
        }
    }

    /// Starts due queries, up to the concurrency limits.
    pub(super) fn start_due(&mut self, shared: &Arc<Shared>) {
        for pace in [QueryPace::Quick, QueryPace::New, QueryPace::Slow] {
            while self.has_room(pace)
                && let Some(text) = self.due[pace as usize].pop_front()
            {
                self.start(shared, text, pace);
            }
        }
    }

    /// Whether another query of this pace may start.
    fn has_room(&self, pace: QueryPace) -> bool {
        let now = Instant::now();
        let is_late =
            |running: &RunningQuery| now.saturating_duration_since(running.started) > SLOW_AFTER;
        let all = self.running.iter();
        let quick = all.filter(|running| running.pace == QueryPace::Quick && !is_late(running));
        let quick = quick.count();
        if self.running.len() >= MAX_RUNNING {
            return false;
        }
        if pace == QueryPace::Quick {
            return quick < MAX_QUICK;
        }
        let alike = self.running.iter().filter(|running| match pace {
            QueryPace::New => running.pace == QueryPace::New && !is_late(running),
            QueryPace::Quick | QueryPace::Slow => running.pace == QueryPace::Slow,
        });
        self.running.len() - quick < MAX_NOT_QUICK && alike.count() < MAX_SLOW_OR_NEW
    }

    /// Starts a query.
    fn start(&mut self, shared: &Arc<Shared>, text: Arc<str>, pace: QueryPace) {
        let Some(query) = self.queries.get_mut(&text) else {
            return;
        };
        let started = Instant::now();
        let interval = query.interval;
        query.due = started + interval;
        let (shared, query) = (Arc::clone(shared), Arc::clone(&text));
        let fetch = self.fetches.spawn(async move {
            let client = shared.client.load_full();
            let result = client.query(&query).await;
            let now = Instant::now();
            shared
                .results
                .record(&query, &result, now + interval * 2 + QUERY_TIMEOUT);
            now.saturating_duration_since(started)
        });
        self.running.push(RunningQuery {
            fetch: fetch.id(),
            text,
            pace,
            started,
        });
    }
}
