//! Where observations come from: a live PostgreSQL server, its host, and files of other tools.

pub mod dbot;
pub mod dbsherlock;
pub mod host;
mod names;
pub mod pg;
pub mod rds;
