//! The fault lab: a private PostgreSQL with a small application in it, steady load, and faults injected on purpose.
//!
//! `Cluster` is the server, `Scenario` is a schema with its steady load and one `Fault`, `record` goes through the phases
//! of an incident while the collector watches, and `batch` does so for many. All data lies in `examples/lab`.

mod adopt;
mod answer;
pub mod batch;
mod binaries;
mod busy;
pub mod check;
mod cluster;
pub mod dbot;
mod fault;
mod files;
mod folder;
mod guard;
mod left_out;
mod load;
pub mod network;
mod process;
mod room;
mod run;
mod scenario;
mod script;
mod statement;
pub mod suite;
#[cfg(test)]
mod trial;
mod volume;

// The laboratory's face to every command that runs on it; not each part is used by each.
#[allow(unused_imports)]
pub use answer::Answer;
#[allow(unused_imports)]
pub use cluster::{Cluster, ClusterOptions};
pub use folder::{Folder, Otherwise};
pub use left_out::left_out;
#[allow(unused_imports)]
pub use load::{ClientSpec, Load};
pub use run::{Phase, Phases, Recorded, Run, record};
#[allow(unused_imports)]
pub use scenario::{Fault, Scenario, Schema};
pub use script::Parameters;
