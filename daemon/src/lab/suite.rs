//! Suites: which scenarios are recorded together, as data files.

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::files;
use super::scenario::{Fault, Scenario};
use super::script::Parameters;

/// A suite as its file describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// One line for people.
    pub title: String,
    /// Scenarios as `SCHEMA/NAME`; `*` stands for any text.
    #[serde(default)]
    pub scenarios: Vec<String>,
    /// Those that the patterns above name but that stay out.
    #[serde(default)]
    pub except: Vec<String>,
    /// Scenarios with parameters of their own.
    #[serde(default)]
    pub cases: Vec<SuiteCase>,
}

/// A scenario with parameters that differ from its defaults.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteCase {
    /// Name of the scenario.
    pub scenario: String,
    /// Values by name.
    pub parameters: Parameters,
}

impl Suite {
    /// An embedded suite, or one from a `.toml` file.
    pub fn load(name: &str) -> anyhow::Result<Suite> {
        let known = files::suites();
        let text = match known.iter().find(|(stem, _)| *stem == name) {
            Some((_, text)) => (*text).to_owned(),
            None if name.ends_with(".toml") => std::fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?,
            None => {
                let names: Vec<&str> = known.iter().map(|(stem, _)| *stem).collect();
                bail!("no suite `{}`: use the path of a .toml file or one of {}", name.escape_debug(), names.join(", "))
            }
        };
        toml::from_str(&text).with_context(|| format!("in the suite {name}"))
    }

    /// Every embedded suite by name.
    pub fn list() -> anyhow::Result<Vec<(String, Suite)>> {
        files::suites().into_iter().map(|(name, _)| Ok((name.to_owned(), Suite::load(name)?))).collect()
    }

    /// Scenarios and their parameters. Fails on a pattern that names nothing.
    pub fn expand(&self) -> anyhow::Result<Vec<(Scenario, Parameters)>> {
        let all = Scenario::list()?;
        let path = |fault: &Fault| format!("{}/{}", fault.schema, fault.name);
        if let Some(idle) =
            self.scenarios.iter().chain(&self.except).find(|pattern| !all.iter().any(|fault| matches(pattern, &path(fault))))
        {
            bail!("no scenario is named `{}`; `galen lab list` shows them all as SCHEMA and NAME", idle.escape_debug());
        }
        let wanted = |fault: &&Fault| {
            let named = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, &path(fault)));
            named(&self.scenarios) && !named(&self.except)
        };
        let mut cases: Vec<(String, Parameters)> = all.iter().filter(wanted).map(|fault| (fault.name.clone(), Parameters::new())).collect();
        cases.extend(self.cases.iter().map(|case| (case.scenario.clone(), case.parameters.clone())));
        cases
            .into_iter()
            .map(|(name, parameters)| {
                let scenario = Scenario::load(&name)?;
                scenario.fault.script(&parameters)?;
                Ok((scenario, parameters))
            })
            .collect()
    }
}

/// True when a text fits a pattern in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            let starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            starts.into_iter().any(|at| matches(tail, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_people_expect() {
        for (pattern, text, wanted) in [
            ("*", "shop/x", true),
            ("shop/*", "shop/x", true),
            ("*/healthy*", "queue/healthy_2", true),
            ("shop/a", "shop/ab", false),
            ("q*z", "qxyz", true),
        ] {
            assert_eq!(matches(pattern, text), wanted, "{pattern} {text}");
        }
    }

    #[test]
    fn a_suite_with_a_variant_has_the_scenario_it_comes_from() {
        for name in ["robustness", "all"] {
            let faults: Vec<Fault> = Suite::load(name).unwrap().expand().unwrap().into_iter().map(|(it, _)| it.fault).collect();
            let variants: Vec<&String> = faults.iter().filter_map(|fault| fault.variant_of.as_ref()).collect();
            assert!(variants.len() >= 10, "{name}");
            for base in variants {
                assert!(faults.iter().any(|fault| fault.name == *base), "{name}: {base}");
            }
        }
    }

    #[test]
    fn every_suite_names_scenarios_that_exist() {
        let suites = Suite::list().unwrap();
        assert!(suites.iter().any(|(name, _)| name == "quick") && suites.iter().any(|(name, _)| name == "all"));
        for (name, suite) in suites {
            assert!(!suite.expand().unwrap().is_empty(), "{name}");
        }
        let missing = Suite { title: String::new(), scenarios: vec!["shop/nothing_like_it".into()], except: vec![], cases: vec![] };
        assert!(missing.expand().unwrap_err().to_string().contains("nothing_like_it"));
    }
}
