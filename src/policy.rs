//! Policies: which flows are limited, and how. They are written in Rust code or in files.
//!
//! A [`Policy`] has a name, selects flows by [`at`](Policy::at), and limits them by its parts:
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_aperture::Engine;
//! use tower_aperture::policy::{ConcurrencyLimit, Policy, RateLimit, Scheduler};
//!
//! let engine = Engine::builder()
//!     .policy(
//!         Policy::new("per-user")
//!             .at("checkout")
//!             .limit(RateLimit::per_second(5).burst(10).by("user_id"))
//!             .limit(ConcurrencyLimit::slots(3).by("user_id")),
//!     )
//!     .policy(
//!         Policy::new("search").at("search").schedule(
//!             Scheduler::slots(20)
//!                 .by("tenant")
//!                 .priority_from("tier", [("gold", 300.0), ("silver", 100.0)])
//!                 .queue_for(Duration::from_millis(500)),
//!         ),
//!     )
//!     .build()?;
//! # let _ = engine;
//! # Ok::<(), tower_aperture::PolicyError>(())
//! ```
//!
//! | part | what it does |
//! |---|---|
//! | [`RateLimit`] | rejects flows of a key that has no tokens left |
//! | [`ConcurrencyLimit`] | rejects flows of a key that has as many flows in flight as it may, or as [`AdaptiveConcurrency`] finds that it may |
//! | [`Scheduler`] | queues flows by priority for tokens, for slots, or while a service is overloaded ([`LoadControl`]) |
//! | [`Sampler`], [`LoadRamp`] | accept a share of the flows, or a growing share |
//! | [`Classifier`] | makes labels from the attributes of HTTP requests |
//! | [`FluxMeter`] | measures how long flows take, for the [`Signal`]s of control loops |
//!
//! For a first limit, [`ApertureLayer::embedded`](crate::ApertureLayer::embedded) turns one policy
//! into a layer.
//!
//! # Wrong values
//!
//! Methods never fail. [`build`](crate::engine::EngineBuilder::build) returns the first error, with
//! the name of the policy, the field and the fix:
//!
//! ```
//! use tower_aperture::Engine;
//! use tower_aperture::policy::{Policy, RateLimit};
//!
//! let policy = Policy::new("api").at("api").limit(RateLimit::per_second(100).by(""));
//! let error = Engine::builder().policy(policy).build().unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "policy `api`: components[0].by: must not be empty; give it a name, or leave the call out",
//! );
//! ```
//!
//! # Files
//!
//! A policy file is YAML: a `kind: Policy` resource as the Aperture Controller takes it, the bare
//! policy inside of one, or the values of a blueprint. [`fields`] lists the fields of all forms,
//! and [the engine](crate::engine#policies) names the differences to an Agent. Policies in code are
//! read by the same rules and defaults, and [`Policy::to_yaml`] prints the file that does the same.
//! What began in code moves to files, or to an Agent, unchanged:
//!
//! ```
//! use tower_aperture::Engine;
//! use tower_aperture::policy::{Policy, RateLimit};
//!
//! let policy = Policy::new("per-user")
//!     .at("checkout")
//!     .limit(RateLimit::per_second(5).burst(10).by("user_id"));
//! let yaml = policy.to_yaml()?;
//! let from_code = Engine::builder().policy(policy).build()?;
//! let from_file = Engine::builder().policy_text("per-user.yaml", yaml).build()?;
//! assert_eq!(from_code.describe(), from_file.describe());
//! # Ok::<(), tower_aperture::PolicyError>(())
//! ```
//!
//! Circuits with other components than these are written in files. An engine may have policies of
//! both kinds; [`reload`](crate::Engine::reload) reads files again and keeps the policies from
//! code.

#[doc(inline)]
pub use aperture_engine::policy::build::{
    Classifier, ConcurrencyLimit, Extractor, FluxMeter, LabelMatcher, Limit, LoadControl, LoadRamp,
    Policy, RateLimit, Sampler, Scheduler, Selector, Signal, Workload,
};
#[doc(inline)]
pub use aperture_engine::policy::{AdaptiveConcurrency, PolicyError, PolicyWarning, fields};
