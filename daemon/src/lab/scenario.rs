//! Scenario files: a schema, a steady load, and one file per fault, embedded in the binary or read from disk.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use galen_tools::model::CulpritKind;
use serde::{Deserialize, Serialize};

use super::cluster::{Cluster, connect};
use super::fault::Parameters;
use super::load::ClientSpec;

const SCHEMA: &str = include_str!("../../../examples/lab/shop/schema.sql");
const BASELINE: &str = include_str!("../../../examples/lab/shop/baseline.toml");

macro_rules! faults {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../examples/lab/shop/", $name, ".toml")))),*]
    };
}

/// Every embedded fault, by name.
const FAULTS: &[(&str, &str)] = faults![
    "missing_index",
    "stale_statistics",
    "poor_join",
    "correlated_subquery",
    "large_result_fetch",
    "concurrent_inserts",
    "bulk_insert",
    "concurrent_updates",
    "bulk_delete",
    "redundant_indexes",
    "workload_spike",
    "blocking_transaction",
    "idle_in_transaction",
    "ddl_lock_queue",
    "deadlocks",
    "connection_exhaustion",
    "connection_churn",
    "vacuum_blocked",
    "work_mem_spill",
    "cpu_contention",
    "error_storm",
    "healthy",
];

/// The shop, its steady load, and what goes wrong in it.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// SQL that makes and fills the tables.
    pub schema: &'static str,
    /// Clients of the steady load.
    pub baseline: Vec<ClientSpec>,
    /// What goes wrong.
    pub fault: Fault,
}

/// A fault as its file describes it.
#[derive(Debug, Clone, Serialize)]
pub struct Fault {
    /// Name of the fault: the file's stem.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// Ids of the root causes a diagnosis should find, most important first.
    pub causes: Vec<String>,
    /// Whole numbers that `${name}` stands for in the file, with their defaults.
    pub parameters: Parameters,
    /// What a diagnosis should point at.
    pub culprits: Vec<ExpectedCulprit>,
    #[serde(skip)]
    body: toml::Table,
}

/// Something a diagnosis should point at.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedCulprit {
    /// What kind of thing.
    pub kind: CulpritKind,
    /// Part of its id or text, case ignored.
    pub pattern: String,
}

/// What a fault does, its parameters filled in.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// Statements as superuser before the clients start.
    pub setup: Vec<String>,
    /// Clients that run beside the baseline.
    pub clients: Vec<ClientSpec>,
    /// Busy processes outside the database.
    pub busy: u32,
    /// Statements as superuser after the clients have stopped.
    pub teardown: Vec<String>,
}

#[derive(Deserialize)]
struct Head {
    name: String,
    title: String,
    causes: Vec<String>,
    #[serde(default)]
    parameters: Parameters,
    #[serde(default)]
    culprits: Vec<ExpectedCulprit>,
    #[serde(flatten)]
    body: toml::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Baseline {
    clients: Vec<ClientSpec>,
}

impl Scenario {
    /// Every embedded fault, in the order of the catalog.
    pub fn list() -> anyhow::Result<Vec<Fault>> {
        FAULTS.iter().map(|(name, text)| Fault::parse(text).with_context(|| format!("in {name}.toml"))).collect()
    }

    /// The shop with an embedded fault, or with one from a `.toml` file.
    pub fn load(name: &str) -> anyhow::Result<Scenario> {
        let fault = match FAULTS.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Fault::parse(text),
            None if name.ends_with(".toml") => Fault::read(Path::new(name)),
            None => {
                let known: Vec<&str> = FAULTS.iter().map(|(known, _)| *known).collect();
                bail!("no fault `{}`: use the path of a .toml file or one of {}", name.escape_debug(), known.join(", "))
            }
        };
        let fault = fault.with_context(|| format!("in the fault {name}"))?;
        let baseline: Baseline = toml::from_str(BASELINE).context("in baseline.toml")?;
        Ok(Scenario { schema: SCHEMA, baseline: baseline.clients, fault })
    }

