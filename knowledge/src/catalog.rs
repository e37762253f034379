//! The catalog: all causes, shipped ones embedded and users' own read from a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::cause::Cause;
use crate::error::KnowledgeError;
use crate::graph::CauseGraph;
use crate::prepared::Prepared;

include!(concat!(env!("OUT_DIR"), "/causes.rs"));

/// All causes by id.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    causes: BTreeMap<String, Cause>,
    prepared: Arc<Prepared>,
    clusters: Arc<OnceLock<Clusters>>,
}

/// Signals by domain.
type Clusters = BTreeMap<String, BTreeSet<String>>;

impl PartialEq for Catalog {
    fn eq(&self, other: &Self) -> bool {
        self.causes == other.causes
    }
}

impl Catalog {
    /// The causes that ship with Galen.
    ///
    /// # Errors
    /// A file of ours that does not parse: a fault that the tests would have caught.
    pub fn builtin() -> Result<Self, KnowledgeError> {
        let mut catalog = Self::default();
        for (file, text) in CAUSE_FILES {
            catalog.add(Cause::parse(file, text)?);
        }
        Ok(catalog)
    }

    /// Adds or replaces the causes of every `*.toml` in a folder.
    ///
    /// # Errors
    /// The first file that cannot be read or parsed.
    pub fn extend_from(&mut self, folder: &Path) -> Result<(), KnowledgeError> {
        let fail = |file: &Path, e: std::io::Error| KnowledgeError { file: file.display().to_string(), message: e.to_string() };
        let entries = std::fs::read_dir(folder).map_err(|e| fail(folder, e))?;
        let mut files: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        files.sort();
        for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "toml")) {
            let text = std::fs::read_to_string(file).map_err(|e| fail(file, e))?;
            self.add(Cause::parse(&file.display().to_string(), &text)?);
        }
        Ok(())
    }

    /// Adds or replaces one cause.
    pub fn add(&mut self, cause: Cause) {
        Arc::make_mut(&mut self.prepared).add(&cause);
        self.causes.insert(cause.id.clone(), cause);
        self.clusters = Arc::default();
    }

    /// The signals of each domain's cluster of the cause graph: those that move with its causes. Made when first asked for.
    pub fn clusters(&self) -> &BTreeMap<String, BTreeSet<String>> {
        self.clusters.get_or_init(|| {
            let graph = CauseGraph::new(self);
            let owned = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect();
            let of = |domain: &str| (domain.to_owned(), owned(graph.cluster(&|d| d == domain).signals));
            self.iter().map(|cause| cause.domain.as_str()).collect::<BTreeSet<_>>().into_iter().map(of).collect()
        })
    }

    /// Its conditions and sentences, parsed.
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// A cause by id.
    pub fn get(&self, id: &str) -> Option<&Cause> {
        self.causes.get(id)
    }

    /// All causes in order of id.
    pub fn iter(&self) -> impl Iterator<Item = &Cause> {
        self.causes.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_cause_parses_and_names_only_known_causes() {
        let catalog = Catalog::builtin().unwrap();
        assert!(catalog.iter().count() >= 16);
        for cause in catalog.iter() {
            assert!(!cause.test.is_empty() && !cause.summary.is_empty(), "{}", cause.id);
            assert!(cause.test.iter().all(|t| t.refutes.is_none() || t.denies.is_some()), "{} refutes without a sentence", cause.id);
            assert!(cause.test.iter().any(|t| t.essential), "{} can be named without any essential test", cause.id);
            for other in cause.explains.iter().map(|e| &e.cause).chain(cause.confused_with.iter().map(|c| &c.cause)) {
                assert!(catalog.get(other).is_some(), "{} names unknown cause {other}", cause.id);
            }
        }
    }

    #[test]
    fn causes_explain_each_other_only_under_a_condition() {
        let catalog = Catalog::builtin().unwrap();
        for cause in catalog.iter() {
            for follow in &cause.explains {
                let back = catalog.get(&follow.cause).and_then(|c| c.explains.iter().find(|e| e.cause == cause.id));
                let always = back.is_some_and(|back| back.when.is_none() && follow.when.is_none());
                assert!(!always, "{} and {} explain each other", cause.id, follow.cause);
            }
        }
    }

    #[derive(serde::Deserialize)]
    struct Judged {
        cause: String,
        test: String,
        facts: crate::condition::Facts,
        verdict: String,
        says: Option<String>,
    }

    /// Facts as sentences see them: those of other tools below the tool's name.
    fn shown(facts: &crate::condition::Facts) -> serde_json::Value {
        let mut shown = serde_json::json!({});
        for (name, value) in facts {
            match name.split_once('.') {
                Some((tool, fact)) => shown[tool][fact] = value.clone(),
                None => shown[name] = value.clone(),
            }
        }
        shown
    }

    #[test]
    fn tests_judge_facts_and_say_no_more_than_they_hold() {
        let catalog = Catalog::builtin().unwrap();
        let file: BTreeMap<String, Vec<Judged>> = toml::from_str(include_str!("../testdata/judged.toml")).unwrap();
        for case in &file["case"] {
            let name = format!("{}.{} of {:?}", case.cause, case.test, case.facts);
            let test = catalog.get(&case.cause).unwrap().test.iter().find(|t| t.id == case.test).unwrap();
            let holds = |condition: &str| catalog.prepared().holds(condition, &case.facts) == Some(true);
            let (verdict, template) = match () {
                () if holds(&test.supports) => ("supported", Some(&test.says)),
                () if test.refutes.as_deref().is_some_and(holds) => ("refuted", test.denies.as_ref()),
                () => ("inconclusive", None),
            };
            assert_eq!(verdict, case.verdict, "{name}");
            if let Some(says) = &case.says {
                // Strict as in a report: what names a missing fact cannot be said.
                let told = catalog.prepared().sentences().render(template.unwrap(), shown(&case.facts));
                assert_eq!(told.as_ref(), Ok(says), "{name}");
            }
        }
    }

    #[test]
    fn a_bad_file_names_itself() {
        let error = Cause::parse("x.toml", "id = \"x\"\nnonsense = 1").unwrap_err();
        assert!(error.to_string().starts_with("x.toml: "), "{error}");
    }
}
