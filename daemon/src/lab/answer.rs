//! The truth about a recorded run, kept beside its capture: what was injected, when, and what a diagnosis should find.

use std::path::{Path, PathBuf};

use galen_tools::model::Window;
use serde::{Deserialize, Serialize};

use super::load::LoadReport;
use super::run::{Phases, Run};
use super::scenario::{ExpectedCulprit, Scenario, Tag};
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
    /// The case that this one is a variant of, with the same seed: the stem of its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant_of: Option<String>,
    /// What was changed in the variant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// Digest of the scenario (see [`Scenario::sha256`]); empty in answers that do not say.
    #[serde(default)]
    pub scenario_sha256: String,
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
    /// Digest of the sources that it was built from; empty in answers that do not say.
    #[serde(default)]
    pub sources: String,
    /// What the steady clients did over all phases: a load that failed throughout makes a poor case.
    pub steady: Done,
    /// What the fault's clients did.
    pub fault: Done,
}

/// Counts of a load.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Statements that were sent; 0 in answers that do not say.
    #[serde(default)]
    pub sent: u64,
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
        Self { sent: report.sent, statements: report.statements, errors: report.errors, rows: report.rows, last_error: report.last_error }
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
            variant_of: scenario.fault.variant_of.as_deref().map(|base| run.of_part(base).case(base)),
            tags: scenario.fault.tags.clone(),
            scenario_sha256: scenario.sha256(),
            parameters,
            phases: run.phases,
            seed: run.seed,
            window,
            server_version_num,
            galen_version: env!("CARGO_PKG_VERSION").to_owned(),
            sources: env!("SOURCES_DIGEST").to_owned(),
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

    /// The answer as the benchmarks read it.
    fn read_back(written: &Answer) -> galen_agents::evaluation::record::Answer {
        serde_json::from_str(&serde_json::to_string(written).unwrap()).unwrap()
    }

    fn answer(scenario: &str, run: &Run) -> Answer {
        let window = Some(Window { start: 40_000, end: 60_000 });
        Answer::new(&Scenario::load(scenario).unwrap(), run, window, 150_020, Default::default())
    }

    #[test]
    fn what_the_lab_writes_is_an_answer_to_the_benchmarks() {
        let phases = Phases { baseline: Duration::from_secs(40), anomaly: Duration::from_secs(20), ..Phases::default() };
        let written = answer("missing_index", &Run { phases, seed: 1, ..Run::default() });
        let read = read_back(&written);
        assert_eq!((read.causes, read.window), (written.causes, written.window));
        assert_eq!((read.culprits[1].kind, read.culprits[1].pattern.as_str()), (CulpritKind::Table, "orders"));
        assert_eq!((read.variant_of, read.tags.len()), (None, 0));
    }

    #[test]
    fn an_answer_that_does_not_say_how_much_was_sent_is_read() {
        let mut written = serde_json::to_value(answer("missing_index", &Run::default())).unwrap();
        assert_eq!(written["steady"]["sent"], 0);
        for clients in ["steady", "fault"] {
            written[clients].as_object_mut().unwrap().remove("sent").unwrap();
        }
        assert_eq!(serde_json::from_value::<Answer>(written).unwrap().fault, Done::default());
    }

    #[test]
    fn a_variant_names_the_case_it_comes_from_as_that_is_recorded() {
        let run = Run { seed: 7, ..Run::default() };
        let read = read_back(&answer("missing_index_blind", &run));
        assert_eq!(read.variant_of.as_deref(), Some(run.case("missing_index").as_str()));
        assert_eq!((read.variant_of.as_deref(), read.tags.join(" ").as_str()), (Some("missing_index-7"), "missing_metrics"));
        // With the parameters of the part, and under the name that these give to its case.
        let run = Run { parameters: Parameters::from([("missing_index.clients".to_owned(), 5)]), ..run };
        assert_eq!(read_back(&answer("missing_index_blind", &run)).variant_of.as_deref(), Some("missing_index-clients5-7"));
    }
}
