//! Ends that wait for the worker: a queue and room for calls for each Agent, so that one that hangs
//! does not delay the ends for another.

use std::collections::VecDeque;

use super::flow_end::EndJob;

/// Ends that may wait for one Agent.
const MAX_WAITING: usize = 16 * 1024;

/// Ends that may wait for all Agents together, except that each Agent always has room for
/// [`RESERVED`].
const MAX_IN_ALL: usize = 64 * 1024;

/// Ends that may wait for an Agent, however many wait for others.
const RESERVED: usize = 512;

/// Calls of FlowEnd at once for each Agent: one that hangs does not delay the others.
const PARALLEL: usize = 8;

/// References in one call.
const MAX_REFS: usize = 256;

/// How far into a queue to look for ends at the same control point.
const LOOK_AHEAD: usize = 1024;

/// The ends that wait in one runtime, by the Agent that let their flows in.
pub(super) struct Ends {
    agents: Box<[OfAgent]>,
    waiting: usize,
    calls: usize,
    /// The Agent whose turn it is.
    turn: usize,
}

#[derive(Default)]
struct OfAgent {
    waiting: VecDeque<EndJob>,
    /// Calls under way.
    calls: usize,
}

impl Ends {
    pub(super) fn new(agents: usize) -> Self {
        Self {
            agents: (0..agents).map(|_| OfAgent::default()).collect(),
            waiting: 0,
            calls: 0,
            turn: 0,
        }
    }

    /// Queues an end; gives it back when there is no room.
    pub(super) fn push(&mut self, job: EndJob) -> Result<(), EndJob> {
        let queue = &mut self.agents[job.agent()].waiting;
        let room = queue.len() < MAX_WAITING && self.waiting < MAX_IN_ALL;
        if !room && queue.len() >= RESERVED {
            return Err(job);
        }
        queue.push_back(job);
        self.waiting += 1;
        Ok(())
    }

    /// Takes the ends for the next call: the end that has waited longest for an Agent, and with it
    /// others that fit the call. The call is under way until [`called`](Self::called).
    pub(super) fn next_call(&mut self) -> Option<Vec<EndJob>> {
        let len = self.agents.len();
        for step in 0..len {
            let at = (self.turn + step) % len;
            let agent = &mut self.agents[at];
            if agent.calls < PARALLEL
                && let Some(jobs) = take_batch(&mut agent.waiting)
            {
                agent.calls += 1;
                self.calls += 1;
                self.waiting -= jobs.len();
                self.turn = (at + 1) % len;
                return Some(jobs);
            }
        }
        None
    }

    /// A call is over.
    pub(super) fn called(&mut self, at: usize) {
        self.agents[at].calls -= 1;
        self.calls -= 1;
    }

    /// Takes all that wait.
    pub(super) fn take_all(&mut self) -> Vec<EndJob> {
        self.waiting = 0;
        let agents = self.agents.iter_mut();
        agents.flat_map(|agent| agent.waiting.drain(..)).collect()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Nothing waits and no call is under way.
    pub(super) const fn is_done(&self) -> bool {
        self.waiting == 0 && self.calls == 0
    }
}

fn take_batch(queue: &mut VecDeque<EndJob>) -> Option<Vec<EndJob>> {
    let first = queue.pop_front()?;
    let mut refs = first.refs();
    let mut jobs = vec![first];
    let mut at = 0;
    while at < queue.len().min(LOOK_AHEAD) && refs < MAX_REFS {
        let fits = queue[at].fits(&jobs[0]) && refs + queue[at].refs() <= MAX_REFS;
        if fits && let Some(job) = queue.remove(at) {
            refs += job.refs();
            jobs.push(job);
        } else {
            at += 1;
        }
    }
    Some(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::check::InflightRequestRef;

    fn job(control_point: &str, at: usize, refs: usize) -> EndJob {
        let refs = vec![InflightRequestRef::default(); refs];
        EndJob::new(control_point.to_owned(), at, None, refs)
    }

    #[test]
    fn a_call_holds_one_control_point_and_loses_nothing() {
        let mut ends = Ends::new(1);
        for at in 0..200 {
            let name = if at % 2 == 0 { "a" } else { "b" };
            assert!(ends.push(job(name, 0, 2)).is_ok());
        }
        assert!(ends.push(job("b", 0, 1000)).is_ok());
        let mut sizes = Vec::new();
        while let Some(jobs) = ends.next_call() {
            let refs: usize = jobs.iter().map(EndJob::refs).sum();
            sizes.push((jobs[0].control_point().to_owned(), refs));
        }
        let expected = [("a", 200), ("b", 200), ("b", 1000)];
        assert_eq!(sizes, expected.map(|(name, refs)| (name.to_owned(), refs)));
        assert!(ends.is_empty() && !ends.is_done());
        for _ in 0..3 {
            ends.called(0);
        }
        assert!(ends.is_done());
    }

    #[test]
    fn each_agent_has_room_of_its_own() {
        let mut ends = Ends::new(2);
        for at in 0..100 {
            assert!(ends.push(job(&at.to_string(), 0, 1)).is_ok());
        }
        for _ in 0..PARALLEL {
            assert!(ends.next_call().is_some());
        }
        assert!(ends.next_call().is_none(), "the first one's calls hang");
        assert!(ends.push(job("a", 1, 1)).is_ok());
        let jobs = ends.next_call().expect("the second one has room");
        assert_eq!(jobs[0].agent(), 1);
        ends.called(0);
        assert_eq!(ends.next_call().expect("room again")[0].agent(), 0);
    }

    #[test]
    fn queues_are_bounded_for_each_agent_and_in_all() {
        let mut ends = Ends::new(6);
        for at in 0..4 {
            for _ in 0..MAX_WAITING {
                assert!(ends.push(job("a", at, 1)).is_ok());
            }
            assert!(ends.push(job("a", at, 1)).is_err());
        }
        // Four Agents have filled what all share.
        for at in 4..6 {
            for _ in 0..RESERVED {
                assert!(ends.push(job("a", at, 1)).is_ok());
            }
            assert!(ends.push(job("a", at, 1)).is_err());
        }
        assert_eq!(ends.take_all().len(), MAX_IN_ALL + 2 * RESERVED);
        assert!(ends.is_done());
    }
}
