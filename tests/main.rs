//! Integration tests: they start the real `galen` binary against real servers. One binary; scenarios are data.

// A test may unwrap; clippy's own exemption does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used)]

mod blind;
mod cli;
mod dbot;
mod doors;
mod evaluation;
mod imports;
mod knowledge;
mod lab;
mod learn;
mod live;
mod models;
mod public;
mod rds;
mod report_diff;
mod reports;
mod search;
mod support;
mod verify;
