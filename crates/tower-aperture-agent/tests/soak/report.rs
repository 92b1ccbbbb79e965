//! Reports the outcome of a run: its tables, and each law with the observations that break it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tower_aperture::{ClientStats, FlowErrorKind};

use crate::account::{Account, Undecided};
use crate::agents::Limits;
use crate::faults::Episode;

/// Maximum time from the end of a pause to the end of a check that it delayed.
const AFTER_A_PAUSE: Duration = Duration::from_millis(600);

/// Maximum number of lines about one broken law.
const MAX_LINES: usize = 12;

pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) callers: usize,
    pub(crate) limits: Limits,
    pub(crate) took: Duration,
    pub(crate) account: Account,
    pub(crate) stats: ClientStats,
    pub(crate) episodes: Vec<Episode>,
    pub(crate) pauses: Vec<(Duration, Duration)>,
    /// Whether every caller ended its last flow.
    pub(crate) callers_ended: bool,
    /// The number of slots in use at the agents one second after the end of the load.
    pub(crate) held: f64,
    /// The return value of `shutdown`.
    pub(crate) shut_down: bool,
}

/// A law, and the observations that break it.
struct Law {
    name: &'static str,
    broken: Vec<String>,
}

impl Report {
    /// Returns the index of the injected failure during which a flow was undecided.
    fn episode_of(&self, flow: &Undecided) -> Option<usize> {
        let overlaps =
            |episode: &Episode| flow.started <= episode.over && episode.began <= flow.failed;
        self.episodes.iter().position(overlaps)
    }

    fn in_a_pause(&self, flow: &Undecided) -> bool {
        self.pauses
            .iter()
            .any(|(began, over)| flow.started <= *over + AFTER_A_PAUSE && *began <= flow.failed)
    }

    /// Returns the undecided flows of each injected failure, and those without a failure.
    fn by_episode(&self) -> (Vec<Vec<Undecided>>, Vec<Undecided>) {
        let mut caused = vec![Vec::new(); self.episodes.len()];
        let mut without = Vec::new();
        for flow in self.account.undecided().iter() {
            match self.episode_of(flow) {
                Some(at) => caused[at].push(flow.clone()),
                None if self.in_a_pause(flow) => {}
                None => without.push(flow.clone()),
            }
        }
        (caused, without)
    }

    fn laws(&self) -> Vec<Law> {
        vec![
            self.limits_hold(),
            self.undecided_flows_have_a_failure(),
            self.undecided_flows_were_under_way(),
            self.client_counts_every_flow(),
            self.ends_are_delivered_or_counted(),
            self.spans_are_delivered_or_counted(),
            self.agents_get_checks_again(),
            self.no_slot_is_held(),
        ]
    }

    fn limits_hold(&self) -> Law {
        let mut broken = Vec::new();
        for incarnation in self.account.incarnations() {
            let name = &incarnation.name;
            for (point, peak, limit) in [
                ("slots", incarnation.slots.peak(), self.limits.slots),
                ("queue", incarnation.queue.peak(), self.limits.queue),
            ] {
                if peak > limit {
                    broken.push(format!(
                        "{name}: {peak} flows ran at `{point}`, the limit is {limit}"
                    ));
                }
            }
            if incarnation.too_fast.load(SeqCst) {
                broken.push(format!(
                    "{name}: accepted more flows at `rate` than its bucket allows"
                ));
            }
        }
        let unattributed = self.account.unattributed.load(SeqCst);
        if unattributed > 0 {
            broken.push(format!(
                "{unattributed} accepted flows name no agent process"
            ));
        }
        Law {
            name: "accepted flows never exceed the limits of an agent process",
            broken,
        }
    }

    fn undecided_flows_have_a_failure(&self) -> Law {
        let (_, without) = self.by_episode();
        Law {
            name: "every flow is decided unless a failure is injected",
            broken: summary(&without),
        }
    }

    fn undecided_flows_were_under_way(&self) -> Law {
        let (caused, _) = self.by_episode();
        let episodes = self.episodes.iter().zip(caused);
        let broken = episodes
            .filter(|(episode, flows)| flows.len() > episode.under_way)
            .map(|(episode, flows)| {
                format!(
                    "{}: {} undecided, {} under way ({:.1?} to {:.1?}): {}",
                    episode.fault.name(),
                    flows.len(),
                    episode.under_way,
                    episode.began,
                    episode.over,
                    summary(&flows).join(", ")
                )
            })
            .collect();
        Law {
            name: "each failure leaves at most as many flows undecided as checks were under way",
            broken,
        }
    }

