//! Typed questions over labelled captures put to a model: the right option's probability, its prior removed.

use std::collections::HashMap;
use std::path::PathBuf;

use galen_agents::driver::{Options, diagnose};
use galen_agents::evaluation::question::{Question, questions};
use galen_agents::llm::{LlmError, Prior, Provider, ballot, prior};
use galen_tools::probe::Recorded;
use galen_tools::store::file;

use super::suite::{Suite, Which, answer};
use crate::cli::Global;
use crate::engine;
use crate::failure::Failure;

/// Questions of all captures below some paths. A capture that cannot be used costs a line.
///
/// # Errors
/// Input: no capture gives a question.
pub async fn collect(global: &Global, paths: &[PathBuf], labels_from_names: bool, which: Which) -> Result<Vec<Question>, Failure> {
    let library = engine::library(&global.load()?.data_dir)?;
    let options = Options { replay: true, ..Options::default() };
    let mut all = Vec::new();
    for path in paths {
        let mut suite = Suite::open(path, labels_from_names)?;
        suite.keep(which);
        for case in &suite.cases {
            let mut capture = match file::read(&case.path) {
                Ok(capture) => capture,
                Err(error) => {
                    eprintln!("galen: {error}");
                    continue;
                }
            };
            let labels = std::mem::take(&mut capture.manifest.labels);
            match answer(case, &labels, &|id| id == "healthy" || library.catalog.get(id).is_some()) {
                Err(why) => eprintln!("galen: {}: {why}", case.id),
                Ok(right) => {
                    let diagnosis = diagnose(&capture, &library, &Recorded(&capture), None, &options, &|_| {}).await;
                    all.extend(questions(&case.id, &diagnosis, &right.causes, &library.catalog));
                }
            }
        }
    }
    if all.is_empty() {
        return Err(Failure::input("none of these captures gives a question: they need labels whose causes were tested"));
    }
    Ok(all)
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
