//! The queues of ends that wait for the worker. Each Agent has its own queue and its own limit of
//! calls, so that an Agent that hangs does not delay the ends for another.

use std::collections::VecDeque;

use super::end_job::EndJob;

/// The most ends that may wait for one Agent.
const MAX_WAITING: usize = 16 * 1024;

/// The most ends that may wait for all Agents together. Each Agent has room for [`RESERVED`] ends
/// even when this is reached.
const MAX_WAITING_TOTAL: usize = 64 * 1024;

/// The number of ends that may wait for an Agent, however many wait for others.
const RESERVED: usize = 512;

/// The most calls of `FlowEnd` in flight for each Agent. A call that hangs does not delay the
/// others.
const MAX_CALLS: usize = 8;

/// The most references in one call.
const MAX_REFS: usize = 256;

/// How many ends of a queue are searched for the same control point.
const LOOK_AHEAD: usize = 1024;

/// The ends that wait in one runtime, by the Agent that accepted their flows.
pub(super) struct EndQueues {
    agents: Box<[AgentEnds]>,
    waiting: usize,
    calls: usize,
    /// The index of the Agent from which the next call is taken.
    next_agent: usize,
}

#[derive(Default)]
struct AgentEnds {
    waiting: VecDeque<EndJob>,
    /// The number of calls in flight.
    calls: usize,
}

impl EndQueues {
    pub(super) fn new(agents: usize) -> Self {
        Self {
            agents: (0..agents).map(|_| AgentEnds::default()).collect(),
            waiting: 0,
            calls: 0,
            next_agent: 0,
        }
    }

    /// Queues an end, or returns it if there is no room.
    pub(super) fn push(&mut self, job: EndJob) -> Result<(), EndJob> {
        let queue = &mut self.agents[job.agent_index()].waiting;
        let room = queue.len() < MAX_WAITING && self.waiting < MAX_WAITING_TOTAL;
        if !room && queue.len() >= RESERVED {
            return Err(job);
        }
        queue.push_back(job);
        self.waiting += 1;
        Ok(())
    }

    /// Takes the ends for the next call: the oldest end for an Agent and others that can share its
    /// call. The call counts as in flight until [`finish_call`](Self::finish_call).
    pub(super) fn start_call(&mut self) -> Option<Vec<EndJob>> {
        let len = self.agents.len();
        for step in 0..len {
            let agent_index = (self.next_agent + step) % len;
            let agent = &mut self.agents[agent_index];
            if agent.calls < MAX_CALLS
                && let Some(jobs) = take_batch(&mut agent.waiting)
            {
                agent.calls += 1;
                self.calls += 1;
                self.waiting -= jobs.len();
                self.next_agent = (agent_index + 1) % len;
                return Some(jobs);
            }
        }
        None
    }

    /// Records that a call has ended.
    pub(super) fn finish_call(&mut self, agent_index: usize) {
        self.agents[agent_index].calls -= 1;
        self.calls -= 1;
    }

    /// Takes all waiting ends.
    pub(super) fn take_all(&mut self) -> Vec<EndJob> {
        self.waiting = 0;
        let agents = self.agents.iter_mut();
        agents.flat_map(|agent| agent.waiting.drain(..)).collect()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Returns `true` if no end waits and no call is in flight.
    pub(super) const fn is_done(&self) -> bool {
        self.waiting == 0 && self.calls == 0
    }
}

fn take_batch(queue: &mut VecDeque<EndJob>) -> Option<Vec<EndJob>> {
    let first = queue.pop_front()?;
    let mut refs = first.ref_count();
    let mut jobs = vec![first];
    let mut index = 0;
    while index < queue.len().min(LOOK_AHEAD) && refs < MAX_REFS {
        let fits =
            queue[index].can_share_call(&jobs[0]) && refs + queue[index].ref_count() <= MAX_REFS;
        if fits && let Some(job) = queue.remove(index) {
            refs += job.ref_count();
            jobs.push(job);
        } else {
            index += 1;
        }
    }
    Some(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::check::InflightRequestRef;

    fn job(control_point: &str, agent_index: usize, refs: usize) -> EndJob {
        let refs = vec![InflightRequestRef::default(); refs];
        EndJob::new(control_point.to_owned(), agent_index, None, refs)
    }

    #[test]
    fn a_call_has_ends_of_one_control_point_and_none_is_lost() {
        let mut ends = EndQueues::new(1);
        for index in 0..200 {
            let name = if index % 2 == 0 { "a" } else { "b" };
            assert!(ends.push(job(name, 0, 2)).is_ok());
        }
        assert!(ends.push(job("b", 0, 1000)).is_ok());
        let mut sizes = Vec::new();
        while let Some(jobs) = ends.start_call() {
            let refs: usize = jobs.iter().map(EndJob::ref_count).sum();
            sizes.push((jobs[0].control_point().to_owned(), refs));
        }
        let expected = [("a", 200), ("b", 200), ("b", 1000)];
        assert_eq!(sizes, expected.map(|(name, refs)| (name.to_owned(), refs)));
        assert!(ends.is_empty() && !ends.is_done());
        for _ in 0..3 {
            ends.finish_call(0);
        }
        assert!(ends.is_done());
    }

    #[test]
    fn each_agent_has_its_own_calls() {
        let mut ends = EndQueues::new(2);
        for index in 0..100 {
            assert!(ends.push(job(&index.to_string(), 0, 1)).is_ok());
        }
        for _ in 0..MAX_CALLS {
            assert!(ends.start_call().is_some());
        }
        assert!(ends.start_call().is_none(), "the first one's calls hang");
        assert!(ends.push(job("a", 1, 1)).is_ok());
        let jobs = ends.start_call().expect("the second one has room");
        assert_eq!(jobs[0].agent_index(), 1);
        ends.finish_call(0);
        assert_eq!(ends.start_call().expect("room again")[0].agent_index(), 0);
    }

    #[test]
    fn queues_are_bounded_per_agent_and_in_total() {
        let mut ends = EndQueues::new(6);
        for index in 0..4 {
            for _ in 0..MAX_WAITING {
                assert!(ends.push(job("a", index, 1)).is_ok());
            }
            assert!(ends.push(job("a", index, 1)).is_err());
        }
        // Four Agents have filled the shared room.
        for index in 4..6 {
            for _ in 0..RESERVED {
                assert!(ends.push(job("a", index, 1)).is_ok());
            }
            assert!(ends.push(job("a", index, 1)).is_err());
        }
        assert_eq!(ends.take_all().len(), MAX_WAITING_TOTAL + 2 * RESERVED);
        assert!(ends.is_done());
    }
}