    fn client_counts_every_flow(&self) -> Law {
        let (account, stats) = (&self.account, &self.stats);
        let undecided = account.undecided();
        let of = |kind| undecided.iter().filter(|flow| flow.kind == kind).count() as u64;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(SeqCst);
        let (accepted, rejected) = (load(&account.accepted), load(&account.rejected));
        let all = accepted + rejected + undecided.len() as u64 + load(&account.cancelled);
        let counts = [
            ("started", load(&account.started), all),
            ("accepted", accepted, stats.accepted),
            ("rejected", rejected, stats.rejected),
            ("unreachable", undecided.len() as u64, stats.unreachable),
            ("timeouts", of(FlowErrorKind::Timeout), stats.timeouts),
            (
                "unavailable",
                of(FlowErrorKind::Unavailable),
                stats.unavailable,
            ),
            (
                "unauthenticated",
                of(FlowErrorKind::Unauthenticated),
                stats.unauthenticated,
            ),
            ("invalid", of(FlowErrorKind::InvalidRequest), stats.invalid),
        ];
        let differ = counts.iter().filter(|(_, seen, counted)| seen != counted);
        let mut broken: Vec<String> = differ
            .map(|(what, seen, counted)| format!("{what}: {seen} seen, {counted} counted"))
            .collect();
        if !self.callers_ended {
            broken.push("a caller did not end its last flow in time".to_owned());
        }
        Law {
            name: "every flow is counted by the client",
            broken,
        }
    }

    fn ends_are_delivered_or_counted(&self) -> Law {
        let (ends, stats) = (&self.account.ends, &self.stats);
        let least = ends.named.load(SeqCst);
        let counted = stats.ends_delivered + stats.ends_failed + stats.ends_dropped;
        // The client also ends the flows of cancelled checks that it continued.
        let most = least + stats.checks_handed_over;
        let mut broken = Vec::new();
        if !(least..=most).contains(&counted) {
            broken.push(format!(
                "{counted} ends were delivered or counted, expected {least} to {most}"
            ));
        }
        let awaited = ends.awaited.load(SeqCst);
        if awaited > 0 {
            broken.push(format!("{awaited} ends got no response"));
        }
        if !self.shut_down {
            broken.push("`shutdown` reports lost ends or spans".to_owned());
        }
        Law {
            name: "every end is delivered or counted as lost",
            broken,
        }
    }

    fn spans_are_delivered_or_counted(&self) -> Law {
        let stats = &self.stats;
        let answered = stats.accepted + stats.rejected;
        let counted = stats.spans_exported + stats.spans_failed + stats.spans_dropped;
        let differ = answered != counted;
        let broken = differ.then(|| format!("{answered} flows decided, {counted} spans"));
        Law {
            name: "the span of every decided flow is delivered or counted as lost",
            broken: broken.into_iter().collect(),
        }
    }

    fn agents_get_checks_again(&self) -> Law {
        let failed = self.episodes.iter().filter(|episode| !episode.recovered);
        let describe =
            |episode: &Episode| format!("{} at {:.1?}", episode.fault.name(), episode.began);
        Law {
            name: "every agent gets checks again after a failure",
            broken: failed.map(describe).collect(),
        }
    }

    fn no_slot_is_held(&self) -> Law {
        let broken = (self.held != 0.0).then(|| format!("{} slots are held", self.held));
        Law {
            name: "no slot is held one second after the end",
            broken: broken.into_iter().collect(),
        }
    }

