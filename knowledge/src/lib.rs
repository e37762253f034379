//! What Galen knows: the catalog of root causes, the chunks of its documents, and how they hang together.
//!
//! Depends on nothing else of ours and knows nothing of captures: conditions are expressions over named facts.

pub mod catalog;
pub mod cause;
pub mod chunk;
pub mod condition;
pub mod error;
pub mod gazetteer;
pub mod graph;
pub mod graph_svg;
pub mod index;
pub mod prepared;
pub mod remedy_sql;
pub mod template;
