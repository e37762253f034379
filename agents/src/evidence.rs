//! The blackboard: every observation once, with an id, its facts and its digest. Experts publish to it and read
//! what the others found; nobody makes the same call twice.

use std::collections::BTreeMap;

use serde_json::Value;

use galen_knowledge::condition::Facts;
use galen_tools::observe::{Observation, digest};

use crate::report::Evidence;

/// Observations by tool, in the order they came.
#[derive(Debug, Default)]
pub struct Board {
    entries: Vec<Evidence>,
    by_tool: BTreeMap<String, usize>,
    /// Facts of all tools, namespaced `tool.fact`.
    facts: Facts,
}

impl Board {
    /// True when the tool has been called.
    pub fn has(&self, tool: &str) -> bool {
        self.by_tool.contains_key(tool)
    }

    /// Publishes an observation and returns its evidence id.
    pub fn publish(&mut self, observation: Observation) -> String {
        if let Some(known) = self.id_of(&observation.tool) {
            return known;
        }
        let id = format!("E{}", self.entries.len() + 1);
        for (name, value) in &observation.facts {
            self.facts.insert(format!("{}.{name}", observation.tool), value.clone());
        }
        self.by_tool.insert(observation.tool.clone(), self.entries.len());
        let lines = match &observation.no_data {
            Some(reason) => vec![format!("no data: {reason}")],
            None => digest::lines(&observation),
        };
        self.entries.push(Evidence { id: id.clone(), lines, observation });
        id
    }

    /// Evidence id of a tool's observation.
    pub fn id_of(&self, tool: &str) -> Option<String> {
        self.by_tool.get(tool).map(|at| self.entries[*at].id.clone())
    }

    /// A tool's observation.
    pub fn of_tool(&self, tool: &str) -> Option<&Evidence> {
        self.by_tool.get(tool).map(|at| &self.entries[*at])
    }

    /// Evidence by id.
    pub fn get(&self, id: &str) -> Option<&Evidence> {
        self.entries.iter().find(|e| e.id == id)
    }

    /// All evidence in order of id.
    pub fn all(&self) -> &[Evidence] {
        &self.entries
    }

    /// Facts a test sees: its own tool's at top level, all others namespaced.
    pub fn facts_for(&self, tool: &str) -> Facts {
        let mut facts = self.facts.clone();
        if let Some(entry) = self.of_tool(tool) {
            facts.extend(entry.observation.facts.clone());
        }
        facts
    }

    /// All facts, namespaced `tool.fact`.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// All facts as a tree `{tool: {fact: value}}`, with those of `tool` at top level too: what sentences see.
    pub fn context_for(&self, tool: Option<&str>) -> Value {
        let mut root = serde_json::Map::new();
        for entry in &self.entries {
            let facts: serde_json::Map<String, Value> = entry.observation.facts.clone().into_iter().collect();
            root.insert(entry.observation.tool.clone(), Value::Object(facts));
        }
        if let Some(entry) = tool.and_then(|t| self.of_tool(t)) {
            root.extend(entry.observation.facts.clone());
        }
        Value::Object(root)
    }
}
