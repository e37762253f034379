//! D-Bot's anomaly specifications as real runs: a specification names a kind of workload and its size; the lab scales it to
//! this machine, runs it on a private server, and records it. `plan` decides without I/O, `stage` runs one case, `suite` all.

mod choose;
mod plan;
mod scale;
mod spec;
mod stage;
mod suite;
#[cfg(test)]
mod tests;

pub use choose::stratified;
pub use scale::RULE;
pub use spec::{Spec, read};
pub use stage::Phases;
pub use suite::{Outcome, Request, record};
