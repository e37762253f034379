//! The diagnosis: experts, tree search over hypotheses and tests, review, claims and the report; the LLM engine.

pub mod driver;
pub mod llm;
pub mod report;
