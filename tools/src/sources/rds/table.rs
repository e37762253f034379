//! `signals/rds.toml`: which metric is which canonical signal, which parameter a setting, which message which event.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use crate::signals::SignalTable;

const TABLE: &str = include_str!("../../../signals/rds.toml");

/// The table, ready for use.
#[derive(Default)]
pub struct Table {
    metrics: BTreeMap<String, Metric>,
    units: BTreeMap<String, f64>,
    settings: BTreeMap<String, String>,
    /// Rules in the order in which they are tried.
    pub events: Vec<EventRule>,
    signals: SignalTable,
}

/// One metric.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metric {
    source: String,
    signal: String,
    unit: String,
    #[serde(default)]
    expected: bool,
    #[serde(default)]
    of_replica: bool,
}

/// How a message is recognised.
pub struct EventRule {
    /// Kind it gives the event.
    pub kind: String,
    /// Must match.
    pub pattern: Regex,
    /// Named groups give numbers.
    pub values: Option<Regex>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    map: Vec<Metric>,
    units: BTreeMap<String, f64>,
    settings: BTreeMap<String, String>,
    event: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    kind: String,
    pattern: String,
    values: Option<String>,
}

/// Name, unit and factor of a metric.
pub struct Resolved {
    /// Canonical signal, or the metric's own name.
    pub signal: String,
    /// Canonical unit, empty where the table does not know the metric.
    pub unit: String,
    /// Source values are multiplied by it.
    pub factor: f64,
}

impl Table {
    /// The table that is compiled in; a test proves that all of it is usable.
    pub fn load() -> Self {
        let Ok(file) = toml::from_str::<File>(TABLE) else { return Self::default() };
        let rule = |raw: RawRule| {
            let compile = |text: &str| RegexBuilder::new(text).case_insensitive(true).build().ok();
            let values = raw.values.as_deref().and_then(compile);
            Some(EventRule { pattern: compile(&raw.pattern)?, kind: raw.kind, values })
        };
        Self {
            metrics: file.map.into_iter().map(|m| (m.source.clone(), m)).collect(),
            units: file.units,
            settings: file.settings,
            events: file.event.into_iter().filter_map(rule).collect(),
            signals: SignalTable::builtin(),
        }
    }

    /// True for a metric that the table knows.
    pub fn knows(&self, source: &str) -> bool {
        self.metrics.contains_key(source)
    }

    /// The metric that an id such as `cpuutilization` or `m_cpuUtilization_0` spells, if any.
    pub fn spelled(&self, id: &str) -> Option<&str> {
        let fold = |s: &str| s.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
        let id = fold(id);
        let longest = self.metrics.keys().filter(|k| id.contains(&fold(k)));
        longest.max_by_key(|k| k.len()).map(String::as_str)
    }

    /// What a metric is; `unit` is the one that stands in the data, if any.
    pub fn resolve(&self, source: &str, unit: Option<&str>) -> Resolved {
        let Some(metric) = self.metrics.get(source) else {
            return Resolved { signal: super::field::label(source), unit: String::new(), factor: 1.0 };
        };
        let stated = unit.and_then(|u| self.units.get(u));
        let factor = stated.or_else(|| self.units.get(&metric.unit)).copied().unwrap_or(1.0);
        Resolved { signal: metric.signal.clone(), unit: self.signals.lookup(&metric.signal).unit.clone(), factor }
    }

    /// Metric and signal of everything that such an instance publishes.
    pub fn expected(&self, replicated: bool) -> impl Iterator<Item = (&str, &str)> {
        let wanted = move |m: &&Metric| m.expected || (replicated && m.of_replica);
        self.metrics.values().filter(wanted).map(|m| (m.source.as_str(), m.signal.as_str()))
    }

    /// Unit of a parameter that observation tools read.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_leads_somewhere() {
        let table = Table::load();
        let raw: File = toml::from_str(TABLE).unwrap();
        assert!(table.metrics.len() >= 30);
        for metric in table.metrics.values() {
            assert_eq!(table.signals.lookup(&metric.signal).name, metric.signal, "{} is no canonical signal", metric.signal);
            assert!(table.units.contains_key(&metric.unit), "{}", metric.unit);
        }
        assert_eq!(raw.event.len(), table.events.len(), "a pattern does not compile");
        let values = |rule: &EventRule| rule.values.is_some();
        assert_eq!(raw.event.iter().filter(|r| r.values.is_some()).count(), table.events.iter().filter(|r| values(r)).count());
    }

    #[test]
    fn a_unit_in_the_data_wins_over_the_documented_one() {
        let table = Table::load();
        let value = |unit| table.resolve("WriteLatency", unit).factor * 2.0;
        assert_eq!((value(None), value(Some("Milliseconds")), value(Some("furlongs"))), (2.0, 0.002, 2.0));
        assert_eq!(table.spelled("m_freestoragespace_1"), Some("FreeStorageSpace"));
        assert_eq!(table.resolve("Whatever", None).unit, "");
    }
}
