//! Causal signatures: what the signals do under a cause, learnt from labelled captures and kept as a data file.
//!
//! A signature is the mean effect of a class on every signal (`effects.rs`), after the causal models of DBSherlock (Yoon, Niu and
//! Mozafari, SIGMOD 2016), with effects in place of predicates: merging the cases of a class is averaging. `learn.rs` estimates
//! them, `unmix.rs` tells which classes explain an incident and whether any does, `consult.rs` brings both into a diagnosis.

mod consult;
pub mod effects;
pub mod learn;
#[cfg(test)]
mod tests;
mod unmix;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use consult::{TOOL, extend, observe, slug};
pub use effects::{Effects, Moved, moved};
pub use learn::{Case, learn as learn_from};
pub use unmix::Match;

/// Version of the file.
const FORMAT: u32 = 1;
/// Largest file that is read, bytes.
const MOST_BYTES: u64 = 64 << 20;

/// Learnt signatures, as their TOML file says them. Unknown keys fail.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signatures {
    /// Version of the file.
    pub format: u32,
    /// Version of Galen that learnt them: the detector decides which stretch of a capture is learnt from.
    pub galen_version: String,
    /// Name of the data set and the half of it that was learnt from.
    pub source: String,
    /// An incident whose best explanation leaves more than this share unexplained is unlike everything learnt, 0..1.
    pub novel_above: f64,
    /// The same for an incident of which only the first seconds were seen.
    pub novel_above_onset: f64,
    /// Spread of the effects within the classes by signal: over the whole anomaly and over its first seconds.
    pub spread: BTreeMap<String, [f64; 2]>,
    /// The classes.
    pub class: Vec<Signature>,
}

/// The signature of one class.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Name: the label of its cases.
    pub name: String,
    /// Causes of the catalog that it stands for, the first is named; empty for a class that the catalog does not know.
    #[serde(default)]
    pub causes: Vec<String>,
    /// Cases it was learnt from.
    pub cases: usize,
    /// Likelihood ratios of a match and of a mismatch, measured by leaving each case out.
    pub ratio: [f64; 2],
    /// Mean effects over the whole anomaly by signal, -1..1.
    pub effects: Effects,
    /// Mean effects over the first seconds.
    pub onset: Effects,
}

impl Signatures {
    /// True when nothing was learnt.
    pub fn is_empty(&self) -> bool {
        self.class.is_empty()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// One line: the file and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, String> {
        let fail = |e: &dyn std::fmt::Display| format!("{}: {}", path.display(), e.to_string().trim().replace('\n', " "));
        if std::fs::metadata(path).map_err(|e| fail(&e))?.len() > MOST_BYTES {
            return Err(fail(&"too large for a file of signatures"));
        }
        let text = std::fs::read_to_string(path).map_err(|e| fail(&e))?;
        let read: Self = toml::from_str(&text).map_err(|e| fail(&e))?;
        read.check().map_err(|e| fail(&e))?;
        Ok(read)
    }

    /// The text of the file; the same signatures give the same text.
    ///
    /// # Errors
    /// One line from the serialiser.
    pub fn to_toml(&self) -> Result<String, String> {
        toml::to_string(self).map_err(|e| e.to_string())
    }

    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("format {} is not {FORMAT}; learn again with `galen learn`", self.format));
        }
        let share = |v: f64| (0.0..=1.0).contains(&v);
        if !share(self.novel_above) || !share(self.novel_above_onset) {
            return Err("novel_above is not between 0 and 1".into());
        }
        let mut slugs = std::collections::BTreeSet::new();
        for class in &self.class {
            let effects = class.effects.values().chain(class.onset.values());
            if effects.into_iter().any(|e| !(-1.0..=1.0).contains(e)) {
                return Err(format!("{:?} has an effect that is not between -1 and 1", class.name));
            }
            let [up, down] = class.ratio;
            if !((1.0..=1e4).contains(&up) && down > 0.0 && down <= 1.0) {
                return Err(format!("{:?}: ratio must be [at least 1, over 0 and at most 1]", class.name));
            }
            if slug(&class.name).is_empty() || !slugs.insert(slug(&class.name)) {
                return Err(format!("{:?} is no name of a class, or is there twice", class.name));
            }
        }
        if self.spread.values().flatten().any(|s| !(s.is_finite() && *s >= 0.0)) {
            return Err("a spread is not a number of 0 or more".into());
        }
        Ok(())
    }
}
