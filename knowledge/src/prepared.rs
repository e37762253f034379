//! What of a catalog is parsed once: its conditions and sentences, by their source.

use std::collections::HashMap;

use crate::cause::Cause;
use crate::condition::{Condition, Lookup};
use crate::remedy_sql::RemedySql;
use crate::template::Sentences;

/// Conditions and sentences of a catalog, ready to be judged and rendered.
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    conditions: HashMap<String, Condition>,
    sentences: Sentences,
    statements: RemedySql,
}

impl Prepared {
    /// Judges a condition; one that is not of the catalog is parsed for this once. None: unknown, or no condition.
    pub fn holds(&self, condition: &str, facts: &impl Lookup) -> Option<bool> {
        match self.conditions.get(condition) {
            Some(parsed) => parsed.holds(facts),
            None => Condition::parse(condition).ok()?.holds(facts),
        }
    }

    /// The sentences.
    pub fn sentences(&self) -> &Sentences {
        &self.sentences
    }

    /// The statements of remedies. Few are ever rendered, so none is parsed before.
    pub fn statements(&self) -> &RemedySql {
        &self.statements
    }

    /// Parses what a cause holds; what does not parse is left to fail where it is used.
    pub(crate) fn add(&mut self, cause: &Cause) {
        for test in &cause.test {
            self.condition(&test.supports);
            test.refutes.iter().for_each(|c| self.condition(c));
            self.sentence(&test.says);
            test.denies.iter().for_each(|t| self.sentence(t));
        }
        for remedy in &cause.remedy {
            remedy.when.iter().for_each(|c| self.condition(c));
            [&remedy.title, &remedy.lock, &remedy.effect].into_iter().chain(&remedy.measured).for_each(|t| self.sentence(t));
        }
        cause.explains.iter().filter_map(|e| e.when.as_ref()).for_each(|c| self.condition(c));
        cause.stands_alone.iter().for_each(|c| self.condition(c));
        cause.summary.iter().for_each(|t| self.sentence(t));
    }

    fn condition(&mut self, source: &str) {
        if let Ok(parsed) = Condition::parse(source) {
            self.conditions.insert(source.to_owned(), parsed);
        }
    }

    fn sentence(&mut self, source: &str) {
        self.sentences.prepare(source);
    }
}
