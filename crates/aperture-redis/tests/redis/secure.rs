//! Passwords, users, TLS, and wrong settings.

use std::time::Duration;

use aperture_redis::Redis;
use rcgen::{CertifiedKey, generate_simple_self_signed};

use crate::support::{Server, bucket, enter, key, new_folder, run, take, take_operation};

#[test]
fn a_user_with_a_password_needs_only_the_keys_and_the_channel_of_the_prefix() {
    let user = "limits on >p%40ss:w/rd ~shop:* &shop:* +@scripting +@string +@hash +@sortedset \
               +@keyspace +@connection +@pubsub +time";
    let Some(server) = Server::start() else {
        return;
    };
    server.add_user(&user.replace("%40", "@"));
    // The last command that needs no password.
    let () = server.command(&["ACL", "SETUSER", "default", "off"]);
    let at = format!("127.0.0.1:{}", server.port);
    let stores = [
        Redis::builder(format!("redis://limits:p%40ss:w%2Frd@{at}")),
        Redis::builder(format!("redis://{at}"))
            .username("limits")
            .password("p@ss:w/rd"),
        Redis::builder(format!("redis://other:wrong@{at}"))
            .username("limits")
            .password("p@ss:w/rd"),
    ];
    for store in stores {
        let store = store.prefix("shop").deadline(Duration::from_secs(5));
        let debug = format!("{store:?}");
        let store = store.build().expect("valid settings");
        assert!(take(&store, key(1), bucket(9.0, 0.0), 1.0).granted);
        assert!(enter(&store, key(1), 9.0).is_some());
        crate::support::wait_until("it may subscribe", || store.stats().subscribed);
        for text in [debug, format!("{store:?}")] {
            assert!(!text.contains("p@ss") && !text.contains("p%40ss"), "{text}");
        }
    }
}

#[test]
fn a_server_with_tls_is_verified_by_the_roots_that_are_set() {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(names).expect("a certificate");
    let folder = new_folder();
    let write = |name: &str, content: String| {
        let path = folder.join(name);
        std::fs::write(&path, content).expect("the folder is writable");
        path.to_str().expect("its name is text").to_owned()
    };
    let certificate = write("server.crt", cert.pem());
    let private = write("server.key", signing_key.serialize_pem());
    let options = [
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &private,
        "--tls-ca-cert-file",
        &certificate,
        "--tls-auth-clients",
        "no",
    ];
    let Some(server) = Server::start_in(folder.clone(), &options, true) else {
        return;
    };
    let url = format!("rediss://localhost:{}", server.port);
    let store = Redis::builder(&url)
        .deadline(Duration::from_secs(5))
        .tls_roots(cert.pem());
    let store = store.build().expect("valid settings");
    assert!(take(&store, key(1), bucket(1.0, 0.0), 1.0).granted);
    // The system does not know the certificate.
    let store = Redis::new(&url).expect("valid settings");
    let operation = take_operation(
        key(2),
        bucket(1.0, 0.0),
        1.0,
        aperture_engine::engine::shared::TokensMode::Immediate,
    );
    assert!(run(&store, operation).is_err());
}

#[test]
fn a_wrong_setting_is_named() {
    let ok = || Redis::builder("redis://cache");
    let wrong = [
        (Redis::builder("cache"), "url"),
        (Redis::builder("http://cache"), "url"),
        (ok().cluster_nodes(["cache-2"]), "cluster_nodes"),
        (ok().cluster_nodes(["rediss://cache-2"]), "cluster_nodes"),
        (
            ok().cluster_nodes((0..100).map(|n| format!("redis://n{n}"))),
            "cluster_nodes",
        ),
        (
            Redis::builder("redis://cache/1").cluster_nodes([""; 0]),
            "url",
        ),
        (ok().prefix(""), "prefix"),
        (ok().prefix("{shop}"), "prefix"),
        (ok().prefix("x".repeat(65)), "prefix"),
        (ok().deadline(Duration::ZERO), "deadline"),
        (ok().deadline(Duration::from_secs(11)), "deadline"),
        (ok().connect_timeout(Duration::ZERO), "connect_timeout"),
        (
            Redis::builder("rediss://cache").tls_roots("no certificate"),
            "tls_roots",
        ),
    ];
    for (builder, field) in wrong {
        let error = builder.build().expect_err(field);
        assert_eq!(error.field(), field, "{error}");
        assert!(error.to_string().contains(field));
    }
}
