//! Reads FluxNinja Aperture policies and decides about flows in process, as an Aperture Agent does.
//!
//! Text goes in, decisions come out: the engine has no network, no Tower and no gRPC. Applications
//! use it through [`tower-aperture`], whose feature `embedded` exports [`engine`] and [`policy`]
//! under its own name, or ask an agent that serves it.
//!
//! [`tower-aperture`]: https://docs.rs/tower-aperture
//!
//! # Features
//!
//! | feature | provides |
//! |---|---|
//! | `rego` | classifiers with Rego modules |
//! | `tracing` | warnings and errors as `tracing` events |
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use(log_event)]
extern crate aperture_core;

pub mod engine;
pub mod policy;
#[cfg(feature = "rego")]
mod rego;
#[cfg(not(feature = "rego"))]
#[path = "no_rego.rs"]
mod rego;

#[doc(inline)]
pub use self::engine::Engine;
#[doc(inline)]
pub use self::policy::{PolicyError, PolicyWarning};
