//! The fields of policies and values files: their values, defaults and bounds.
//!
#![doc = include_str!("fields.md")]

#[cfg(test)]
mod page;
#[cfg(test)]
mod probes;
