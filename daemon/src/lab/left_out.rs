//! Causes that no scenario produces, and why: data, so that list, documentation and tests say the same.

use anyhow::Context;
use serde::{Deserialize, Serialize};

const TEXT: &str = include_str!("../../../examples/lab/left_out.toml");

/// A cause of the catalog without a scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// Cause id.
    pub id: String,
    /// Why one machine does not produce it.
    pub why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cause: Vec<LeftOut>,
}

/// All of them, in the order of the file.
pub fn left_out() -> anyhow::Result<Vec<LeftOut>> {
    Ok(toml::from_str::<File>(TEXT).context("in left_out.toml")?.cause)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::lab::Scenario;

    #[test]
    fn each_cause_of_the_catalog_has_a_scenario_or_a_reason_and_none_both() {
        let produced: BTreeSet<String> = Scenario::list().unwrap().into_iter().flat_map(|fault| fault.causes).collect();
        let excused: BTreeSet<String> = left_out().unwrap().into_iter().filter(|it| it.why.len() > 40).map(|it| it.id).collect();
        let catalog: BTreeSet<String> =
            galen_knowledge::catalog::Catalog::builtin().unwrap().iter().map(|cause| cause.id.clone()).chain(["healthy".into()]).collect();
        let together: BTreeSet<String> = produced.union(&excused).cloned().collect();
        assert_eq!(together, catalog);
        assert_eq!(produced.intersection(&excused).collect::<Vec<_>>(), [""; 0]);
    }
}
