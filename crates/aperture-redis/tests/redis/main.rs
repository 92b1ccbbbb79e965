//! The store against real servers, which the tests start on loopback and stop.
//!
//! Without `redis-server` on the path these tests are skipped, and say so. With the variable
//! `APERTURE_REQUIRE_REDIS=1` they fail instead.

mod bounds;
mod buckets;
mod caches;
mod cluster;
mod outages;
mod properties;
mod secure;
mod server;
mod slots;
mod support;
