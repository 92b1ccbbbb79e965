//! Keeps the limits that several engines share in Redis, Valkey or a cluster of them.
//!
//! A [`Redis`] store is for engines of `tower-aperture`: rate limiters and quota schedulers keep
//! their token buckets in it, concurrency limiters and schedulers their slots. All engines with the
//! same policies and the same prefix then limit flows together.
//!
//! ```no_run
//! use std::time::Duration;
//! use aperture_engine::engine::shared::StoreAbsence;
//! use aperture_redis::Redis;
//!
//! # fn main() -> Result<(), aperture_redis::RedisConfigError> {
//! let store = Redis::builder("rediss://limits:secret@cache.internal:6379")
//!     .deadline(Duration::from_millis(10))
//!     .absence(StoreAbsence::LocalShare)
//!     .build()?;
//! // A clone is another handle of the same store, for its counters.
//! let stats = store.clone().stats();
//! assert!(stats.available);
//! # Ok(()) }
//! ```
//!
//! # Servers
//!
//! Redis 6 or newer, Valkey, and clusters of either ([`RedisBuilder::cluster_nodes`]). These rules are
//! enough for a user and the prefix `shop`:
//!
//! ```text
//! ACL SETUSER limits on >secret ~shop:* &shop:* +@connection +@scripting +@string +@hash
//!     +@sortedset +@keyspace +@pubsub +time +cluster
//! ```
//!
//! If the user may not use the channel `shop:freed`, flows that wait for a slot of another node ask
//! every 20 ms.
//!
//! The client is [`redis`](https://docs.rs/redis) 1.x and not `fred`, because it is released every few
//! weeks, needs the same Rust version as this workspace, and works on any stream with one reply for
//! each command of a pipeline. This crate opens the streams and routes to the nodes of a cluster
//! itself, so that operations share a write for each node and certificates are verified as by the
//! rest of `tower-aperture`.
//!
//! # What is stored
//!
//! Every key begins with the prefix, names the bucket or the set of slots by a hash, and expires.
//! A label value cannot be read from it.
//!
//! | key | type | content | expires |
//! |---|---|---|---|
//! | `{prefix}:t:…` | string | a token bucket, 112 bytes | after the bucket's idle time, but at the latest after ten years; after a year if it has none |
//! | `{prefix}:s:{…}` | hash | slots: 48 bytes each | after 30 s |
//! | `{prefix}:x:{…}` | sorted set | when each slot expires | after 30 s |
//! | `{prefix}:nodes` | sorted set | the nodes seen lately | after 10 s |
//! | `{prefix}:c:…` | string | a cached value, with [shared caches](#caches): 1 byte and the value | after its time to live, seven days at most |
//!
//! # Token buckets
//!
//! Each operation is one script with one key, so it is applied as a whole. The arithmetic is the
//! engine's, to the token and to the nanosecond, for times up to 104 days apart. The server's clock
//! decides, in steps of a microsecond; while it is behind the latest time that a bucket has seen,
//! the bucket fills nothing.
//!
//! # Slots
//!
//! A slot has a lease of 10 s, which its node renews every 3 s. The slots of a node that is killed
//! are free 10 s later. A slot also expires at the end of its lifetime. When a server has lost its
//! data, the nodes put back the slots that they hold as soon as they are connected again. A node
//! holds at most 65 536 slots; while it holds as many, it takes no further ones.
//!
//! # Caches
//!
//! With [`RedisBuilder::shared_caches`], a value that one engine stores in its result cache or its
//! global cache is found by all engines with the same prefix, whatever their policies are, and a
//! deletion reaches all of them. Keys are hashed; values are stored as they are, so the server must be
//! trusted with them. They expire by the server's clock. A check with cache keys looks them up side by
//! side with its limits, each key by one command.
//!
//! The caches have connections and an outage of their own, so that large values delay no limit. A
//! lookup without an answer within the deadline is a miss with an error, and a change fails; neither
//! is repeated. The server decides which values it keeps: if its memory is full, `maxmemory-policy`
//! must not remove the buckets for it, so use a server of its own, or `noeviction`, with which further
//! values are refused.
//!
//! # A server that is slow or away
//!
//! A flow waits at most the deadline. When five replies or connections in a row fail, for five
//! deadlines or longer, the server is given up: flows are then decided at once as
//! [`RedisBuilder::absence`] says. A probe each 1 to 6 s finds out when the server answers again.
//! An outage is logged once when it begins and once when it ends.
//!
//! An operation whose connection breaks is not repeated, because the server may have applied it. Its
//! tokens may be lost, and its slot for 10 s.
//!
//! # Tasks and bounds
//!
//! A store has one background task, which starts with the first operation: on the caller's Tokio
//! runtime if that has several threads, else on a thread of its own. If the runtime is dropped, the
//! next operation starts it anew. At most 4096 operations wait for the task, as many for the connection
//! of a server, and at most 64 pipelines of 256 operations for their replies; beyond that, operations
//! are refused as unavailable. Shared caches have a task of their own with the same bounds, but at
//! most 16 pipelines of 16 operations, and at most 64 MiB of values that wait to be stored.
//!
//! # Features
//!
//! | feature | default | provides |
//! |---|---|---|
//! | `tls` | yes | TLS by rustls, for `rediss://` and `valkeys://` |
//! | `tracing` | yes | outages and returns as `tracing` events of the target `tower_aperture` |
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use(log_event)]
extern crate aperture_core;

mod address;
mod breaker;
mod builder;
mod connect;
mod driver;
mod freed;
mod leases;
mod scripts;
mod shared;
mod stats;
mod store;
#[cfg(feature = "tls")]
mod tls;

pub use self::builder::{RedisBuilder, RedisConfigError};
pub use self::stats::RedisStats;
pub use self::store::Redis;
