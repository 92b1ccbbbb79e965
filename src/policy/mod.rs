//! From text to a checked policy.

mod matcher;
mod model;

#[allow(unused_imports)]
pub(crate) use self::matcher::LabelMatcher;
#[allow(unused_imports)]
pub(crate) use self::model::{Component, ComponentKind, Policy, RateLimiter, Selector, Signal};
