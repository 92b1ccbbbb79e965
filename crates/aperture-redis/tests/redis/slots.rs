//! Slots on a server, their leases, and who learns that they are free.

use std::time::{Duration, Instant};

use aperture_engine::engine::shared::{SharedStore, StoreOperation};

use crate::support::{
    Calls, Server, enter, enter_operation, enter_with, key, leave, run, submit, wait_until,
};

#[test]
fn a_slot_is_taken_once_and_returned_by_any_node() {
    let Some(server) = Server::start() else {
        return;
    };
    let (one, other) = (server.store(), server.store());
    let first = enter(&one, key(1), 2.0).expect("the first slot");
    let second = enter(&other, key(1), 2.0).expect("the second slot");
    assert_eq!(enter(&one, key(1), 2.0), None);
    assert!(leave(&other, key(1), first), "the slot of another node");
    assert!(!leave(&one, key(1), first), "it is returned already");
    assert!(!leave(&one, key(2), second), "it is of another set");
    assert!(enter(&one, key(1), 2.0).is_some());
    assert_eq!(enter(&one, key(1), 2.0), None);
}

#[test]
fn no_residue_is_left_when_no_slot_is_held() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.store();
    let costs = [0.1, 1e-9, 3.0, 0.7, -0.3, 1e15, 0.2, 1.0 / 3.0, -1e9, 1e-20];
    for round in 0..3 {
        let mut held = Vec::new();
        for tokens in costs {
            let mut operation = enter_operation(key(1), 1e20);
            operation.tokens = tokens;
            assert!(enter_with(&store, operation).granted);
            held.push(operation.id);
        }
        // Each round returns them in another order.
        held.rotate_left(round * 3);
        for id in held {
            assert!(leave(&store, key(1), id));
        }
        let probe = enter_operation(key(1), 0.0);
        let outcome = enter_with(&store, probe);
        assert_eq!((outcome.granted, outcome.current), (false, 0.0));
    }
    let mut sum = 0.0;
    for tokens in [0.1, 0.2, 0.3] {
        let mut operation = enter_operation(key(2), 1.0);
        operation.tokens = tokens;
        let outcome = enter_with(&store, operation);
        assert!((outcome.current - sum).abs() < 1e-12 && outcome.granted);
        sum += tokens;
    }
}

#[test]
fn a_slot_expires_at_the_end_of_its_lifetime() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.store();
    let mut operation = enter_operation(key(1), 1.0);
    operation.lifetime = Duration::from_millis(300);
    assert!(enter_with(&store, operation).granted);
    let rejected = enter_with(&store, enter_operation(key(1), 1.0));
    if !rejected.granted {
        let expiry = rejected.next_expiry.expect("a slot is held");
        assert!(expiry <= Duration::from_millis(301), "{expiry:?}");
    }
    wait_until("the slot has expired", || {
        !leave(&store, key(1), operation.id)
    });
    assert!(rejected.granted || enter(&store, key(1), 1.0).is_some());
    wait_until("it is not renewed any more", || {
        store.stats().held_slots <= 1
    });
}

#[test]
fn the_slots_of_a_killed_node_come_free_and_those_of_a_live_one_do_not() {
    let Some(server) = Server::start() else {
        return;
    };
    let (killed, live) = (server.store(), server.store());
    assert!(enter(&live, key(2), 1.0).is_some());
    assert!(enter(&killed, key(1), 1.0).is_some());
    let began = Instant::now();
    drop(killed);
    assert_eq!(enter(&live, key(1), 1.0), None, "the lease still runs");
    wait_until("the lease is over", || enter(&live, key(1), 1.0).is_some());
    assert!(began.elapsed() >= Duration::from_secs(9));
    // More than a lease has passed, and this slot was renewed.
    assert_eq!(enter(&live, key(2), 1.0), None);
    assert_eq!(live.stats().held_slots, 2);
}

