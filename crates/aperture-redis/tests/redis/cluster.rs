//! A cluster of three nodes on loopback.

use std::collections::HashSet;
use std::time::Duration;

use aperture_engine::engine::shared::{SharedStore, StoreOutcome, StoreReply, TokensMode};
use aperture_redis::Redis;

use crate::support::{
    Calls, PATIENCE, Server, bucket, enter, enter_operation, enter_with, key, leave, run, submit,
    take, take_operation, wait_until,
};

const SLOTS: u32 = 16_384;

/// Starts three nodes that share the hash slots.
fn start() -> Option<Vec<Server>> {
    let options = [
        "--cluster-enabled",
        "yes",
        "--cluster-require-full-coverage",
        "no",
    ];
    let nodes = (0..3).map(|_| Server::start_with(&options));
    let nodes: Vec<Server> = nodes.collect::<Option<_>>()?;
    for (place, node) in (0..).zip(&nodes) {
        let (first, last) = (place * SLOTS / 3, (place + 1) * SLOTS / 3 - 1);
        let (first, last) = (first.to_string(), last.to_string());
        let () = node.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
        let () = node.command(&["CLUSTER", "MEET", "127.0.0.1", &nodes[0].port.to_string()]);
    }
    wait_until("the nodes know each other", || {
        nodes.iter().all(|node| {
            let info: String = node.command(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
        })
    });
    Some(nodes)
}

#[test]
fn cached_values_are_spread_over_the_nodes_and_found() {
    let Some(nodes) = start() else {
        return;
    };
    let builder = nodes[0].builder().cluster_nodes([""; 0]);
    let store = builder.shared_caches(true).build().expect("valid settings");
    let caches = store.caches().expect("they are on");
    let set = |n: u64| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let reply = StoreReply::new(move |outcome| drop(sender.send(outcome)));
        let value = n.to_string().into();
        caches.set(key(n), value, Duration::from_secs(3600), reply);
        receiver
    };
    let get = |n: u64| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let reply = StoreReply::new(move |outcome| drop(sender.send(outcome)));
        caches.get(key(n), reply);
        receiver
    };
    for n in 0..100 {
        // On a slow machine a node of a new cluster may not serve requests yet.
        wait_until("it is stored", || {
            let stored = set(n).recv_timeout(PATIENCE);
            stored.expect("each reply is completed").is_ok()
        });
    }
    for (n, found) in (0..100).map(|n| (n, get(n))) {
        let found = found.recv_timeout(PATIENCE);
        let found = found.expect("each reply is completed");
        assert_eq!(found, Ok(Some(n.to_string().into())));
    }
    for node in &nodes {
        let keys: u64 = node.command(&["DBSIZE"]);
        assert!(keys > 5, "{keys}");
    }
}

fn store(node: &Server) -> Redis {
    let store = node.builder().cluster_nodes([""; 0]).build();
    let store = store.expect("valid settings");
    // On a slow machine a node of a new cluster may not serve requests yet.
    wait_until("all nodes answer", || {
        (1000..1030).all(|n| {
            let operation = take_operation(key(n), bucket(1e6, 0.0), 0.0, TokensMode::Immediate);
            run(&store, operation).is_ok()
        })
    });
    store
}

#[test]
fn keys_are_spread_over_the_nodes_and_operations_follow_them() {
    let Some(nodes) = start() else {
        return;
    };
    let store = store(&nodes[0]);
    let errors = store.stats().errors;
    let bucket = bucket(1.0, 0.0);
    let outcomes: Vec<_> = (0..300)
        .map(|n| {
            let operation = take_operation(key(n), bucket, 1.0, TokensMode::Immediate);
            submit(&store, operation)
        })
        .collect();
    for outcome in outcomes {
        match outcome
            .recv_timeout(PATIENCE)
            .expect("each reply is completed")
        {
            Ok(StoreOutcome::Tokens(tokens)) => assert!(tokens.granted),
            other => panic!("no outcome of taking tokens: {other:?}"),
        }
    }
    for node in &nodes {
        let keys: u64 = node.command(&["DBSIZE"]);
        assert!(keys > 20, "{keys}");
    }
    for n in 0..300 {
        assert!(!take(&store, key(n), bucket, 1.0).granted);
        let slot = enter(&store, key(n), 1.0).expect("a slot");
        assert_eq!(enter(&store, key(n), 1.0), None);
        assert!(leave(&store, key(n), slot));
    }
    assert_eq!(store.stats().errors, errors);
    wait_until("the node is counted", || store.stats().nodes == 1);
}

