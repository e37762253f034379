//! The live collector: reads a PostgreSQL server (13 to 18) through versioned read-only probes, over one connection;
//! a second one answers the on-demand probes of a running diagnosis.
//!
//! [`Collector::turn`] does whatever is due and returns a [`Frame`](crate::capture::Frame); [`record`] builds a whole
//! [`Capture`](crate::capture::Capture) from turns. Nothing here writes to the target, and no literal of its
//! statements leaves this module (see [`text`]).

mod ash;
mod catalog;
mod collector;
mod config;
mod connect;
mod error;
mod hypothetical;
mod plannable;
mod prober;
mod probes;
mod rates;
mod record;
mod row;
mod runner;
mod server;
mod statements;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod text;
mod texts;
mod tls;

pub use collector::Collector;
pub use config::{Dsn, Intervals, PgConfig};
pub use error::{SourceError, SourceErrorKind};
pub use prober::PgProber;
pub use record::{freeze_answers, record};
