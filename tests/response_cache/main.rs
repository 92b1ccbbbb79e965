//! The response cache of the layer, through the public interface.
#![cfg(all(feature = "embedded", feature = "response-cache"))]

#[path = "../layer_support/mod.rs"]
mod layer_support;
#[cfg(feature = "remote")]
#[path = "../support/mod.rs"]
mod support;

/// Asserts for each origin whether its second response is a stored one.
macro_rules! stored {
    ($($origin:expr => $expected:expr),* $(,)?) => {$(
        let stored = $origin.is_stored(Method::GET, &[]).await;
        assert_eq!(stored, $expected, "{}", stringify!($origin));
    )*};
}

mod bodies;
mod changes;
mod flows;
mod limits;
mod oracle;
mod origin;
#[cfg(feature = "remote")]
mod remote;
mod rules;
mod schedulers;
mod site;
