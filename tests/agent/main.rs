//! The served agent, over real sockets.

mod bounds;
mod calls;
mod ends;
mod json;
mod keys;
mod support;
mod tls;