#[test]
fn slots_are_put_back_when_the_server_has_lost_its_data_unless_another_node_returned_them() {
    let Some(server) = Server::start() else {
        return;
    };
    let (one, other) = (server.store(), server.store());
    let mine = enter(&one, key(1), 2.0).expect("a slot");
    let returned = enter(&one, key(1), 2.0).expect("another slot");
    assert!(leave(&other, key(1), returned));
    wait_until("its own node has learned that it is returned", || {
        one.stats().held_slots == 1
    });
    let () = server.command(&["FLUSHALL"]);
    wait_until("the slot is put back", || {
        let set: u64 = server.command(&["ZCARD", &format!("aperture:x:{{{}}}", key(1))]);
        set == 1
    });
    assert!(enter(&other, key(1), 2.0).is_some(), "one slot is free");
    assert_eq!(enter(&other, key(1), 2.0), None);
    assert!(leave(&other, key(1), mine));
}

#[test]
fn a_node_that_waits_learns_of_a_slot_that_another_one_returns() {
    let Some(server) = Server::start() else {
        return;
    };
    let (one, other) = (server.store(), server.store());
    let slot = enter(&one, key(1), 1.0).expect("a slot");
    let calls = Calls::listen(&other, key(1));
    let unrelated = Calls::listen(&other, key(2));
    let mut waiting = enter_operation(key(1), 1.0);
    waiting.waits = true;
    assert!(!enter_with(&other, waiting).granted);
    wait_until("freed slots are announced", || other.stats().subscribed);
    let (before, before_unrelated) = (calls.count(), unrelated.count());
    assert!(leave(&one, key(1), slot));
    wait_until("the listener is called", || calls.count() > before);
    assert!(enter(&other, key(1), 1.0).is_some());
    assert_eq!(unrelated.count(), before_unrelated);
}

#[test]
fn listeners_are_called_in_turn_while_nothing_is_announced() {
    // The user may not use the channel.
    let Some(server) = Server::start() else {
        return;
    };
    server.add_user("limits on >secret ~aperture:* +@all resetchannels");
    let store = server
        .builder()
        .username("limits")
        .password("secret")
        .build();
    let store = store.expect("valid settings");
    let slot = enter(&store, key(1), 1.0).expect("a slot");
    let calls = Calls::listen(&store, key(1));
    wait_until("the listener is called again and again", || {
        calls.count() > 5
    });
    assert!(!store.stats().subscribed);
    let mut waiting = enter_operation(key(1), 1.0);
    waiting.waits = true;
    assert!(!enter_with(&store, waiting).granted);
    assert!(
        leave(&store, key(1), slot),
        "a forbidden announcement harms nothing"
    );
    drop(calls);
}

#[test]
fn every_key_of_slots_expires() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.store();
    assert!(enter(&store, key(1), 1.0).is_some());
    let mut waiting = enter_operation(key(2), 0.0);
    waiting.waits = true;
    assert!(!enter_with(&store, waiting).granted);
    let keys: Vec<String> = server.command(&["KEYS", "*"]);
    assert!(keys.len() >= 3, "{keys:?}");
    for key in keys {
        let left: i64 = server.command(&["PTTL", &key]);
        assert!((1..=30_000).contains(&left), "{key}: {left}");
    }
}

#[test]
fn nodes_are_counted_and_one_that_ends_is_not() {
    let Some(server) = Server::start() else {
        return;
    };
    let stores: Vec<_> = (0..3).map(|_| server.store()).collect();
    assert_eq!(stores[0].nodes(), 1, "at least this one");
    for store in &stores {
        assert!(enter(store, key(1), 9.0).is_some());
    }
    let mut stores = stores.into_iter();
    let first = stores.next().expect("three stores");
    wait_until("all three are counted", || first.nodes() == 3);
    drop(stores);
    wait_until("the others are gone", || first.nodes() == 1);
}

#[test]
fn a_forgotten_slot_of_a_failed_reply_is_not_renewed() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let store = server.store();
    assert!(enter(&store, key(1), 9.0).is_some());
    server.pause();
    let unanswered = submit(&store, StoreOperation::Enter(enter_operation(key(1), 9.0)));
    server.kill();
    let outcome = unanswered.recv_timeout(crate::support::PATIENCE);
    assert!(outcome.expect("each reply is completed").is_err());
    assert_eq!(store.stats().held_slots, 1);
    server.restart();
    wait_until("the store is back", || {
        run(&store, StoreOperation::Enter(enter_operation(key(2), 9.0))).is_ok()
    });
    let set: u64 = server.command(&["ZCARD", &format!("aperture:x:{{{}}}", key(1))]);
    assert_eq!(set, 1);
}
