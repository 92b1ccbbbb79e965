//! Servers that are slow, die and return, and runtimes that end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aperture_engine::engine::shared::{
    SharedStore, StoreAbsence, StoreError, StoreOperation, TokensMode,
};
use aperture_redis::Redis;

use crate::support::{
    Server, bucket, enter, enter_operation, key, leave, run, submit, take, take_operation,
    wait_until,
};

fn one_token() -> StoreOperation {
    take_operation(key(1), bucket(1e6, 0.0), 1.0, TokensMode::Immediate)
}

#[test]
fn a_server_that_restarts_under_load_is_given_up_and_comes_back() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let store = server.builder().deadline(Duration::from_millis(200));
    let store = store
        .absence(StoreAbsence::Closed)
        .build()
        .expect("valid settings");
    assert_eq!(store.absence(), StoreAbsence::Closed);
    wait_until("it answers", || run(&store, one_token()).is_ok());
    let slot = enter(&store, key(2), 2.0).expect("a slot");
    server.kill();
    // While it is given up, engines submit nothing.
    wait_until("it is given up", || {
        let outcome = run(&store, one_token());
        assert!(outcome.is_err(), "{outcome:?}");
        !store.is_available()
    });
    store.decided_without();
    assert_eq!(run(&store, one_token()), Err(StoreError::Unavailable));
    server.restart();
    wait_until("it is available again", || store.is_available());
    wait_until("it answers again", || run(&store, one_token()).is_ok());
    let stats = store.stats();
    assert_eq!(
        (stats.outages, stats.decided_without, stats.held_slots),
        (1, 1, 1)
    );
    assert!(stats.errors > 0);
    // The new server knows the slot of before.
    let rejected = enter_operation(key(2), 1.0);
    wait_until("the slot counts", || {
        run(&store, StoreOperation::Enter(rejected)).is_ok()
    });
    assert_eq!(enter(&store, key(2), 1.0), None);
    assert!(leave(&store, key(2), slot));
}

#[test]
fn a_server_that_hangs_is_given_up_and_late_replies_still_come() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.builder().deadline(Duration::from_millis(50)).build();
    let store = store.expect("valid settings");
    wait_until("it answers", || run(&store, one_token()).is_ok());
    server.pause();
    let late = submit(&store, one_token());
    let unanswered: Vec<_> = std::iter::from_fn(|| {
        std::thread::sleep(Duration::from_millis(20));
        store.is_available().then(|| submit(&store, one_token()))
    })
    .collect();
    server.resume();
    let outcome = late.recv_timeout(crate::support::PATIENCE);
    drop(outcome.expect("a late reply is completed"));
    for outcome in unanswered {
        let outcome = outcome.recv_timeout(crate::support::PATIENCE);
        drop(outcome.expect("each reply is completed"));
    }
    wait_until("a probe finds it", || store.is_available());
    assert!(store.stats().late >= 5);
    assert_eq!(store.stats().outages, 1);
}

#[test]
fn a_server_that_was_never_there_is_given_up_and_found_when_it_starts() {
    let Some(mut server) = Server::start() else {
        return;
    };
    server.kill();
    let store = server.store();
    // The time to give up is that of five deadlines.
    let quick = server.builder().deadline(Duration::from_millis(20)).build();
    let quick = quick.expect("valid settings");
    wait_until("it is given up", || {
        assert!(run(&quick, one_token()).is_err());
        !quick.is_available()
    });
    assert_eq!(run(&store, one_token()), Err(StoreError::Unavailable));
    assert!(store.is_available(), "one failure is no evidence");
    server.restart();
    wait_until("it is found", || {
        quick.is_available() && run(&quick, one_token()).is_ok()
    });
}

#[test]
fn a_refused_operation_says_why_and_is_no_outage() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.store();
    let () = server.command(&["RPUSH", &format!("aperture:t:{}", key(1)), "no bucket"]);
    for _ in 0..20 {
        match run(&store, one_token()) {
            Err(StoreError::Refused(reason)) => assert!(reason.contains("WRONGTYPE"), "{reason}"),
            other => panic!("the key is of another type: {other:?}"),
        }
    }
    assert!(store.is_available());
    assert_eq!(store.stats().errors, 20);
}

#[test]
fn a_store_survives_the_runtime_that_it_started_on() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = server.store();
    let bucket = bucket(1e6, 0.0);
    for round in 0..3 {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            assert!(take(&store, key(1), bucket, 1.0).granted);
            assert!(enter(&store, key(2), 9.0).is_some());
        });
        drop(runtime);
        assert_eq!(store.stats().held_slots, round + 1);
    }
    // Without a runtime, on a thread of its own.
    let left = take(&store, key(1), bucket, 1.0).remaining;
    assert_eq!(left, 1e6 - 4.0);
    // A runtime of one thread is not used, because nobody may run it for a while.
    let idle = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let other = server.store();
    idle.block_on(async { drop(submit(&other, one_token())) });
    assert!(take(&other, key(1), bucket, 1.0).granted);
}

#[test]
fn a_store_of_a_wrong_password_is_unavailable_and_does_not_show_it() {
    let Some(server) = Server::start_with(&["--requirepass", "right"]) else {
        return;
    };
    let url = format!("redis://:wrong-secret@127.0.0.1:{}", server.port);
    let store = Redis::new(url).expect("valid settings");
    assert_eq!(run(&store, one_token()), Err(StoreError::Unavailable));
    assert!(!format!("{store:?}").contains("secret"));
}

/// What the tests of this program log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_outage_is_logged_once_and_its_end_once_without_credentials() {
    let Some(mut server) = Server::start() else {
        return;
    };
    server.add_user("limits on >s3cret ~* &* +@all");
    let lines = Lines::default();
    let writer = lines.clone();
    // For all threads, because the driver has one of its own.
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let address = format!("127.0.0.1:{}", server.port);
    let store = Redis::builder(format!("redis://limits:s3cret@{address}")).build();
    let store = store.expect("valid settings");
    wait_until("it answers", || run(&store, one_token()).is_ok());
    server.kill();
    wait_until("it is given up", || {
        drop(run(&store, one_token()));
        !store.is_available()
    });
    for _ in 0..100 {
        store.decided_without();
    }
    server.restart();
    // The new server has no such user: the store needs it to come back.
    server.add_user("limits on >s3cret ~* &* +@all");
    wait_until("it is available again", || store.is_available());
    let text = || {
        let bytes = lines.0.lock().expect("no panic").clone();
        String::from_utf8(bytes).expect("text")
    };
    // The line follows the state.
    wait_until("the end is logged", || text().contains("answers again"));
    let text = text();
    assert!(!text.contains("s3cret"), "{text}");
    let own: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(&address))
        .collect();
    let count = |part: &str| own.iter().filter(|line| line.contains(part)).count();
    assert_eq!(count("is given up"), 1, "{own:?}");
    assert_eq!(count("answers again"), 1, "{own:?}");
    assert_eq!(count("decided_without=100"), 1, "{own:?}");
    assert_eq!(count("are decided without the Redis store"), 1, "{own:?}");
}
