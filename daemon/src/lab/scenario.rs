//! Scenarios: a schema, a steady load, and one fault, embedded in the binary or read from disk.

use std::path::Path;

use anyhow::{Context, bail};
use galen_tools::model::CulpritKind;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cluster::{Cluster, ClusterOptions, connect};
use super::files;
use super::load::ClientSpec;
use super::script::{Parameters, Script, Without};

/// A schema, its steady load, and what goes wrong in it.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Tables, rows and the steady load.
    pub schema: Schema,
    /// What goes wrong.
    pub fault: Fault,
}

/// A database that the lab can make.
#[derive(Debug, Clone)]
pub struct Schema {
    /// Name of the schema's folder, of the database, and of the role that owns it.
    pub name: String,
    /// SQL that makes and fills the tables.
    pub sql: String,
    /// Clients of the steady load.
    pub baseline: Vec<ClientSpec>,
}

/// A fault as its file describes it.
#[derive(Debug, Clone, Serialize)]
pub struct Fault {
    /// Name of the fault: the file's stem.
    pub name: String,
    /// Name of the schema it is made for.
    pub schema: String,
    /// One line for people.
    pub title: String,
    /// Ids of the root causes a diagnosis should find, most important first.
    pub causes: Vec<String>,
    /// Whole numbers that `${name}` stands for in the file, with their defaults.
    pub parameters: Parameters,
    /// What a diagnosis should point at.
    pub culprits: Vec<ExpectedCulprit>,
    /// The scenario of the same schema and causes that this one is a variant of, with something missing or added.
    pub variant_of: Option<String>,
    /// What was changed in it; nothing unless it is a variant.
    pub tags: Vec<Tag>,
    /// Faults that happen together with what this file adds.
    #[serde(skip)]
    includes: Vec<Fault>,
    #[serde(skip)]
    body: toml::Table,
}

/// What makes a variant harder than the scenario it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tag {
    /// The collector sees less.
    MissingMetrics,
    /// Something else changes at the same time and does no harm.
    RedHerring,
    /// The ordinary day is restless.
    Noise,
}

/// Something a diagnosis should point at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedCulprit {
    /// What kind of thing.
    pub kind: CulpritKind,
    /// Part of its id or text, case ignored.
    pub pattern: String,
}

#[derive(Deserialize)]
struct Head {
    name: String,
    title: String,
    #[serde(default)]
    causes: Vec<String>,
    #[serde(default)]
    includes: Vec<String>,
    #[serde(default)]
    parameters: Parameters,
    #[serde(default)]
    culprits: Vec<ExpectedCulprit>,
    variant_of: Option<String>,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(flatten)]
    body: toml::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Baseline {
    clients: Vec<ClientSpec>,
}

impl Schema {
    /// An embedded schema.
    pub fn load(name: &str) -> anyhow::Result<Schema> {
        let read =
            |file: &str| files::text(&format!("{name}/{file}")).with_context(|| format!("there is no schema `{}`", name.escape_debug()));
        let baseline: Baseline = toml::from_str(read("baseline.toml")?).with_context(|| format!("in {name}/baseline.toml"))?;
        Ok(Schema { name: name.to_owned(), sql: read("schema.sql")?.to_owned(), baseline: baseline.clients })
    }
}

impl Scenario {
    /// Every embedded fault: the shop's first, each schema's in order of name.
    pub fn list() -> anyhow::Result<Vec<Fault>> {
        files::faults().into_iter().map(|(schema, name, text)| embedded(schema, name, text)).collect()
    }

    /// An embedded scenario by its name, or one from a `.toml` file, which stands in the shop unless it names another `schema`.
    pub fn load(name: &str) -> anyhow::Result<Scenario> {
        let fault = if name.ends_with(".toml") { Fault::read(Path::new(name))? } else { find(name)? };
        Ok(Scenario { schema: Schema::load(&fault.schema)?, fault })
    }

    /// What the cluster of this scenario has to be.
    pub fn options(&self, parameters: &Parameters) -> anyhow::Result<ClusterOptions> {
        let script = self.fault.script(parameters)?;
        Ok(ClusterOptions {
            database: self.schema.name.clone(),
            settings: script.server.settings.into_iter().collect(),
            standby: script.server.standby,
            volume_mb: script.server.volume_mb,
            next_xid: script.server.next_xid,
            own_network: script.network.is_some(),
            statements: !script.without.contains(&Without::PgStatStatements),
            monitor: !script.without.contains(&Without::PgMonitor),
            ..ClusterOptions::default()
        })
    }

    /// True when it narrows the network: server, clients and collector are then to be in one of their own.
    pub fn narrows_network(&self, parameters: &Parameters) -> bool {
        self.fault.script(parameters).is_ok_and(|script| script.network.is_some())
    }

