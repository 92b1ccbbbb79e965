//! The agent as a server: calls over real sockets.

mod bounds;
mod budget;
mod caller;
mod calls;
mod ends;
mod faults;
mod idle;
mod interop;
mod json;
mod keys;
mod probes;
mod series;
mod support;
mod tls;
