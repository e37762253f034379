//! Providers and the store of models, against servers of the tests' own, and one suite that every provider passes.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside of #[test] functions

mod conformance;
mod facade;
mod hostile;
mod openai;
mod own;
mod packages;
mod pull;
mod server;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "shared with tests that need more of it")]
mod support;
mod tiny;
