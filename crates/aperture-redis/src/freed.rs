//! Tells the queues of this process that slots were freed, by any engine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use aperture_engine::engine::shared::{SlotListener, StoreKey};
use redis::{PushInfo, PushKind, Value};

use crate::shared::lock;

/// The most listeners of one store. Further ones are not called; their queues ask again on their
/// own.
const MAX_LISTENERS: usize = 65_536;
/// Dropped listeners are removed at the latest when there are this many.
const MIN_PRUNE: usize = 64;

/// The listeners of one store.
#[derive(Debug)]
pub(crate) struct FreedSlots {
    channel: String,
    listeners: Mutex<Listeners>,
}

#[derive(Debug)]
struct Listeners {
    by_key: HashMap<StoreKey, Vec<Weak<dyn SlotListener>>>,
    count: usize,
    /// Dropped listeners are removed when there are this many.
    prune_at: usize,
}

impl FreedSlots {
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            channel: format!("{prefix}:freed"),
            listeners: Mutex::new(Listeners {
                by_key: HashMap::new(),
                count: 0,
                prune_at: MIN_PRUNE,
            }),
        }
    }

    /// Returns the channel on which freed slots are published.
    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    /// Adds a listener. Returns true if it is the first one.
    pub(crate) fn listen(&self, key: StoreKey, listener: Weak<dyn SlotListener>) -> bool {
        let mut listeners = lock(&self.listeners);
        if listeners.count >= listeners.prune_at {
            listeners.prune();
            listeners.prune_at = (2 * listeners.count).max(MIN_PRUNE);
        }
        if listeners.count >= MAX_LISTENERS {
            return false;
        }
        listeners.by_key.entry(key).or_default().push(listener);
        listeners.count += 1;
        listeners.count == 1
    }

    /// Removes dropped listeners.
    pub(crate) fn prune(&self) {
        lock(&self.listeners).prune();
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.listeners).count == 0
    }

    /// Calls the listeners that a message of the server is for.
    pub(crate) fn receive(&self, push: &PushInfo) {
        let PushInfo { kind, data } = push;
        let [Value::BulkString(channel), Value::BulkString(key)] = data.as_slice() else {
            return;
        };
        if *kind != PushKind::Message || channel != self.channel.as_bytes() {
            return;
        }
        if let Ok(key) = <[u8; 16]>::try_from(key.as_slice()) {
            self.call(&StoreKey::from_bytes(key));
        }
    }

    fn call(&self, key: &StoreKey) {
        let live: Vec<Arc<dyn SlotListener>> = {
            let listeners = lock(&self.listeners);
            let of_key = listeners.by_key.get(key).into_iter().flatten();
            of_key.filter_map(Weak::upgrade).collect()
        };
        // Not under the lock, because a listener may add another one.
        for listener in live {
            listener.slots_freed();
        }
    }

    /// Calls all listeners.
    pub(crate) fn call_all(&self) {
        let keys: Vec<StoreKey> = lock(&self.listeners).by_key.keys().copied().collect();
        for key in keys {
            self.call(&key);
        }
    }
}

impl Listeners {
    fn prune(&mut self) {
        let mut count = 0;
        self.by_key.retain(|_, of_key| {
            of_key.retain(|listener| listener.strong_count() > 0);
            count += of_key.len();
            !of_key.is_empty()
        });
        self.count = count;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counts(AtomicU32);

    impl SlotListener for Counts {
        fn slots_freed(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn message(channel: &str, payload: &[u8]) -> PushInfo {
        PushInfo {
            kind: PushKind::Message,
            data: vec![
                Value::BulkString(channel.as_bytes().to_vec()),
                Value::BulkString(payload.to_vec()),
            ],
        }
    }

    #[test]
    fn a_message_calls_the_listeners_of_its_key_and_no_others() {
        let freed = FreedSlots::new("shop");
        let (one, other) = (Arc::new(Counts::default()), Arc::new(Counts::default()));
        let listener: Arc<dyn SlotListener> = one.clone();
        assert!(freed.listen(StoreKey::from_bytes([1; 16]), Arc::downgrade(&listener)));
        let listener: Arc<dyn SlotListener> = other.clone();
        freed.listen(StoreKey::from_bytes([2; 16]), Arc::downgrade(&listener));
        freed.receive(&message("shop:freed", &[1; 16]));
        freed.receive(&message("another:freed", &[2; 16]));
        freed.receive(&message("shop:freed", b"short"));
        assert_eq!(one.0.load(Ordering::Relaxed), 1);
        assert_eq!(other.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn dropped_listeners_take_no_room() {
        let freed = FreedSlots::new("shop");
        for round in 0..10 * MIN_PRUNE {
            let listener: Arc<dyn SlotListener> = Arc::new(Counts::default());
            let key = StoreKey::from_bytes([round as u8; 16]);
            freed.listen(key, Arc::downgrade(&listener));
            assert!(lock(&freed.listeners).count <= MIN_PRUNE);
        }
        freed.prune();
        assert!(freed.is_empty());
    }
}
