//! Which of another tool's metrics is which canonical signal: a table for each source, such as `signals/dbot.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Metrics of D-Bot's recorded cases.
pub(super) const DBOT: &str = include_str!("../../signals/dbot.toml");
/// Attributes of DBSherlock's recordings.
pub(super) const DBSHERLOCK: &str = include_str!("../../signals/dbsherlock.toml");
const CANONICAL: [&str; 2] = [include_str!("../../signals/postgres.toml"), include_str!("../../signals/host.toml")];

/// `value * factor + offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Convert {
    factor: f64,
    offset: f64,
}

impl Convert {
    const KEEP: Convert = Convert { factor: 1.0, offset: 0.0 };

    pub fn apply(self, value: f64) -> f64 {
        value * self.factor + self.offset
    }
}

/// True for the unit of a rate, which is never below zero.
pub(super) fn is_rate(unit: &str) -> bool {
    unit.ends_with("/s")
}

/// The table, with the units of the canonical signals.
pub(super) struct Names {
    map: BTreeMap<String, Entry>,
    units: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    source: String,
    signal: String,
    #[serde(default = "one")]
    factor: f64,
    #[serde(default)]
    offset: f64,
}

fn one() -> f64 {
    1.0
}

#[derive(Deserialize)]
struct MapFile {
    map: Vec<Entry>,
}

#[derive(Deserialize)]
struct SignalFile {
    signal: Vec<Signal>,
}

#[derive(Deserialize)]
struct Signal {
    name: String,
    unit: String,
}

impl Names {
    /// One of the tables that are compiled in; a test proves that they parse.
    pub fn load(table: &str) -> Names {
        let entries = toml::from_str::<MapFile>(table).map(|file| file.map).unwrap_or_default();
        let signals = CANONICAL.iter().filter_map(|text| toml::from_str::<SignalFile>(text).ok());
        Names {
            map: entries.into_iter().map(|entry| (entry.source.clone(), entry)).collect(),
            units: signals.flat_map(|file| file.signal).map(|signal| (signal.name, signal.unit)).collect(),
        }
    }

    /// Name, unit and conversion of a source metric; itself without a unit where the table does not know it.
    pub fn resolve(&self, source: &str) -> (String, String, Convert) {
        let written = source.trim();
        let key = if written.starts_with("rate(") { format!("i{written}") } else { written.to_owned() };
        match self.map.get(&key) {
            Some(entry) => {
                let unit = self.units.get(&entry.signal).cloned().unwrap_or_default();
                (entry.signal.clone(), unit, Convert { factor: entry.factor, offset: entry.offset })
            }
            None => (source.to_owned(), String::new(), Convert::KEEP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_leads_to_a_signal_of_the_tables() {
        for (table, least) in [(DBOT, 20), (DBSHERLOCK, 10)] {
            let names = Names::load(table);
            assert!(names.map.len() >= least, "the table parses");
            for entry in names.map.values() {
                assert!(names.units.contains_key(&entry.signal), "{} is no canonical signal", entry.signal);
            }
        }
    }

    #[test]
    fn used_space_becomes_free_space_and_strangers_keep_their_name() {
        let names = Names::load(DBOT);
        let (name, unit, convert) = names.resolve("1-(node_filesystem_free_bytes");
        assert_eq!((name.as_str(), unit.as_str(), convert.apply(0.25)), ("node_filesystem_avail_ratio", "ratio", 0.75));
        assert_eq!(names.resolve("rate(node_disk_read_bytes_total").0, "node_disk_read_bytes_rate");
        assert_eq!(names.resolve("node_entropy"), ("node_entropy".into(), String::new(), Convert::KEEP));
    }
}
