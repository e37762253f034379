//! The diagnosis: experts, tree search over hypotheses and tests, review, claims and the report; the LLM engine.

mod assemble;
pub mod belief;
pub mod claims;
pub mod driver;
pub mod evaluation;
pub mod evidence;
pub mod experts;
#[cfg(test)]
mod fixtures;
mod healthy;
pub mod llm;
mod narrate;
pub mod panel;
pub mod report;
pub mod retrieve;
pub mod search;
mod settle;
pub mod signature;
