//! Caches that engines share in a server.

use std::sync::mpsc;
use std::time::Duration;

use aperture_engine::engine::shared::{SharedCaches, SharedStore, StoreError, StoreReply};
use aperture_engine::engine::{CacheEntry, CheckInput, Engine, Shared};
use aperture_redis::Redis;
use bytes::Bytes;

use crate::support::{PATIENCE, Server, key, run, take_operation, wait_until};

fn store(server: &Server) -> Redis {
    let store = server.builder().shared_caches(true).build();
    store.expect("valid settings")
}

fn engine(store: &Redis) -> Engine<Shared> {
    let engine = Engine::builder().shared(store.clone()).build();
    engine.expect("no policies")
}

fn caches(store: &Redis) -> std::sync::Arc<dyn SharedCaches> {
    store.caches().expect("they are on")
}

/// Submits an operation on the caches and waits for its outcome.
fn outcome<T: Send + 'static>(submit: impl FnOnce(StoreReply<T>)) -> Result<T, StoreError> {
    let (sender, receiver) = mpsc::channel();
    submit(StoreReply::new(move |outcome| {
        let _ = sender.send(outcome);
    }));
    let outcome = receiver.recv_timeout(PATIENCE);
    outcome.expect("each reply is completed")
}

fn get(store: &Redis, number: u64) -> Result<Option<Bytes>, StoreError> {
    outcome(|reply| caches(store).get(key(number), reply))
}

fn set(store: &Redis, number: u64, value: &[u8]) -> Result<(), StoreError> {
    let value = Bytes::copy_from_slice(value);
    outcome(|reply| caches(store).set(key(number), value, Duration::from_secs(60), reply))
}

fn delete(store: &Redis, number: u64) -> Result<(), StoreError> {
    outcome(|reply| caches(store).delete(key(number), reply))
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_find_the_values_of_each_other_until_they_are_deleted() {
    let Some(server) = Server::start() else {
        return;
    };
    // Two nodes, and one with another prefix.
    let engines = [(); 2].map(|()| engine(&store(&server)));
    let [writer, reader] = &engines;
    let other = server.builder().shared_caches(true).prefix("other").build();
    let other = engine(&other.expect("valid settings"));
    let large = vec![0xff; (1 << 20) - 200];
    for value in [&b""[..], b"ann", &large] {
        let entry = CacheEntry::new("k", value);
        let global = [CacheEntry::new("g", value)];
        let change = writer.start_cache_upsert("here", Some(entry), global).await;
        assert_eq!(change.result, Some(Ok(())));
        assert_eq!(change.global[0].1, Ok(()));
        let found = reader.start_cache_lookup("here", "k", ["g", "other"]).await;
        assert_eq!(found.result_value().map(|found| &found[..]), Some(value));
        assert_eq!(found.global_value("g").map(|found| &found[..]), Some(value));
        assert_eq!(found.global("other"), Some(&Ok(None)));
        let found = other.start_cache_lookup("here", "k", ["g"]).await;
        assert_eq!(
            (found.result, found.global[0].1.clone()),
            (Some(Ok(None)), Ok(None))
        );
    }
    let params = aperture_core::FlowParams::new().result_cache_key("k");
    let (report, _) = reader.start(&CheckInput::new("here", &params)).await;
    assert!(report.accepted());
    let found = report.cache_lookup.expect("it was made");
    assert!(found.result_value().is_some());

    let change = reader.start_cache_delete("here", "k", ["g"]).await;
    assert_eq!((change.result, change.global.len()), (Some(Ok(())), 1));
    let found = writer.start_cache_lookup("here", "k", ["g"]).await;
    assert_eq!(
        (found.result, found.global[0].1.clone()),
        (Some(Ok(None)), Ok(None))
    );
    assert_eq!(
        reader.stats().cache_failures + writer.stats().cache_failures,
        0
    );
}

#[test]
fn values_expire_by_the_clock_of_the_server_and_keys_are_hashed() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = store(&server);
    set(&store, 1, b"v").expect("it is stored");
    let name = format!("aperture:c:{}", key(1));
    let left: u64 = server.command(&["PTTL", &name]);
    assert!((50_000..=60_000).contains(&left), "{left}");
    let () = server.command(&["PEXPIRE", &name, "1"]);
    wait_until("it expires", || get(&store, 1) == Ok(None));

    let engine = engine(&store);
    let entry = CacheEntry::new("secret-key", b"v");
    drop(engine.start_cache_upsert("secret-point", Some(entry), [entry]));
    let names = || -> Vec<String> { server.command(&["KEYS", "aperture:c:*"]) };
    wait_until("both are stored", || names().len() == 2);
    let all: Vec<String> = server.command(&["KEYS", "*"]);
    assert!(all.iter().all(|name| !name.contains("secret")), "{all:?}");
}