    /// Makes and fills the tables, unless the cluster has them already.
    pub async fn prepare(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let shop = connect(&cluster.dsn_shop()).await?;
        if shop.query_one("SELECT to_regclass('orders') IS NOT NULL", &[]).await?.get(0) {
            return Ok(());
        }
        shop.batch_execute(self.schema).await.context("cannot load the shop's schema")?;
        shop.batch_execute("VACUUM (ANALYZE)").await?;
        cluster.admin().await?.batch_execute("CHECKPOINT").await?;
        Ok(())
    }
}

impl Fault {
    /// Reads a fault from a file of the user's own.
    fn read(path: &Path) -> anyhow::Result<Fault> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Fault::parse(&text)
    }

    fn parse(text: &str) -> anyhow::Result<Fault> {
        let Head { name, title, causes, parameters, culprits, body } = toml::from_str(text)?;
        let fault = Fault { name, title, causes, parameters, culprits, body };
        fault.script(&BTreeMap::new())?;
        Ok(fault)
    }

    /// The script with `given` parameters in place of their defaults. Fails on one the fault does not have.
    pub fn script(&self, given: &Parameters) -> anyhow::Result<Script> {
        if let Some(unknown) = given.keys().find(|key| !self.parameters.contains_key(*key)) {
            let known: Vec<&str> = self.parameters.keys().map(String::as_str).collect();
            bail!("the fault {} has no parameter `{}`; it has: {}", self.name, unknown.escape_debug(), known.join(", "));
        }
        let mut values = self.parameters.clone();
        values.extend(given.iter().map(|(key, value)| (key.clone(), *value)));
        let mut body = toml::Value::Table(self.body.clone());
        fill(&mut body, &values)?;
        Ok(body.try_into()?)
    }
}

/// Puts parameters in the place of `${name}`; a text that is nothing else becomes a number.
fn fill(value: &mut toml::Value, parameters: &Parameters) -> anyhow::Result<()> {
    match value {
        toml::Value::Array(items) => items.iter_mut().try_for_each(|item| fill(item, parameters)),
        toml::Value::Table(table) => table.iter_mut().try_for_each(|(_, item)| fill(item, parameters)),
        toml::Value::String(text) => {
            let alone = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
            if let Some(number) = alone.and_then(|name| parameters.get(name)) {
                *value = toml::Value::Integer(*number);
                return Ok(());
            }
            for (name, number) in parameters {
                *text = text.replace(&format!("${{{name}}}"), &number.to_string());
            }
            match text.contains("${") {
                true => bail!("`{text}` uses a parameter that the file does not declare"),
                false => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_file_is_embedded_and_parses() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/lab/shop");
        let mut stems: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".toml").map(str::to_owned))
            .filter(|stem| stem != "baseline")
            .collect();
        stems.sort();
        let mut names: Vec<String> = Scenario::list().unwrap().into_iter().map(|fault| fault.name).collect();
        names.sort();
        assert_eq!(stems, names);
    }

    #[test]
    fn nothing_a_database_shows_gives_the_fault_away() {
        for fault in Scenario::list().unwrap() {
            let script = format!("{:?}", fault.script(&BTreeMap::new()).unwrap()).to_lowercase();
            assert!(!script.contains(&fault.name), "{}", fault.name);
            assert!(!script.contains("anomaly") && !script.contains("galen"), "{}", fault.name);
        }
    }

    #[test]
    fn parameters_reach_the_script_and_unknown_ones_are_refused() {
        let fault = Scenario::load("concurrent_updates").unwrap().fault;
        let given = BTreeMap::from([("clients".to_owned(), 7)]);
        assert_eq!(fault.script(&given).unwrap().clients[0].count, 7);
        let error = fault.script(&BTreeMap::from([("cleints".to_owned(), 7)])).unwrap_err().to_string();
        assert!(error.contains("cleints") && error.contains("clients"), "{error}");
        assert!(Scenario::load("no_such").unwrap_err().to_string().contains("missing_index"));
    }
}
