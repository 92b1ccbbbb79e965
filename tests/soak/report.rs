//! The outcome of a run: its tables, and each law with what was seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tower_aperture::{ClientStats, FlowErrorKind};

use crate::account::{Account, Undecided};
use crate::agents::Limits;
use crate::faults::Episode;

/// A check that the machine held up ends this much later at most.
const AFTER_A_PAUSE: Duration = Duration::from_millis(600);

/// Lines about one broken law.
const MOST_LINES: usize = 12;

pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) callers: usize,
    pub(crate) limits: Limits,
    pub(crate) took: Duration,
    pub(crate) account: Account,
    pub(crate) stats: ClientStats,
    pub(crate) episodes: Vec<Episode>,
    pub(crate) pauses: Vec<(Duration, Duration)>,
    /// Every caller finished its last flow.
    pub(crate) callers_ended: bool,
    /// Slots that flows hold one second after the end, as the agents say.
    pub(crate) held: f64,
    /// What `shutdown` returned.
    pub(crate) shut_down: bool,
}

/// What must hold, and what was seen when it did not.
struct Law {
    name: &'static str,
    broken: Vec<String>,
}

impl Report {
    /// Returns the failure that a flow belongs to.
    fn episode_of(&self, flow: &Undecided) -> Option<usize> {
        let overlaps =
            |episode: &Episode| flow.asked <= episode.over && episode.began <= flow.failed;
        self.episodes.iter().position(overlaps)
    }

    fn in_a_pause(&self, flow: &Undecided) -> bool {
        self.pauses
            .iter()
            .any(|(began, over)| flow.asked <= *over + AFTER_A_PAUSE && *began <= flow.failed)
    }