#[test]
fn what_no_engine_stored_is_a_miss_or_refused() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = store(&server);
    let name = |number| format!("aperture:c:{}", key(number));
    let huge = "\u{1}".repeat((1 << 20) + 1);
    let () = server.command(&["SET", &name(1), "of another form"]);
    let () = server.command(&["SET", &name(2), &huge]);
    let () = server.command(&["RPUSH", &name(3), "a list"]);
    assert_eq!(get(&store, 1), Ok(None));
    assert_eq!(get(&store, 2), Ok(None));
    match get(&store, 3) {
        Err(StoreError::Refused(reason)) => assert!(reason.contains("WRONGTYPE"), "{reason}"),
        other => panic!("the key is of another type: {other:?}"),
    }
    // A write replaces each of them.
    for number in 1..=3 {
        set(&store, number, b"v").expect("it is stored");
        assert_eq!(get(&store, number), Ok(Some("v".into())));
        delete(&store, number).expect("it is deleted");
        delete(&store, number).expect("a missing value is no error");
        assert_eq!(get(&store, number), Ok(None));
    }
    let stats = store.stats();
    assert_eq!(
        (stats.cache_errors, stats.errors, stats.operations),
        (1, 0, 0)
    );
}

#[test]
fn an_outage_of_the_caches_is_their_own_and_ends() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let quick = server.builder().deadline(Duration::from_millis(50));
    let store = quick.shared_caches(true).build().expect("valid settings");
    let engine = engine(&store);
    wait_until("they answer", || set(&store, 1, b"v").is_ok());
    server.kill();
    wait_until("they are given up", || {
        assert!(get(&store, 1).is_err());
        store.stats().caches_available == Some(false)
    });
    assert!(store.is_available(), "no limit was asked for");
    let submitted = store.stats().cache_operations;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let found = runtime.block_on(engine.start_cache_lookup("here", "k", []));
    let refusal = found.result.expect("it has a key").expect_err("it is away");
    assert!(refusal.is_unreachable());
    assert_eq!(store.stats().cache_operations, submitted);
    assert_eq!(engine.stats().cache_failures, 1);
    server.restart();
    wait_until("they are used again", || {
        store.stats().caches_available == Some(true) && get(&store, 1) == Ok(None)
    });
}

#[test]
fn a_server_that_hangs_delays_a_lookup_by_the_deadline() {
    let Some(server) = Server::start() else {
        return;
    };
    let quick = server.builder().deadline(Duration::from_millis(50));
    let store = quick.shared_caches(true).build().expect("valid settings");
    let engine = engine(&store);
    wait_until("they answer", || set(&store, 1, b"v").is_ok());
    server.pause();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let params = aperture_core::FlowParams::new().result_cache_key("k");
    let (report, _) = runtime.block_on(engine.start(&CheckInput::new("here", &params)));
    server.resume();
    assert!(report.accepted());
    let found = report.cache_lookup.expect("it was made");
    assert!(found.result.is_some_and(|value| value.is_err()));
    wait_until("the late answer is counted", || {
        store.stats().cache_late > 0
    });
}

#[test]
fn only_a_store_that_is_told_to_has_caches() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.store();
    assert!(store.caches().is_none());
    assert_eq!(store.stats().caches_available, None);
}

#[test]
fn the_caches_are_no_node_and_hold_no_limit() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = store(&server);
    set(&store, 1, b"v").expect("it is stored");
    let bucket = crate::support::bucket(9.0, 0.0);
    let mode = aperture_engine::engine::shared::TokensMode::Immediate;
    run(&store, take_operation(key(1), bucket, 1.0, mode)).expect("the limits answer");
    wait_until("the node is counted", || {
        let nodes: u64 = server.command(&["ZCARD", "aperture:nodes"]);
        nodes == 1
    });
    assert_eq!(store.nodes(), 1);
    assert_eq!(get(&store, 1), Ok(Some("v".into())));
}
