//! The fault lab: a private PostgreSQL with a small shop in it, steady load, and faults that can be injected on purpose.
//!
//! `Cluster` is the server, `Scenario` is the shop with its baseline load and one `Fault`, and `run` goes through the
//! phases of an incident while a recorder watches from the side. All data lies in `examples/lab/shop`.

mod binaries;
mod busy;
mod cluster;
pub mod dbot;
mod fault;
mod guard;
mod load;
#[cfg(test)]
mod run;
mod scenario;
mod statement;
#[cfg(test)]
mod trial;

pub use cluster::{Cluster, ClusterOptions};
#[cfg(test)]
pub use fault::Parameters;
pub use load::Load;
#[cfg(test)]
pub use run::{Phase, Phases, RunReport, run};
pub use scenario::Scenario;
