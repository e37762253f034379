//! The blackboard: every observation once, with an id, its facts and its digest. Experts publish to it and read
//! what the others found; nobody makes the same call twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::value::{Object, Serde, Value};

use galen_knowledge::condition::{Facts, Lookup};
use galen_tools::observe::{Observation, digest};

use crate::report::Evidence;

/// Observations by tool, in the order they came.
#[derive(Debug, Default)]
pub struct Board {
    entries: Vec<Evidence>,
    by_tool: BTreeMap<String, usize>,
    /// Facts by tool, for sentences.
    shown: Arc<BTreeMap<String, Value>>,
}

/// Facts that a test sees: its own tool's first, all others namespaced.
pub struct Seen<'b> {
    own: Option<&'b Facts>,
    all: &'b Board,
}

impl Lookup for Seen<'_> {
    fn fact(&self, name: &str) -> Option<&serde_json::Value> {
        self.own.and_then(|own| own.get(name)).or_else(|| self.all.fact(name))
    }
}

impl Lookup for Board {
    /// A fact of any tool, namespaced `tool.fact`.
    fn fact(&self, name: &str) -> Option<&serde_json::Value> {
        let (tool, fact) = name.split_once('.')?;
        self.of_tool(tool)?.observation.facts.get(fact)
    }
}

/// What a sentence sees: `{tool: {fact: value}}`, with the facts of one tool at top level too.
#[derive(Debug)]
struct Shown {
    own: Option<Value>,
    tools: Arc<BTreeMap<String, Value>>,
}

impl Object for Shown {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let own = self.own.as_ref().and_then(|own| own.get_item(key).ok()).filter(|v| !v.is_undefined());
        own.or_else(|| self.tools.get(key.as_str()?).cloned())
    }
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
        Arc::make_mut(&mut self.shown).insert(observation.tool.clone(), Value::from(Serde(&observation.facts)));
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
    pub fn facts_for(&self, tool: &str) -> Seen<'_> {
        Seen { own: self.of_tool(tool).map(|entry| &entry.observation.facts), all: self }
    }

    /// All facts as a tree `{tool: {fact: value}}`, with those of `tool` at top level too: what sentences see.
    pub fn context_for(&self, tool: Option<&str>) -> Value {
        let own = tool.and_then(|t| self.shown.get(t)).cloned();
        Value::from_object(Shown { own, tools: Arc::clone(&self.shown) })
    }
}
