//! A client over an engine that has its caches in a shared store.
#![cfg(feature = "embedded")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tower_aperture::cache::CacheError;
use tower_aperture::engine::shared::{
    SharedCaches, SharedStore, SlotListener, StoreAbsence, StoreKey, StoreOperation, StoreReply,
};
use tower_aperture::{ApertureClient, Decider, Engine, FlowErrorKind, FlowParams};

const MINUTE: Duration = Duration::from_secs(60);

/// A store whose caches keep one value, and hold the replies to changes until a test releases them.
#[derive(Clone, Debug, Default)]
struct Held(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    value: Option<Bytes>,
    is_away: bool,
    held: VecDeque<StoreReply<()>>,
}

impl Held {
    fn client(&self) -> ApertureClient {
        let engine = Engine::builder().shared(self.clone()).build();
        ApertureClient::embedded(engine.expect("no policies"))
    }

    /// Completes the change that was submitted first, or loses its reply.
    fn release(&self, lose: bool) {
        let reply = self.state().held.pop_front().expect("a change waits");
        if !lose {
            reply.complete(Ok(()));
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no test panics meanwhile")
    }
}

impl SharedCaches for Held {
    fn get(&self, _: StoreKey, reply: StoreReply<Option<Bytes>>) {
        let value = self.state().value.clone();
        reply.complete(Ok(value));
    }

    fn set(&self, _: StoreKey, value: Bytes, _: Duration, reply: StoreReply<()>) {
        let mut state = self.state();
        state.value = Some(value);
        state.held.push_back(reply);
    }

    fn delete(&self, _: StoreKey, reply: StoreReply<()>) {
        let mut state = self.state();
        state.value = None;
        state.held.push_back(reply);
    }

    fn deadline(&self) -> Duration {
        Duration::from_millis(20)
    }

    fn is_available(&self) -> bool {
        !self.state().is_away
    }
}

impl SharedStore for Held {
    fn submit(&self, _: StoreOperation, reply: StoreReply) {
        drop(reply);
    }

    fn deadline(&self) -> Duration {
        SharedCaches::deadline(self)
    }

    fn is_available(&self) -> bool {
        true
    }

    fn nodes(&self) -> u32 {
        1
    }

    fn absence(&self) -> StoreAbsence {
        StoreAbsence::LocalShare
    }

    fn decided_without(&self) {}

    fn listen(&self, _: StoreKey, _: Weak<dyn SlotListener>) {}

    fn caches(&self) -> Option<Arc<dyn SharedCaches>> {
        Some(Arc::new(self.clone()))
    }
}

#[tokio::test]
async fn clients_over_one_store_find_the_values_of_each_other() {
    let store = Held::default();
    let [writer, reader] = [(); 2].map(|()| store.client());
    let writing = tokio::spawn(async move {
        let cache = writer.result_cache("profile", "42");
        cache.set("ann", MINUTE).await
    });
    while store.state().held.is_empty() {
        tokio::task::yield_now().await;
    }
    store.release(false);
    assert_eq!(writing.await.expect("no panic"), Ok(()));
    let found = reader.result_cache("profile", "42").get().await;
    assert_eq!(found, Ok(Some("ann".into())));
    let params = FlowParams::new().result_cache_key("42");
    let flow = reader.start_flow("profile", params).await;
    assert_eq!(flow.result_cache().get(), Ok(Some("ann".into())));
}

#[tokio::test(start_paused = true)]
async fn the_absence_of_the_store_is_an_error_of_a_call_as_that_of_an_agent() {
    let store = Held::default();
    let client = store.client();
    let is_absence = |error: CacheError| match error {
        CacheError::Call(error) => error.kind() == FlowErrorKind::Unavailable,
        _ => false,
    };
    let cache = client.global_cache("settings");
    assert!(
        is_absence(
            cache
                .set("dark", MINUTE)
                .await
                .expect_err("the store is away")
        ),
        "it is late"
    );
    store.state().is_away = true;
    assert!(is_absence(
        cache.get().await.expect_err("the store is away")
    ));
    assert!(is_absence(
        cache.delete().await.expect_err("the store is away")
    ));
    let params = FlowParams::new().global_cache_key("settings");
    let flow = client.start_flow("profile", params).await;
    assert!(flow.should_run());
    assert!(is_absence(
        flow.global_cache("settings")
            .get()
            .expect_err("the store is away")
    ));
}

#[test]
fn changes_in_the_background_count_once_the_store_has_replied() {
    let store = Held::default();
    let client = store.client();
    let caches = client.caches().expect("a client has caches");
    let key = tower_aperture::cache::CacheKey::Global { key: "settings" };
    caches.set_later(key, "dark".into(), MINUTE);
    caches.delete_later(key);
    let counts = || {
        let stats = client.stats();
        (stats.cache_writes, stats.cache_writes_failed)
    };
    assert_eq!(counts(), (0, 0));
    store.release(false);
    assert_eq!(counts(), (1, 0));
    store.release(true);
    assert_eq!(counts(), (1, 1));
}

#[test]
fn an_invalidated_key_is_used_again_once_the_store_has_deleted_it() {
    for lose in [false, true] {
        let store = Held::default();
        let client = store.client();
        let caches = client.caches().expect("a client has caches");
        let invalidations = caches.invalidations().expect("a client has some");
        let key = tower_aperture::cache::CacheKey::Result {
            control_point: "shop",
            key: "GET /a",
        };
        let hash = invalidations.hash_key("GET /a");
        invalidations.record_ttl(MINUTE);
        invalidations.invalidate(hash);
        caches.invalidate_later(key, invalidations.begin_deletion(hash));
        assert!(!invalidations.may_use(hash), "the store has not replied");
        store.release(lose);
        assert_eq!(invalidations.may_use(hash), !lose);
        let stamp = invalidations.stamp(invalidations.sequence(), SystemTime::now());
        assert!(invalidations.is_newer(hash, stamp));
    }
}
