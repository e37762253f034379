//! The DBSherlock benchmark: detection without given regions, root causes by learnt signatures, and the controls beside them.
//!
//! Labels come from the data set's manifest and are used to learn and to score; detection and diagnosis see captures alone.

mod case;
mod control;
mod read;
mod report;
mod score;
mod view;

pub use case::{CaseRow, cases};
pub use read::{Flaw, Recording, class_causes, is_dataset, load, published_half};
pub use report::reports;
pub use score::{HOW, Stage, how, measure};
pub use view::{learnable, placebo_learnable};

/// Data set of incidents with one cause, as [`super::split::half_of`] knows it.
pub const SINGLE: &str = "dbsherlock_single";
/// Data set of incidents with two or three causes.
pub const COMPOUND: &str = "dbsherlock_compound";