#[test]
fn a_freed_slot_is_announced_across_nodes() {
    let Some(nodes) = start() else {
        return;
    };
    let (one, other) = (store(&nodes[0]), store(&nodes[1]));
    for n in 0..10 {
        let slot = enter(&one, key(n), 1.0).expect("a slot");
        let calls = Calls::listen(&other, key(n));
        let mut waiting = enter_operation(key(n), 1.0);
        waiting.waits = true;
        assert!(!enter_with(&other, waiting).granted);
        wait_until("freed slots are announced", || other.stats().subscribed);
        let before = calls.count();
        assert!(leave(&one, key(n), slot));
        wait_until("the listener is called", || calls.count() > before);
    }
}

#[test]
fn keys_that_move_to_another_node_are_followed() {
    let Some(nodes) = start() else {
        return;
    };
    let store = store(&nodes[0]);
    let errors = store.stats().errors;
    let bucket = bucket(1.0, 0.0);
    assert!((0..100).all(|n| take(&store, key(n), bucket, 1.0).granted));
    // Moves the empty slots of the first node that hold none of these keys, and then one with a key.
    let ids: Vec<String> = nodes
        .iter()
        .map(|node| node.command(&["CLUSTER", "MYID"]))
        .collect();
    let name = |n| format!("aperture:t:{}", key(n));
    let slot_of = |n| -> u32 { nodes[0].command(&["CLUSTER", "KEYSLOT", &name(n)]) };
    let moved = (0..100)
        .find(|n| slot_of(*n) < SLOTS / 3)
        .expect("a key of the first node");
    let slot = slot_of(moved).to_string();
    let () = nodes[1].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]);
    let () = nodes[0].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]);
    let port = nodes[1].port.to_string();
    let () = nodes[0].command(&["MIGRATE", "127.0.0.1", &port, &name(moved), "0", "5000"]);
    // The key is on its way: the first node says where to ask for it.
    assert!(!take(&store, key(moved), bucket, 1.0).granted);
    let () = nodes[1].command(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]]);
    let () = nodes[0].command(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]]);
    assert!((0..100).all(|n| !take(&store, key(n), bucket, 1.0).granted));
    assert_eq!(store.stats().errors, errors);
}

#[test]
fn a_node_that_dies_takes_only_its_own_keys_along() {
    let Some(mut nodes) = start() else {
        return;
    };
    let store = nodes[0].builder().cluster_nodes([nodes[1].url()]);
    let store = store
        .deadline(Duration::from_millis(500))
        .build()
        .expect("valid settings");
    let bucket = bucket(1e6, 0.0);
    let attempt = |n| {
        run(
            &store,
            take_operation(key(n), bucket, 1.0, TokensMode::Immediate),
        )
    };
    wait_until("all nodes answer", || (0..60).all(|n| attempt(n).is_ok()));
    nodes[2].kill();
    let answered: HashSet<u64> = (0..60).filter(|n| attempt(*n).is_ok()).collect();
    assert!(
        answered.len() > 20 && answered.len() < 60,
        "{}",
        answered.len()
    );
    assert!(store.is_available(), "the other nodes answer");
    assert!(answered.iter().all(|n| attempt(*n).is_ok()));
}

#[test]
fn a_node_of_a_cluster_is_named_as_such_to_a_store_without_one() {
    let Some(nodes) = start() else {
        return;
    };
    let store = nodes[0].store();
    let outcomes = (0..20).map(|n| {
        run(
            &store,
            take_operation(key(n), bucket(1.0, 0.0), 1.0, TokensMode::Immediate),
        )
    });
    let failed = outcomes.filter(Result::is_err).count();
    assert!(failed > 0 && failed < 20);
}
