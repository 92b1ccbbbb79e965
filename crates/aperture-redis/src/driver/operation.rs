//! The operations of engines: their commands, and the outcomes that the replies mean.

use std::time::{Duration, Instant};

use aperture_engine::engine::RequestId;
use aperture_engine::engine::shared::{
    BucketSettings, EnterSlots, LeaveSlots, SlotsOutcome, StoreError, StoreKey, StoreOperation,
    StoreOutcome, StoreReply, TakeTokens, TokensMode, TokensOutcome,
};
use redis::{Cmd, Value};

use crate::leases::{Held, id_bytes};
use crate::scripts::{Script, pack, unpack};
use crate::shared::{Shared, lock};
use crate::stats::count;

/// The time for which a waiting flow is announced. It asks again long before that.
const WAITS_FOR: Duration = Duration::from_secs(5);

/// The time for which the server remembers a slot that another node returned: longer than it
/// takes until its node renews it.
const REMEMBER_RETURNED: Duration = Duration::from_secs(20);

/// An operation of an engine.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(super) operation: StoreOperation,
    pub(super) reply: StoreReply,
    pub(super) submitted: Instant,
    /// The time of the clock that is passed in, when the operation was submitted.
    pub(super) passed_in: Option<Duration>,
}

impl Operation {
    pub(super) fn command(
        &self,
        shared: &Shared,
        script: impl Fn(Script, &[String]) -> Cmd,
    ) -> Cmd {
        let passed_in = units_or_server(shared, self.passed_in);
        match self.operation {
            StoreOperation::Take(take) => {
                let mut command = script(Script::Take, &[shared.bucket_key(take.key)]);
                command.arg(pack(take_numbers(&take, self.passed_in)));
                command
            }
            StoreOperation::Enter(EnterSlots {
                key,
                id,
                tokens,
                capacity,
                lifetime,
                waits,
            }) => {
                let mut command = script(Script::Enter, &shared.slots_keys(key));
                let numbers = [
                    passed_in,
                    tokens,
                    capacity,
                    shared.units(lifetime),
                    shared.lease_units(),
                    f64::from(u8::from(waits)),
                    shared.units(WAITS_FOR),
                    shared.keep_slots_ms(),
                ];
                command
                    .arg(pack(numbers))
                    .arg(&id_bytes(id))
                    .arg(&shared.node);
                command.arg(shared.freed.channel()).arg(key.as_bytes());
                command
            }
            StoreOperation::Leave(LeaveSlots { key, id }) => {
                let mut command = script(Script::Leave, &shared.slots_keys(key));
                let remember = shared.units(REMEMBER_RETURNED);
                let numbers = [passed_in, remember, shared.keep_slots_ms()];
                command
                    .arg(pack(numbers))
                    .arg(&id_bytes(id))
                    .arg(&shared.node);
                command.arg(shared.freed.channel()).arg(key.as_bytes());
                command
            }
            // An operation of a later engine: the server answers as to any other.
            _ => Cmd::ping(),
        }
    }

    pub(super) fn succeed(self, shared: &Shared, value: &Value) {
        let outcome = match (self.operation, value) {
            (StoreOperation::Take(_), Value::BulkString(bytes)) => {
                unpack(bytes).map(tokens_outcome)
            }
            (StoreOperation::Enter(enter), Value::BulkString(bytes)) => {
                unpack(bytes).map(|numbers| slots_outcome(shared, &enter, numbers))
            }
            (StoreOperation::Leave(_), Value::Int(held)) => Some(StoreOutcome::Left(*held == 1)),
            _ => None,
        };
        if outcome.is_none() {
            count(&shared.counters.errors, 1);
        }
        let unknown = || StoreError::Refused("the reply is of an unknown form".to_owned());
        self.reply.complete(outcome.ok_or_else(unknown));
    }
}

/// Returns a time of the clock that is passed in, in units of the scripts of slots; negative if the
/// server's clock decides.
pub(super) fn units_or_server(shared: &Shared, passed_in: Option<Duration>) -> f64 {
    passed_in.map_or(-1.0, |time| shared.units(time))
}

fn take_numbers(take: &TakeTokens, passed_in: Option<Duration>) -> [f64; 12] {
    const NEVER: f64 = f64::INFINITY;
    let nanos = |time: Duration| time.as_nanos() as f64;
    let flag = |set: bool| f64::from(u8::from(set));
    let TakeTokens {
        bucket,
        tokens,
        mode,
        ..
    } = take;
    let (mode, within) = match mode {
        TokensMode::Within(within) => (1.0, within.map_or(NEVER, nanos)),
        TokensMode::Correct => (2.0, 0.0),
        // Immediate.
        _ => (0.0, 0.0),
    };
    let BucketSettings {
        capacity,
        fill,
        interval,
        continuous,
        delayed,
        upstream,
        max_idle,
    } = *bucket;
    let (seconds, subsec_nanos) = match passed_in {
        None => (-1.0, 0.0),
        Some(now) => (now.as_secs() as f64, f64::from(now.subsec_nanos())),
    };
    [
        *tokens,
        mode,
        within,
        max_idle.map_or(NEVER, nanos),
        seconds,
        subsec_nanos,
        capacity,
        fill,
        nanos(interval).max(1.0),
        flag(continuous),
        flag(delayed),
        flag(upstream),
    ]
}

fn tokens_outcome(numbers: [f64; 5]) -> StoreOutcome {
    let [granted, wait, unsatisfiable, remaining, current] = numbers;
    StoreOutcome::Tokens(TokensOutcome {
        granted: granted == 1.0,
        // Saturates at 292 years, as an engine's times.
        wait: Duration::from_nanos((wait as u64).min(i64::MAX as u64)),
        unsatisfiable: unsatisfiable == 1.0,
        remaining,
        current,
    })
}

fn slots_outcome(shared: &Shared, enter: &EnterSlots, numbers: [f64; 3]) -> StoreOutcome {
    let [granted, current, next_expiry] = numbers;
    let granted = granted == 1.0;
    if granted {
        let now = shared.now();
        let slot = Held {
            tokens: enter.tokens,
            until: now.saturating_add(enter.lifetime),
        };
        hold(shared, enter.key, enter.id, slot, now);
    }
    let past_the_end = Duration::from_nanos(1);
    let next_expiry =
        (next_expiry >= 0.0).then(|| shared.duration_of(next_expiry).saturating_add(past_the_end));
    StoreOutcome::Slots(SlotsOutcome {
        granted,
        current,
        next_expiry,
    })
}

fn hold(shared: &Shared, key: StoreKey, id: RequestId, slot: Held, now: Duration) {
    lock(&shared.leases).hold(key, id, slot, now);
}
