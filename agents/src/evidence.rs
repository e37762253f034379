//! The blackboard: every observation once, with an id, its facts and its digest. Experts publish to it and read
//! what the others found; nobody makes the same call twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::value::{Object, Serde, Value};

use galen_knowledge::condition::{Facts, Lookup};
use galen_tools::model::Setting;
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

/// What a sentence sees: `{tool: {fact: value}}`, with the facts of one tool at top level too, and for remedies what was
/// set: `{before: {setting: value}, undo: {setting: statement}}`.
#[derive(Debug)]
struct Shown {
    own: Option<Value>,
    tools: Arc<BTreeMap<String, Value>>,
    settings: Option<Settings>,
}

/// Settings of the capture, as remedies ask for them by name.
#[derive(Debug, Clone)]
struct Settings {
    all: BTreeMap<String, Setting>,
    undo: bool,
}

impl Object for Settings {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        match self.undo {
            true => Some(Value::from_safe_string(undo(name, self.all.get(name), self.all.is_empty()))),
            // A word or a number: it is told in a line for a shell.
            false => {
                let value = self.all.get(name)?.value.as_str();
                let plain = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
                plain.then(|| Value::from(value))
            }
        }
    }
}

/// The statement that takes ALTER SYSTEM SET back: with the value that a file held before, since RESET would lose it.
fn undo(name: &str, setting: Option<&Setting>, unread: bool) -> String {
    let reset = format!("ALTER SYSTEM RESET {name}");
    match setting {
        Some(held) if held.source == "configuration file" => {
            let value: String = held.value.chars().filter(|c| !c.is_control()).collect();
            // Pages (8kB, or as the server was built) are the unit of some settings and of no literal.
            let (times, unit) = held.unit.split_at(held.unit.find(|c: char| !c.is_ascii_digit()).unwrap_or(0));
            let (value, unit) = match (times.parse::<f64>(), value.parse::<f64>()) {
                (Ok(times), Ok(pages)) if pages >= 0.0 => ((pages * times).to_string(), unit),
                (Err(_), Ok(number)) if number >= 0.0 => (value, unit),
                _ => (value, ""),
            };
            format!("ALTER SYSTEM SET {name} = '{}{unit}'", value.replace('\'', "''"))
        }
        None if unread => format!("{reset} /* or set again what was set before */"),
        _ => reset,
    }
}

impl Object for Shown {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        if let (Some(settings), Some(name @ ("before" | "undo"))) = (&self.settings, key.as_str()) {
            return Some(Value::from_object(Settings { undo: name == "undo", ..settings.clone() }));
        }
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
        Value::from_object(Shown { own, tools: Arc::clone(&self.shown), settings: None })
    }

    /// All facts, and what was set where a remedy speaks of it.
    pub fn context_with(&self, settings: Option<&BTreeMap<String, Setting>>) -> Value {
        let settings = settings.map(|all| Settings { all: all.clone(), undo: false });
        Value::from_object(Shown { own: None, tools: Arc::clone(&self.shown), settings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_remedy_sets_is_taken_back_to_what_a_file_held() {
        let set = |value: &str, unit: &str, source: &str| Setting { value: value.into(), unit: unit.into(), source: source.into() };
        let file = "configuration file";
        for (setting, undone) in [
            (set("131072", "8kB", file), "ALTER SYSTEM SET x = '1048576kB'"),
            (set("8192", "16kB", file), "ALTER SYSTEM SET x = '131072kB'"),
            (set("200", "", file), "ALTER SYSTEM SET x = '200'"),
            (set("4096", "kB", file), "ALTER SYSTEM SET x = '4096kB'"),
            (set("-1", "kB", file), "ALTER SYSTEM SET x = '-1'"),
            (set("a'; DROP TABLE t; --", "", file), "ALTER SYSTEM SET x = 'a''; DROP TABLE t; --'"),
            (set("4096", "kB", "default"), "ALTER SYSTEM RESET x"),
        ] {
            assert_eq!(undo("x", Some(&setting), false), undone);
        }
        assert!(undo("x", None, true).contains("set before"), "nobody read the settings");
        let board = Board::default();
        let settings = BTreeMap::from([("a".to_owned(), set("8", "", "rds")), ("b".to_owned(), set("$(reboot)", "", "rds"))]);
        let context = board.context_with(Some(&settings));
        let of = |part: &str, name: &str| context.get_attr(part).unwrap().get_attr(name).unwrap();
        assert_eq!((of("before", "a").as_str(), of("before", "b").is_undefined()), (Some("8"), true));
        assert_eq!(of("undo", "a").as_str(), Some("ALTER SYSTEM RESET a"));
    }
}
