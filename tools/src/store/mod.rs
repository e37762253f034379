//! What outlives the process: capture files anywhere, and the daemon's own store of incidents and reports.

mod bench;
mod block;
mod cell;
mod database;
mod diagnoses;
mod error;
pub mod file;
mod image;
mod incidents;
mod intake;
mod rows;
mod seal;
mod series;

pub use bench::bench_intake;
pub use database::Store;
pub use diagnoses::{Diagnosis, Feedback, NewDiagnosis};
pub use error::{StoreError, StoreErrorKind};
pub use incidents::{Filter, Incident, State};
pub use intake::Intake;
