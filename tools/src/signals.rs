//! The table of canonical signals: unit, meaning, and what the detector must know of each. Data, not code.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

const FILES: &[&str] =
    &[include_str!("../signals/postgres.toml"), include_str!("../signals/host.toml"), include_str!("../signals/managed.toml")];

/// Which way is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Bad {
    Up,
    Down,
    Both,
}

/// What is known of a signal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalSpec {
    /// Name without labels.
    pub name: String,
    /// Unit of its values.
    pub unit: String,
    /// One line for people.
    pub help: String,
    /// Signals of one family move together: two of them are one witness.
    pub family: String,
    /// Which way is bad.
    pub bad: Bad,
    /// Least spread assumed, in the unit: no baseline is as quiet as it looks.
    pub floor: f64,
    /// Least spread assumed, as a share of the baseline's median.
    pub relative_floor: f64,
    /// Changes smaller than this are of no interest, in the unit.
    pub min_effect: f64,
    /// Abnormal from this value on (or down from it where down is bad), whatever the baseline.
    #[serde(default)]
    pub limit: Option<f64>,
    /// May open an incident by itself.
    #[serde(default)]
    pub triggers: bool,
    /// For rates of what should hardly ever happen: this many within a minute are an incident, however short each is and
    /// whatever the baseline.
    #[serde(default)]
    pub grave: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    signal: Vec<SignalSpec>,
}

/// All known signals.
#[derive(Debug, Clone)]
pub struct SignalTable {
    specs: BTreeMap<String, SignalSpec>,
    unknown: SignalSpec,
}

impl Default for SignalTable {
    fn default() -> Self {
        Self::builtin()
    }
}

impl SignalTable {
    /// The signals that ship with Galen.
    pub fn builtin() -> Self {
        let specs = FILES.iter().filter_map(|text| toml::from_str::<File>(text).ok()).flat_map(|f| f.signal);
        let unknown = SignalSpec {
            name: String::new(),
            unit: String::new(),
            help: "a signal that no table describes".into(),
            family: "unknown".into(),
            bad: Bad::Both,
            floor: 1e-9,
            relative_floor: 0.3,
            min_effect: 0.0,
            limit: None,
            triggers: false,
            grave: None,
        };
        Self { specs: specs.map(|spec| (spec.name.clone(), spec)).collect(), unknown }
    }

    /// What is known of a signal, labels in its name or not; a conservative guess when nothing is.
    pub fn lookup(&self, rendered: &str) -> &SignalSpec {
        let bare = rendered.split('{').next().unwrap_or(rendered);
        self.specs.get(bare).unwrap_or(&self.unknown)
    }

    /// All specs in order of name.
    pub fn iter(&self) -> impl Iterator<Item = &SignalSpec> {
        self.specs.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_parse_and_labels_are_ignored() {
        let table = SignalTable::builtin();
        assert!(table.iter().count() > 65, "a file that does not parse would be missing");
        assert_eq!(table.lookup("active_sessions{wait_class=\"Lock\"}").name, "active_sessions");
        assert!(!table.lookup("no_such_thing").triggers);
    }
}
