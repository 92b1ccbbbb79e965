//! The slots that this node holds, and when their leases must be renewed.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::time::Duration;

use aperture_engine::engine::RequestId;
use aperture_engine::engine::shared::StoreKey;

/// The time after which the slots of a node that does not renew them are free.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// The time between two renewals of a lease.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// The most slots that a node holds. While it holds as many, it takes no further ones.
pub(crate) const MAX_HELD: usize = 65_536;
/// The most slots in one renewal, so that the server runs no script for long.
const MAX_RENEWED: usize = 256;

/// The slots that this node holds.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    sets: HashMap<StoreKey, HeldSet>,
    held: usize,
}

#[derive(Debug)]
struct HeldSet {
    slots: HashMap<RequestId, Held>,
    renew_at: Duration,
}

/// A slot that this node holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) tokens: f64,
    /// The end of the lifetime, by this node's clock.
    pub(crate) until: Duration,
}

/// Slots of one set whose leases are due.
#[derive(Debug)]
pub(crate) struct Renewal {
    pub(crate) key: StoreKey,
    pub(crate) slots: Vec<(RequestId, Held)>,
}

impl Leases {
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    pub(crate) fn holds(&self, key: StoreKey, id: RequestId) -> bool {
        let set = self.sets.get(&key);
        set.is_some_and(|set| set.slots.contains_key(&id))
    }

    pub(crate) fn hold(&mut self, key: StoreKey, id: RequestId, slot: Held, now: Duration) {
        let set = self.sets.entry(key).or_insert_with(|| HeldSet {
            slots: HashMap::new(),
            renew_at: now.saturating_add(RENEW_EVERY),
        });
        if set.slots.insert(id, slot).is_none() {
            self.held += 1;
        }
    }

    /// Forgets a slot, because it is returned.
    pub(crate) fn release(&mut self, key: StoreKey, id: RequestId) {
        if let Some(set) = self.sets.get_mut(&key)
            && set.slots.remove(&id).is_some()
        {
            self.held -= 1;
            if set.slots.is_empty() {
                self.sets.remove(&key);
            }
        }
    }

    /// Makes all leases due, because the server may have lost them.
    pub(crate) fn all_due(&mut self) {
        for set in self.sets.values_mut() {
            set.renew_at = Duration::ZERO;
        }
    }

    /// Returns the slots whose leases are due, and forgets those whose lifetime is over.
    pub(crate) fn take_due(&mut self, now: Duration) -> Vec<Renewal> {
        let mut due = Vec::new();
        let mut held = 0;
        self.sets.retain(|key, set| {
            if set.renew_at <= now {
                set.renew_at = now.saturating_add(RENEW_EVERY);
                set.slots.retain(|_, slot| slot.until > now);
                let slots: Vec<_> = set.slots.iter().map(|(id, slot)| (*id, *slot)).collect();
                due.extend(slots.chunks(MAX_RENEWED).map(|slots| Renewal {
                    key: *key,
                    slots: slots.to_vec(),
                }));
            }
            held += set.slots.len();
            !set.slots.is_empty()
        });
        self.held = held;
        due
    }
}

/// Returns the 16 bytes of an id, which is shown as hexadecimal digits and hyphens.
pub(crate) fn id_bytes(id: RequestId) -> [u8; 16] {
    struct Digits {
        bytes: [u8; 16],
        count: usize,
    }
    impl Write for Digits {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for digit in text.chars().filter_map(|digit| digit.to_digit(16)) {
                let byte = self.bytes.get_mut(self.count / 2).ok_or(fmt::Error)?;
                *byte = *byte << 4 | digit as u8;
                self.count += 1;
            }
            Ok(())
        }
    }
    let mut digits = Digits {
        bytes: [0; 16],
        count: 0,
    };
    // It cannot fail, because an id has 32 digits.
    let _ = write!(digits, "{id}");
    digits.bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> RequestId {
        let text = format!("{number:08x}-7dec-41d0-a765-00a0c91e6bf6");
        text.parse().expect("a valid id")
    }

    const fn slot(until: u64) -> Held {
        Held {
            tokens: 1.0,
            until: Duration::from_secs(until),
        }
    }

    #[test]
    fn the_bytes_of_an_id_are_its_digits() {
        let id = "f81d4fae-7dec-41d0-a765-00a0c91e6bf6"
            .parse()
            .expect("a valid id");
        let bytes = 0xf81d_4fae_7dec_41d0_a765_00a0_c91e_6bf6_u128.to_be_bytes();
        assert_eq!(id_bytes(id), bytes);
    }

    #[test]
    fn leases_are_due_every_three_seconds_until_the_slot_is_returned_or_its_lifetime_is_over() {
        let key = StoreKey::from_bytes([1; 16]);
        let at = Duration::from_secs;
        let mut leases = Leases::default();
        for (number, until) in [(1, 60), (2, 5), (3, 60)] {
            leases.hold(key, id(number), slot(until), at(0));
        }
        leases.release(key, id(3));
        assert!(leases.take_due(at(2)).is_empty());
        let ids = |due: Vec<Renewal>| {
            let mut ids: Vec<_> = due
                .into_iter()
                .flat_map(|due| due.slots)
                .map(|s| s.0)
                .collect();
            ids.sort_by_key(|id| id_bytes(*id));
            ids
        };
        assert_eq!(ids(leases.take_due(at(3))), [id(1), id(2)]);
        assert!(leases.take_due(at(4)).is_empty());
        assert_eq!(ids(leases.take_due(at(6))), [id(1)]);
        assert_eq!(leases.held(), 1);
        leases.all_due();
        assert_eq!(ids(leases.take_due(at(6))), [id(1)]);
        leases.release(key, id(1));
        assert_eq!((leases.held(), leases.sets.len()), (0, 0));
    }

    #[test]
    fn no_renewal_has_more_slots_than_a_script_may_run_for() {
        let mut leases = Leases::default();
        for number in 0..1000 {
            let key = StoreKey::from_bytes([1; 16]);
            leases.hold(key, id(number), slot(60), Duration::ZERO);
        }
        let due = leases.take_due(RENEW_EVERY);
        assert!(due.iter().all(|due| due.slots.len() <= MAX_RENEWED));
        assert_eq!(due.iter().map(|due| due.slots.len()).sum::<usize>(), 1000);
    }
}