    /// Undecided flows of each failure, and those that belong to none.
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
            self.every_undecided_flow_has_a_failure(),
            self.no_more_are_undecided_than_were_under_way(),
            self.every_flow_is_counted(),
            self.no_end_is_lost(),
            self.every_span_is_counted(),
            self.agents_are_asked_again(),
            self.no_slot_is_held(),
        ]
    }

    fn limits_hold(&self) -> Law {
        let mut broken = Vec::new();
        for incarnation in self.account.incarnations() {
            let name = &incarnation.name;
            for (what, peak, most) in [
                ("slots", incarnation.slots.peak(), self.limits.slots),
                ("queue", incarnation.queue.peak(), self.limits.queue),
            ] {
                if peak > most {
                    broken.push(format!("{name}: {peak} flows ran at `{what}`, not {most}"));
                }
            }
            if incarnation.too_fast.load(SeqCst) {
                broken.push(format!("{name}: more flows at `rate` than fill allows"));
            }
        }
        let strangers = self.account.strangers.load(SeqCst);
        if strangers > 0 {
            broken.push(format!("{strangers} flows were accepted by no limiter"));
        }
        Law {
            name: "accepted flows never exceed the limit of one process of an agent",
            broken,
        }
    }

    fn every_undecided_flow_has_a_failure(&self) -> Law {
        let (_, without) = self.by_episode();
        Law {
            name: "no flow is undecided while nothing fails",
            broken: summary(&without),
        }
    }

    fn no_more_are_undecided_than_were_under_way(&self) -> Law {
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
            name: "undecided flows are at most the checks under way at each failure",
            broken,
        }
    }

    fn every_flow_is_counted(&self) -> Law {
        let (account, stats) = (&self.account, &self.stats);
        let undecided = account.undecided();
        let of = |kind| undecided.iter().filter(|flow| flow.kind == kind).count() as u64;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(SeqCst);
        let (accepted, rejected) = (load(&account.accepted), load(&account.rejected));
        let all = accepted + rejected + undecided.len() as u64 + load(&account.left);
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
            broken.push("a caller waits for a flow without end".to_owned());
        }
        Law {
            name: "every flow is counted by the client",
            broken,
        }
    }

    fn no_end_is_lost(&self) -> Law {
        let (ends, stats) = (&self.account.ends, &self.stats);
        let least = ends.named.load(SeqCst);
        let counted = stats.ends_delivered + stats.ends_failed + stats.ends_dropped;
        // The flow of a check that went on without a caller is ended as well.
        let most = least + stats.checks_handed_over;
        let mut broken = Vec::new();
        if !(least..=most).contains(&counted) {
            broken.push(format!(
                "{counted} ends were delivered or counted, not {least} to {most}"
            ));
        }
        let awaited = ends.awaited.load(SeqCst);
        if awaited > 0 {
            broken.push(format!("{awaited} ends were never answered"));
        }
        if !self.shut_down {
            broken.push("the shutdown says that something was lost".to_owned());
        }
        Law {
            name: "no end is lost: each is delivered or counted",
            broken,
        }
    }

    fn every_span_is_counted(&self) -> Law {
        let stats = &self.stats;
        let answered = stats.accepted + stats.rejected;
        let counted = stats.spans_exported + stats.spans_failed + stats.spans_dropped;
        let differ = answered != counted && cfg!(feature = "telemetry");
        let broken = differ.then(|| format!("{answered} flows answered, {counted} spans"));
        Law {
            name: "the span of every answered flow is delivered or counted",
            broken: broken.into_iter().collect(),
        }
    }

    fn agents_are_asked_again(&self) -> Law {
        let failed = self.episodes.iter().filter(|episode| !episode.recovered);
        let told = |episode: &Episode| format!("{} at {:.1?}", episode.fault.name(), episode.began);
        Law {
            name: "an agent that is back is asked again",
            broken: failed.map(told).collect(),
        }
    }

    fn no_slot_is_held(&self) -> Law {
        let broken = (self.held != 0.0).then(|| format!("{} are held", self.held));
        Law {
            name: "no slot is held one second after the end",
            broken: broken.into_iter().collect(),
        }
    }

    /// Returns the tables, as they are in the README.
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
                account.left.load(SeqCst),
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

    /// Returns each law with PASS or FAIL, and counts that help to find out why.
    pub(crate) fn verdicts(&self) -> String {
        let mut text = String::new();
        for law in self.laws() {
            let verdict = if law.broken.is_empty() {
                "PASS"
            } else {
                "FAIL"
            };
            let _ = writeln!(text, "{verdict} {}", law.name);
            for broken in law.broken.iter().take(MOST_LINES) {
                let _ = writeln!(text, "     {broken}");
            }
            if let more @ 1.. = law.broken.len().saturating_sub(MOST_LINES) {
                let _ = writeln!(text, "     and {more} more");
            }
        }
        let ends = &self.account.ends;
        let _ = writeln!(
            text,
            "ends of flows with a slot: {}; of those awaited, {} gave it back, {} were unknown to the \
             agent, {} failed\n{:?}",
            ends.named.load(SeqCst),
            ends.returned.load(SeqCst),
            ends.unknown.load(SeqCst),
            ends.failed.load(SeqCst),
            self.stats,
        );
        text
    }

    /// # Panics
    ///
    /// When a law is broken; the [verdicts](Self::verdicts) say how.
    pub(crate) fn assert(&self) {
        let laws = self.laws().into_iter();
        let broken = laws.filter(|law| !law.broken.is_empty());
        let names: Vec<_> = broken.map(|law| law.name).collect();
        assert!(names.is_empty(), "with seed {}: {names:?}", self.seed);
    }
}

/// Undecided flows by control point and error, the most frequent first, and when the first was.
fn summary(flows: &[Undecided]) -> Vec<String> {
    let mut kinds: BTreeMap<(&str, &str), (usize, &Undecided)> = BTreeMap::new();
    for flow in flows {
        // Numbers differ from flow to flow.
        let error = flow.error.split(|c: char| c.is_ascii_digit()).next();
        let kind = (flow.point.name(), error.unwrap_or_default());
        kinds.entry(kind).or_insert((0, flow)).0 += 1;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    let told = kinds.into_iter().map(|((point, _), (count, first))| {
        let Undecided {
            asked,
            failed,
            error,
            ..
        } = first;
        format!("{count} at `{point}`: {error} (the first from {asked:.3?} to {failed:.3?})")
    });
    told.collect()
}

/// `1234567` as `1 234 567`.
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
