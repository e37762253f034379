//! Typed questions over labelled captures put to a model: the right option's probability, its prior removed.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use galen_agents::driver::{Options, diagnose};
use galen_agents::evaluation::question::{Known, Question, questions};
use galen_agents::llm::{LlmError, Prior, Provider, ballot, prior};
use galen_tools::capture::Capture;
use galen_tools::model::{Culprit, CulpritKind};
use galen_tools::probe::Recorded;
use galen_tools::store::file;

use super::copies::{Copies, content};
use super::suite::{Suite, Which, answer};
use crate::cli::Global;
use crate::failure::{Failure, LeftOut};
use crate::{engine, output};

/// What is asked, and what nothing is asked about.
#[derive(Default)]
pub struct Collected {
    /// Questions, in order of the captures.
    pub questions: Vec<Question>,
    /// Captures of the half that was asked for.
    found: usize,
    left_out: LeftOut,
}

impl Collected {
    fn leave_out(&mut self, failure: Failure) {
        output::tell(&format!("galen: {failure}"));
        self.left_out.add(&failure);
    }

    /// How a command that asked them ends.
    ///
    /// # Errors
    /// Captures could not be used; with the gravest exit code among them.
    pub fn end(&self) -> Result<(), Failure> {
        self.left_out.end(self.found, "captures could not be used")
    }
}

/// Questions of all captures below some paths. A capture that cannot be used, or is a copy of one before it, costs a line and the
/// exit code.
///
/// # Errors
/// Input: no capture gives a question.
pub async fn collect(global: &Global, paths: &[PathBuf], labels_from_names: bool, which: Which) -> Result<Collected, Failure> {
    let library = engine::library(&global.load()?)?;
    let options = Options { replay: true, ..Options::default() };
    let (mut all, mut copies) = (Collected::default(), Copies::default());
    for path in paths {
        let mut suite = Suite::open(path, labels_from_names)?;
        suite.keep(which);
        for case in &suite.cases {
            all.found += 1;
            let mut capture = match file::read(&case.path) {
                Ok(capture) => capture,
                Err(error) => {
                    all.leave_out(error.into());
                    continue;
                }
            };
            let labels = std::mem::take(&mut capture.manifest.labels);
            match answer(case, &labels, &|id| id == "healthy" || library.catalog.get(id).is_some()) {
                Err(why) => all.leave_out(Failure::input(why).of(&case.path)),
                Ok(right) => {
                    // By their paths: each folder has ids of its own.
                    if let Some(why) = copies.twin(content(&capture), &case.path.display().to_string()) {
                        all.leave_out(Failure::input(format!("{}: {why}", case.path.display())));
                        continue;
                    }
                    let diagnosis = diagnose(&capture, &library, &Recorded(&capture), None, &options, &|_| {}).await;
                    let known = Known { case: &case.id, labels: &right.causes, culprits: &right.culprits, objects: &objects(&capture) };
                    all.questions.extend(questions(known, &diagnosis, &library.catalog));
                }
            }
        }
    }
    if all.questions.is_empty() {
        return Err(Failure::input("none of these captures gives a question: they need labels whose causes were tested"));
    }
    Ok(all)
}

/// What a diagnosis of a capture could point at: its tables, indexes and statements, each once.
fn objects(capture: &Capture) -> Vec<Culprit> {
    let names = |kind, names: BTreeSet<&String>| {
        names.into_iter().map(move |name| Culprit { kind, id: name.clone(), text: String::new() }).collect::<Vec<_>>()
    };
    let mut all = names(CulpritKind::Table, capture.tables.iter().map(|t| &t.table).collect());
    all.extend(names(CulpritKind::Index, capture.indexes.iter().map(|i| &i.index).collect()));
    all.extend(capture.texts.iter().map(|(id, text)| Culprit { kind: CulpritKind::Query, id: id.to_string(), text: text.clone() }));
    all
}

/// Asks questions of one model; what it answers to the same options when told nothing is asked once.
pub struct Asker<'p> {
    provider: &'p dyn Provider,
    priors: HashMap<Vec<String>, Prior>,
}

impl<'p> Asker<'p> {
    /// An asker for a model.
    pub fn new(provider: &'p dyn Provider) -> Self {
        Self { provider, priors: HashMap::new() }
    }

    /// One probability for each option, in two orders, the prior removed.
    ///
    /// # Errors
    /// What the provider says.
    pub async fn ask(&mut self, question: &Question) -> Result<Vec<f64>, LlmError> {
        if !self.priors.contains_key(&question.options) {
            let told_nothing = prior(self.provider, "bench", &question.options).await?;
            self.priors.insert(question.options.clone(), told_nothing);
        }
        let Some(told_nothing) = self.priors.get(&question.options) else {
            return Err(LlmError::Invalid("no prior".into()));
        };
        let answer = ballot(self.provider, "bench", &question.shared, &question.text, &question.options, told_nothing).await?;
        Ok(answer.probabilities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_used_is_in_the_exit_code_and_a_copy_is_not_asked_about() {
        let folder = tempfile::tempdir().unwrap();
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/captures/missing_index.galen");
        let captures = folder.path().join("captures");
        std::fs::create_dir(&captures).unwrap();
        let at = |name: &str| captures.join(name).with_extension("galen");
        std::fs::copy(example, at("missing_index")).unwrap();
        let global = Global { json: false, data_dir: Some(folder.path().to_owned()), config: None, vram: None };
        let paths = [captures.clone()];
        let whole = collect(&global, &paths, true, Which::All).await.unwrap();
        assert!(whole.end().is_ok() && !whole.questions.is_empty());
        std::fs::write(at("broken"), "no capture").unwrap();
        std::fs::copy(example, at("no_cause_id")).unwrap();
        std::fs::copy(example, at("twin")).unwrap();
        std::fs::write(at("twin").with_extension("answer.json"), r#"{"causes":["missing_index"]}"#).unwrap();
        let rest = collect(&global, &paths, true, Which::All).await.unwrap();
        assert_eq!(rest.questions.len(), whole.questions.len());
        let failure = rest.end().unwrap_err();
        assert!(failure.code == 5 && failure.message.starts_with("3 of 4 captures could not be used"), "{failure}");
    }
}
