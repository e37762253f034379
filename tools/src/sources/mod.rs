//! Where observations come from: a live PostgreSQL server, its host, and files of other tools.

pub mod dbot;
pub mod host;
pub mod pg;