    /// SHA-256, in hexadecimal digits, of what happens in it: tables, steady load, the fault and those it includes. Parameters
    /// are left as they are written; title and expected culprits count for nothing.
    pub fn sha256(&self) -> String {
        let whole = format!("{:?}", (&self.schema.sql, &self.schema.baseline, self.fault.bodies()));
        Sha256::digest(whole).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Makes and fills the tables, unless the cluster has them already.
    pub async fn prepare(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let app = connect(&cluster.dsn_app()).await?;
        if app.query_one("SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'public')", &[]).await?.get(0) {
            return Ok(());
        }
        app.batch_execute(&self.schema.sql).await.with_context(|| format!("cannot load the schema {}", self.schema.name))?;
        app.batch_execute("VACUUM (ANALYZE)").await?;
        cluster.admin().await?.batch_execute("CHECKPOINT").await?;
        Ok(())
    }
}

fn find(name: &str) -> anyhow::Result<Fault> {
    let known = files::faults();
    // As suites name them, with the schema before the name, or the name alone.
    match known.iter().find(|(schema, stem, _)| *stem == name || name.split_once('/') == Some((schema, stem))) {
        Some((schema, stem, text)) => embedded(schema, stem, text),
        None => {
            let names: Vec<&str> = known.iter().map(|(_, stem, _)| *stem).collect();
            bail!("no fault `{}`: use the path of a .toml file or one of {}", name.escape_debug(), names.join(", "))
        }
    }
}

fn embedded(schema: &str, name: &str, text: &str) -> anyhow::Result<Fault> {
    Fault::parse(schema, text).with_context(|| format!("in {schema}/{name}.toml"))
}

impl Fault {
    /// Reads a fault from a file of the user's own; its `schema` key names one of the lab's schemas.
    fn read(path: &Path) -> anyhow::Result<Fault> {
        let inside = || format!("in the fault {}", path.display());
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut table: toml::Table = toml::from_str(&text).with_context(inside)?;
        let schema = match table.remove("schema") {
            Some(toml::Value::String(name)) => name,
            Some(other) => bail!("{}: `schema = {other}` is not a text", path.display()),
            None => "shop".to_owned(),
        };
        Fault::parse(&schema, &table.to_string()).with_context(inside)
    }

    /// Reads a fault in TOML, made for the schema of this name.
    pub fn parse(schema: &str, text: &str) -> anyhow::Result<Fault> {
        let Head { name, title, mut causes, includes, mut parameters, mut culprits, variant_of, tags, body } = toml::from_str(text)?;
        let includes = includes.iter().map(|one| find(one)).collect::<anyhow::Result<Vec<_>>>()?;
        let own_causes = !causes.is_empty();
        for part in &includes {
            anyhow::ensure!(part.schema == schema, "{} is a fault of the schema {}, not of {schema}", part.name, part.schema);
            if !own_causes {
                causes.extend(part.causes.iter().filter(|cause| !causes.contains(cause)).cloned().collect::<Vec<_>>());
            }
            culprits.extend(part.culprits.iter().cloned());
            parameters.extend(part.parameters.iter().map(|(key, value)| (format!("{}.{key}", part.name), *value)));
        }
        anyhow::ensure!(!causes.is_empty(), "{name} names no cause");
        anyhow::ensure!(variant_of.is_some() != tags.is_empty(), "{name}: `variant_of` and `tags` come together");
        if let Some(base) = variant_of.as_deref().map(find).transpose()? {
            let same = base.schema == schema && base.causes == causes;
            anyhow::ensure!(same, "{name} is no variant of {}, which has another schema or other causes", base.name);
        }
        let fault = Fault { name, schema: schema.to_owned(), title, causes, parameters, culprits, variant_of, tags, includes, body };
        fault.script(&Parameters::new())?;
        Ok(fault)
    }

    /// What the files of the included faults and its own say is to be done.
    fn bodies(&self) -> Vec<String> {
        self.includes.iter().flat_map(Fault::bodies).chain([self.body.to_string()]).collect()
    }