    /// Returns the tables in the form of BENCHMARKS.md.
    pub(crate) fn tables(&self) -> String {
        let (account, stats) = (&self.account, &self.stats);
        let incarnations = account.incarnations();
        let peak = |peaks: &mut dyn Iterator<Item = usize>| peaks.max().unwrap_or(0);
        let slots = peak(&mut incarnations.iter().map(|one| one.slots.peak()));
        let queue = peak(&mut incarnations.iter().map(|one| one.queue.peak()));
        let other = stats.unreachable
            - (stats.timeouts + stats.unavailable + stats.unauthenticated + stats.invalid);
        let mut text = format!(
            "seed {}, {} callers, {:.0?}, {} pauses of the machine itself\n\n",
            self.seed,
            self.callers,
            self.took,
            self.pauses.len()
        );
        let rows = [
            ("flows", account.started.load(SeqCst)),
            (
                "callers that left during a check",
                account.cancelled.load(SeqCst),
            ),
            ("accepted", stats.accepted),
            ("rejected", stats.rejected),
            ("undecided and ran: no answer in time", stats.timeouts),
            ("of those, sent and late", stats.late),
            ("undecided and ran: no connection", stats.unavailable),
            (
                "undecided and ran: other",
                other + stats.unauthenticated + stats.invalid,
            ),
            ("checks moved to the other agent", stats.checks_moved),
            (
                "checks whose grant may be lost, counted",
                stats.checks_unsettled,
            ),
            ("agents given up", stats.agents_given_up),
            ("agent processes", incarnations.len() as u64),
            ("ends delivered", stats.ends_delivered),
            ("ends that the other agent took", stats.ends_moved),
            ("ends failed, counted", stats.ends_failed),
            ("ends dropped, counted", stats.ends_dropped),
            ("slots held one second after the end", self.held as u64),
        ];
        text.push_str("| | |\n|---|---|\n");
        for (what, count) in rows {
            let _ = writeln!(text, "| {what} | {} |", grouped(count));
        }
        for (what, peak, most) in [
            ("concurrency limiter", slots, self.limits.slots),
            ("concurrency scheduler", queue, self.limits.queue),
        ] {
            let _ = writeln!(text, "| most flows at once, {what} of {most} | {peak} |");
        }
        text.push_str(
            "\n| failure | times | most checks under way | most undecided | all undecided |\n",
        );
        text.push_str("|---|---|---|---|---|\n");
        let (caused, _) = self.by_episode();
        let mut kinds: BTreeMap<&str, (u64, usize, usize, usize)> = BTreeMap::new();
        for (episode, flows) in self.episodes.iter().zip(caused) {
            let (times, under_way, most, all) = kinds.entry(episode.fault.name()).or_default();
            *times += 1;
            *under_way = episode.under_way.max(*under_way);
            *most = flows.len().max(*most);
            *all += flows.len();
        }
        for (fault, (times, under_way, most, all)) in kinds {
            let _ = writeln!(text, "| {fault} | {times} | {under_way} | {most} | {all} |");
        }
        text
    }

    /// Returns each law with PASS or FAIL, and counts that help to explain failures.
    pub(crate) fn verdicts(&self) -> String {
        let mut text = String::new();
        for law in self.laws() {
            let verdict = if law.broken.is_empty() {
                "PASS"
            } else {
                "FAIL"
            };
            let _ = writeln!(text, "{verdict} {}", law.name);
            for broken in law.broken.iter().take(MAX_LINES) {
                let _ = writeln!(text, "     {broken}");
            }
            if let more @ 1.. = law.broken.len().saturating_sub(MAX_LINES) {
                let _ = writeln!(text, "     and {more} more");
            }
        }
        let ends = &self.account.ends;
        let _ = writeln!(
            text,
            "ends of flows with a slot: {}; of those awaited, {} returned it, {} were unknown to the \
             agent, {} failed\n{:?}",
            ends.named.load(SeqCst),
            ends.returned.load(SeqCst),
            ends.unknown.load(SeqCst),
            ends.failed.load(SeqCst),
            self.stats,
        );
        text
    }

    /// Asserts that all laws hold.
    ///
    /// # Panics
    ///
    /// A law is broken; see the [verdicts](Self::verdicts).
    pub(crate) fn assert(&self) {
        let laws = self.laws().into_iter();
        let broken = laws.filter(|law| !law.broken.is_empty());
        let names: Vec<_> = broken.map(|law| law.name).collect();
        assert!(names.is_empty(), "with seed {}: {names:?}", self.seed);
    }
}

/// Returns the undecided flows by control point and error, most frequent first, each with the time
/// of its first flow.
fn summary(flows: &[Undecided]) -> Vec<String> {
    let mut kinds: BTreeMap<(&str, &str), (usize, &Undecided)> = BTreeMap::new();
    for flow in flows {
        // Group errors that differ only in numbers.
        let error = flow.error.split(|c: char| c.is_ascii_digit()).next();
        let kind = (flow.point.name(), error.unwrap_or_default());
        kinds.entry(kind).or_insert((0, flow)).0 += 1;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    let lines = kinds.into_iter().map(|((point, _), (count, first))| {
        let Undecided {
            started,
            failed,
            error,
            ..
        } = first;
        format!("{count} at `{point}`: {error} (the first from {started:.3?} to {failed:.3?})")
    });
    lines.collect()
}

/// Formats `1234567` as `1 234 567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
