//! The truth about a recorded run, kept beside its capture: what was injected, when, and what a diagnosis should find.

use std::path::{Path, PathBuf};

use galen_tools::model::Window;
use serde::{Deserialize, Serialize};

use super::load::LoadReport;
use super::run::{Phases, Run};
use super::scenario::{ExpectedCulprit, Scenario};
use super::script::Parameters;

/// What was true of a run. Written as `NAME.answer.json` beside `NAME.galen`; nothing that diagnoses opens it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Name of the fault.
    pub scenario: String,
    /// Name of the schema.
    pub schema: String,
    /// One line for people.
    pub title: String,
    /// Root causes a diagnosis should find, most important first; `healthy` alone when nothing is wrong.
    pub causes: Vec<String>,
    /// What it should point at.
    pub culprits: Vec<ExpectedCulprit>,
    /// Parameters of the fault, defaults included.
    pub parameters: Parameters,
    /// Lengths of the phases.
    pub phases: Phases,
    /// Seed of the clients' random numbers.
    pub seed: u64,
    /// When the fault was at work; none when nothing is wrong.
    pub window: Option<Window>,
    /// `server_version_num`.
    pub server_version_num: i32,
    /// Version of Galen that ran it.
    pub galen_version: String,
    /// What the steady clients did over all phases: a load that failed throughout makes a poor case.
    pub steady: Done,
    /// What the fault's clients did.
    pub fault: Done,
}

/// Counts of a load.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Statements that succeeded.
    pub statements: u64,
    /// Statements and connections that failed.
    pub errors: u64,
    /// Rows read by the clients.
    pub rows: u64,
    /// Text of the last error.
    pub last_error: Option<String>,
}

impl From<LoadReport> for Done {
    fn from(report: LoadReport) -> Self {
        Self { statements: report.statements, errors: report.errors, rows: report.rows, last_error: report.last_error }
    }
}

impl Answer {
    pub(super) fn new(
        scenario: &Scenario,
        run: &Run,
        window: Option<Window>,
        server_version_num: i32,
        (steady, fault): (LoadReport, LoadReport),
    ) -> Answer {
        let mut parameters = scenario.fault.parameters.clone();
        parameters.extend(run.parameters.iter().map(|(key, value)| (key.clone(), *value)));
        Answer {
            scenario: scenario.fault.name.clone(),
            schema: scenario.schema.name.clone(),
            title: scenario.fault.title.clone(),
            causes: scenario.fault.causes.clone(),
            culprits: scenario.fault.culprits.clone(),
            parameters,
            phases: run.phases,
            seed: run.seed,
            window,
            server_version_num,
            galen_version: env!("CARGO_PKG_VERSION").to_owned(),
            steady: steady.into(),
            fault: fault.into(),
        }
    }

    /// Where the answer of a capture stands.
    pub fn path(capture: &Path) -> PathBuf {
        capture.with_extension("answer.json")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use galen_tools::model::CulpritKind;

    #[test]
    fn what_the_lab_writes_is_an_answer_to_the_benchmarks() {
        let phases = Phases { baseline: Duration::from_secs(40), anomaly: Duration::from_secs(20), ..Phases::default() };
        let written = Answer {
            scenario: "missing_index".into(),
            schema: "shop".into(),
            title: "An index is dropped".into(),
            causes: vec!["missing_index".into()],
            culprits: vec![ExpectedCulprit { kind: CulpritKind::Table, pattern: "orders".into() }],
            parameters: Parameters::new(),
            phases,
            seed: 1,
            window: Some(Window { start: 40_000, end: 60_000 }),
            server_version_num: 150_020,
            galen_version: "0".into(),
            steady: Done::default(),
            fault: Done::default(),
        };
        let text = serde_json::to_string(&written).unwrap();
        let read: galen_agents::evaluation::record::Answer = serde_json::from_str(&text).unwrap();
        assert_eq!((read.causes, read.window), (written.causes, written.window));
        assert_eq!(read.culprits[0].pattern, "orders");
    }
}
