//! What Galen can see and measure: signals, sources, captures, detectors, and the observation tools that experts use.
//!
//! Depends on nothing else of ours. A diagnosis reads a [`capture::Capture`] and asks a [`probe::Prober`]; whether
//! the target is live or recorded makes no difference above this crate.

pub mod capture;
pub mod detect;
pub mod model;
pub mod observe;
pub mod probe;
pub mod signals;
pub mod sources;
pub mod sql;
pub mod store;
