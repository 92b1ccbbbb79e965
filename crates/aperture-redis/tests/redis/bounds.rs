//! Tests the bounds of a store, and operations that share round trips.

use std::time::Duration;

use aperture_engine::engine::shared::{StoreError, StoreOperation, StoreOutcome, TokensMode};

use crate::support::{
    PATIENCE, Server, bucket, enter_operation, key, run, submit, take, take_operation, wait_until,
};

#[test]
fn a_full_queue_answers_unavailable_at_once_and_every_reply_is_completed() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.store();
    let bucket = bucket(1e9, 0.0);
    assert!(take(&store, key(1), bucket, 1.0).granted);
    server.pause();
    // More than the queue and all pipelines hold.
    let operation = take_operation(key(1), bucket, 1.0, TokensMode::Immediate);
    let outcomes: Vec<_> = (0..30_000).map(|_| submit(&store, operation)).collect();
    let refused = outcomes
        .iter()
        .filter_map(|outcome| outcome.try_recv().ok());
    let mut refused_count = 0;
    for outcome in refused {
        assert_eq!(outcome, Err(StoreError::Unavailable));
        refused_count += 1;
    }
    assert!(refused_count > 0);
    server.resume();
    let mut granted = 0;
    let mut completed = refused_count;
    for outcome in outcomes {
        match outcome.recv_timeout(PATIENCE) {
            Ok(Ok(StoreOutcome::Tokens(tokens))) => {
                assert!(tokens.granted);
                granted += 1;
                completed += 1;
            }
            Ok(Err(_)) => completed += 1,
            Ok(other) => panic!("no outcome of taking tokens: {other:?}"),
            // It was completed before.
            Err(_) => {}
        }
    }
    assert_eq!(completed, 30_000);
    assert!(granted > 0);
}

#[test]
fn operations_that_are_submitted_together_share_writes() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.store();
    let bucket = bucket(1e6, 0.0);
    assert!(take(&store, key(1), bucket, 1.0).granted);
    let reads = || -> u64 {
        let info: String = server.command(&["INFO", "stats"]);
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("total_reads_processed:"));
        line.expect("the server counts reads")
            .trim()
            .parse()
            .expect("a number")
    };
    server.pause();
    let operation = take_operation(key(1), bucket, 1.0, TokensMode::Immediate);
    let outcomes: Vec<_> = (0..200).map(|_| submit(&store, operation)).collect();
    server.resume();
    let before = reads();
    for outcome in outcomes {
        let outcome = outcome
            .recv_timeout(PATIENCE)
            .expect("each reply is completed");
        assert!(outcome.is_ok());
    }
    assert!(reads() - before < 100);
}

#[test]
fn an_operation_that_waited_too_long_is_not_sent() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.builder().deadline(Duration::from_millis(1)).build();
    let store = store.expect("valid settings");
    // No connection is made in a millisecond by a server that is stopped.
    server.pause();
    let taken = submit(
        &store,
        take_operation(key(1), bucket(1.0, 0.0), 1.0, TokensMode::Immediate),
    );
    let entered = submit(&store, StoreOperation::Enter(enter_operation(key(2), 9.0)));
    let returned = take_operation(key(3), bucket(1.0, 0.0), -1.0, TokensMode::Immediate);
    let returned = submit(&store, returned);
    std::thread::sleep(Duration::from_millis(50));
    server.resume();
    for outcome in [taken, entered] {
        let outcome = outcome
            .recv_timeout(PATIENCE)
            .expect("each reply is completed");
        assert_eq!(outcome, Err(StoreError::Unavailable));
    }
    let outcome = returned
        .recv_timeout(PATIENCE)
        .expect("each reply is completed");
    assert!(
        outcome.is_ok(),
        "what is returned is always sent: {outcome:?}"
    );
    let keys: u64 = server.command(&["EXISTS", &format!("aperture:t:{}", key(1))]);
    assert_eq!(keys, 0);
    wait_until("the store is usable", || {
        run(&store, StoreOperation::Enter(enter_operation(key(2), 9.0))).is_ok()
    });
}
