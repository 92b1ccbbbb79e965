//! Decisions by a store, beside a bare script call on the same kind of connection. Prints times and
//! ratios and asserts nothing. Does nothing without `redis-server`.

#[path = "../tests/redis/support.rs"]
#[allow(dead_code)]
mod support;
