//! Guides: how to move to this crate from another one, and how to solve common tasks with it.
//!
//! Each guide has a program that runs as a test of the documentation.
//!
//! | guide | task |
//! |---|---|
//! | [`cookbook`] | copy a policy for logins, tenants, plans, a provider's quota, background jobs, WebSockets |
//! | [`from_tower_governor`] | replace a `GovernorLayer` by a policy with the same limit |
//! | [`from_the_python_sdk`] | write code for Aperture's Python SDK in Rust |
//! | [`in_process_to_agent`] | begin with limits of one process, and share them between replicas later, in Redis or by an Agent |
//! | [`per_user_limits_behind_a_proxy`] | limit users and addresses that a client cannot make up |
//! | [`priorities`] | serve important requests first while the service is saturated |
//! | [`llm_tokens`] | limit the tokens of language models instead of requests |
//! | [`limits_that_find_themselves`] | limit requests in flight by their latency, without a number |
//!
//! The fields of policies are listed in [`policy::fields`](crate::policy::fields).

#[doc = include_str!("cookbook.md")]
pub mod cookbook {}

#[doc = include_str!("from_tower_governor.md")]
pub mod from_tower_governor {}

#[doc = include_str!("from_the_python_sdk.md")]
pub mod from_the_python_sdk {}

#[doc = include_str!("in_process_to_agent.md")]
pub mod in_process_to_agent {}

#[doc = include_str!("per_user_limits_behind_a_proxy.md")]
pub mod per_user_limits_behind_a_proxy {}

#[doc = include_str!("priorities.md")]
pub mod priorities {}

#[doc = include_str!("llm_tokens.md")]
pub mod llm_tokens {}

#[doc = include_str!("limits_that_find_themselves.md")]
pub mod limits_that_find_themselves {}
