//! Which recordings teach. Copies of one are told by their series, whatever they are called: what is tested is learnt from under no
//! other name, and nothing counts twice.

use std::collections::{BTreeMap, BTreeSet};

use crate::failure::Failure;

/// The recordings that were read, by their content (`content_sha256`). All are read before the first is learnt from.
#[derive(Debug, Default)]
pub struct Taught(BTreeMap<String, Known>);

/// What is known of the recordings with the same series.
#[derive(Debug, Default)]
struct Known {
    held_back: bool,
    taught: bool,
    /// What each is labelled with, any of which fits it.
    labels: BTreeSet<Vec<String>>,
}

impl Taught {
    /// Takes note of one that is held back for testing.
    pub fn hold_back(&mut self, content: &str) {
        self.0.entry(content.to_owned()).or_default().held_back = true;
    }

    /// Takes note of what one is labelled with: a label, or several that mean the same, the one that is named first.
    pub fn label(&mut self, content: &str, any_of: &[String]) {
        self.0.entry(content.to_owned()).or_default().labels.insert(any_of.to_vec());
    }

    /// True where this recording teaches: for the first that asks, of those of which none is held back.
    ///
    /// # Errors
    /// Input: the labels of copies contradict each other.
    pub fn teaches(&mut self, content: &str) -> Result<bool, Failure> {
        let known = self.0.entry(content.to_owned()).or_default();
        if known.held_back {
            return Ok(false);
        }
        let fits_all = |label: &String| known.labels.iter().all(|others| others.contains(label));
        if known.labels.first().is_some_and(|one| !one.iter().any(fits_all)) {
            let mut labels: Vec<&str> = known.labels.iter().filter_map(|one| Some(one.first()?.as_str())).collect();
            labels.dedup();
            let labels = labels.join(", ").escape_debug().to_string();
            return Err(Failure::input(format!("mislabelled: copies of this recording are labelled `{labels}`")));
        }
        Ok(!std::mem::replace(&mut known.taught, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_copies_the_first_teaches_and_none_that_is_tested_or_contradicted() {
        let mut taught = Taught::default();
        let mut label = |content: &str, any_of: &[&str]| taught.label(content, &any_of.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>());
        for (content, one) in [("a", "x"), ("a", "x"), ("b", "x"), ("c", "x"), ("c", "y")] {
            label(content, &[one]);
        }
        // A class that stands for two causes, a copy labelled with the second, and one that says each of them.
        for content in ["d", "e"] {
            label(content, &["x", "y"]);
            label(content, &["y"]);
        }
        label("e", &["x"]);
        taught.hold_back("b");
        let teaches = ["a", "a", "b"].map(|content| taught.teaches(content));
        assert_eq!(teaches, [Ok(true), Ok(false), Ok(false)]);
        assert_eq!(["d", "d"].map(|content| taught.teaches(content)), [Ok(true), Ok(false)]);
        for content in ["c", "c", "e"] {
            let failure = taught.teaches(content).unwrap_err();
            assert!(failure.code == 5 && failure.message.contains("`x, y`"), "{failure}");
        }
    }
}
