//! (being written)
pub mod dbot;