    /// The script with `given` parameters in place of their defaults. Fails on one the fault does not have.
    pub fn script(&self, given: &Parameters) -> anyhow::Result<Script> {
        if let Some(unknown) = given.keys().find(|key| !self.parameters.contains_key(*key)) {
            let known: Vec<&str> = self.parameters.keys().map(String::as_str).collect();
            bail!("the fault {} has no parameter `{}`; it has: {}", self.name, unknown.escape_debug(), known.join(", "));
        }
        let mut values = self.parameters.clone();
        values.extend(given.iter().map(|(key, value)| (key.clone(), *value)));
        let mut script = Script::default();
        for part in &self.includes {
            let prefix = format!("{}.", part.name);
            let of_part = values.iter().filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?.to_owned(), *value))).collect();
            script.join(part.script(&of_part)?);
        }
        script.join(Script::read(&self.body, &values)?);
        Ok(script)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_scenario_file_parses_and_names_are_unique_and_those_of_their_files() {
        let faults = Scenario::list().unwrap();
        let names: BTreeSet<&str> = faults.iter().map(|fault| fault.name.as_str()).collect();
        assert_eq!(names.len(), faults.len());
        for ((schema, stem, _), fault) in files::faults().into_iter().zip(&faults) {
            assert_eq!((schema, stem), (fault.schema.as_str(), fault.name.as_str()));
            Schema::load(schema).unwrap();
        }
        let catalog = galen_knowledge::catalog::Catalog::builtin().unwrap();
        let known: BTreeSet<&str> = catalog.iter().map(|cause| cause.id.as_str()).collect();
        for fault in &faults {
            for cause in &fault.causes {
                assert!(cause == "healthy" || known.contains(cause.as_str()), "{}: {cause}", fault.name);
            }
        }
    }

    #[test]
    fn nothing_a_database_shows_gives_the_fault_away() {
        let ids: Vec<String> = Scenario::list().unwrap().into_iter().flat_map(|fault| fault.causes).collect();
        for fault in Scenario::list().unwrap() {
            let script = format!("{:?}", fault.script(&BTreeMap::new()).unwrap()).to_lowercase();
            assert!(!script.contains(&format!("\"{}", fault.name)), "{}", fault.name);
            assert!(!script.contains("anomaly") && !script.contains("galen"), "{}", fault.name);
            for id in &ids {
                assert!(!script.contains(id.as_str()), "{} says {id}", fault.name);
            }
        }
    }

    #[test]
    fn parameters_reach_the_script_and_unknown_ones_are_refused() {
        let fault = Scenario::load("concurrent_updates").unwrap().fault;
        let given = BTreeMap::from([("clients".to_owned(), 7)]);
        assert_eq!(fault.script(&given).unwrap().clients[0].count, 7);
        let error = fault.script(&BTreeMap::from([("cleints".to_owned(), 7)])).unwrap_err().to_string();
        assert!(error.contains("cleints") && error.contains("clients"), "{error}");
        assert_eq!(Scenario::load("shop/missing_index").unwrap().fault.name, "missing_index");
        assert!(Scenario::load("no_such").unwrap_err().to_string().contains("missing_index"));
    }

    #[test]
    fn only_what_narrows_the_network_asks_for_one_of_its_own() {
        let given = Parameters::from([("rate_kbit".to_owned(), 9000)]);
        let narrow = Scenario::load("network_congestion").unwrap();
        assert!(narrow.narrows_network(&given) && narrow.options(&given).unwrap().own_network);
        assert_eq!(narrow.fault.script(&given).unwrap().network.map(|it| it.rate_kbit), Some(9000));
        assert!(narrow.fault.script(&BTreeMap::from([("rate_kbit".to_owned(), 0)])).is_err());
        let wide = Scenario::load("missing_index").unwrap();
        assert!(!wide.narrows_network(&Parameters::new()) && !wide.options(&Parameters::new()).unwrap().own_network);
    }

    #[test]
    fn faults_combine_with_their_causes_culprits_and_parameters() {
        let text = "name = 'both'\ntitle = 'two'\nincludes = ['missing_index', 'deadlocks']\nbusy = 1";
        let both = Fault::parse("shop", text).unwrap();
        assert_eq!(both.causes, ["missing_index", "deadlocks"]);
        assert_eq!((both.culprits.len(), both.parameters["deadlocks.clients"]), (3, 10));
        let script = both.script(&BTreeMap::from([("missing_index.clients".to_owned(), 9)])).unwrap();
        assert_eq!((script.clients[0].count, script.clients[1].count, script.busy), (9, 10, 1));
        assert!(Fault::parse("queue", text).unwrap_err().to_string().contains("shop"));
    }

    #[test]
    fn a_variant_has_a_known_origin_of_the_same_causes_and_says_what_was_changed() {
        let text = |of: &str, tags: &str| format!("name = 'x'\ntitle = 't'\nincludes = ['missing_index']\n{of}\ntags = [{tags}]");
        let good = Fault::parse("shop", &text("variant_of = 'missing_index'", "'noise'")).unwrap();
        assert_eq!((good.variant_of.as_deref(), good.tags), (Some("missing_index"), vec![Tag::Noise]));
        for (of, tags, why) in [
            ("variant_of = 'missing_index'", "", "come together"),
            ("", "'noise'", "come together"),
            ("variant_of = 'deadlocks'", "'noise'", "no variant of deadlocks"),
            ("variant_of = 'no_such'", "'noise'", "no_such"),
            ("variant_of = 'missing_index'", "'harder'", "harder"),
        ] {
            let error = format!("{:#}", Fault::parse("shop", &text(of, tags)).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }
}
