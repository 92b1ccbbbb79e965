//! The served agent, over real sockets.

mod bounds;
mod calls;
mod ends;
mod faults;
mod interop;
mod json;
mod keys;
mod series;
mod support;
mod tls;
