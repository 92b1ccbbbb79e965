//! The served agent, over real sockets.

mod calls;
mod support;
