//! Turns a specification into statements and clients: the kind's file with the scaled sizes filled in. No I/O.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::lab::load::{ClientSpec, Work};
use crate::lab::statement::Dice;

use super::scale::{Scaled, scale};
use super::spec::Spec;

macro_rules! kinds {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../../examples/lab/dbot/", $name, ".toml")))),*]
    };
}

/// Every kind of workload, with its file.
pub const KINDS: &[(&str, &str)] = kinds![
    "insert_large_data",
    "missing_index",
    "lock_contention",
    "redundant_index",
    "vacuum",
    "tpcc_io_contention",
    "tpch_queries",
    "job_joins",
];
const STEADY: &str = include_str!("../../../../examples/lab/dbot/steady.toml");
/// A client that changes a random column has a statement for each of at most so many, spread over all columns.
const MOST_COLUMNS: u32 = 20;
/// See [`Plan::settle`].
const SETTLE: Duration = Duration::from_secs(8);
/// Parts of an act that is done in parts.
const PARTS: u32 = 40;

/// What a run does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Statements before the recording.
    pub setup: Vec<String>,
    /// Statements after it.
    pub teardown: Vec<String>,
    /// Clients before and during the incident.
    pub steady: Vec<ClientSpec>,
    /// How much longer than usual the steady clients run before the recording: a session reports what it did with its
    /// next turn, so that the counters of slow clients come late at first.
    pub settle: Duration,
    /// Statements of one session when the incident begins, one after the other.
    pub acts: Vec<Step>,
    /// Clients from then on.
    pub clients: Vec<ClientSpec>,
    /// Which random numbers the clients throw.
    pub seed: u64,
}

/// A statement and the milliseconds of rest after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// SQL.
    pub sql: String,
    /// Milliseconds.
    pub pause_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kind {
    #[serde(default)]
    pace: f64,
    #[serde(default)]
    draw: std::collections::BTreeMap<String, (u32, u32)>,
    #[serde(default)]
    setup: Vec<String>,
    #[serde(default)]
    teardown: Vec<String>,
    #[serde(default)]
    steady: Vec<Clients>,
    #[serde(default)]
    acts: Vec<Act>,
    #[serde(default)]
    clients: Vec<Clients>,
}

/// Clients as written in a kind's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clients {
    name: String,
    count: Count,
    #[serde(default)]
    think_ms: (i64, i64),
    /// Turns come at the kind's pace, that of all clients together, each client at its own moments.
    #[serde(default)]
    paced: bool,
    /// How many of the works a run has, drawn by the specification's id; all where it is not said.
    #[serde(default)]
    pick: Option<usize>,
    work: Vec<Task>,
}

/// A number, or the name of one in `${..}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Count {
    Number(u32),
    Named(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Task {
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    each: Option<Each>,
    sql: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Act {
    #[serde(default)]
    each: Option<Each>,
    #[serde(default)]
    pause_ms: u64,
    sql: String,
}

/// What a statement is repeated for.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Each {
    Column,
    Index,
    Part,
}

fn one() -> u32 {
    1
}

/// The plan of a specification on so many CPUs. Fails on a kind that no file describes, or a size that is missing.
pub fn plan(spec: &Spec, cpus: u32) -> anyhow::Result<Plan> {
    let known = || KINDS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let (name, text) = KINDS
        .iter()
        .find(|(name, _)| *name == spec.workload)
        .with_context(|| format!("no workload `{}`: there are {}", spec.workload.escape_debug(), known()))?;
    let kind: Kind = toml::from_str(text).with_context(|| format!("in {name}.toml"))?;
    let mut values = Values::new(spec, &kind, cpus)?;
    let neighbour: Kind = toml::from_str(STEADY).context("in steady.toml")?;
    let setup = kind.setup.iter().map(|sql| values.fill(sql)).collect::<anyhow::Result<_>>()?;
    let mut steady: Vec<ClientSpec> = neighbour.steady.iter().map(|c| values.clients(c)).collect::<anyhow::Result<_>>()?;
    for clients in &kind.steady {
        steady.push(values.clients(clients)?);
    }
    let settle = if kind.steady.is_empty() { Duration::ZERO } else { SETTLE };
    let mut acts = Vec::new();
    for act in &kind.acts {
        for sql in values.each(act.each, &act.sql)? {
            acts.push(Step { sql, pause_ms: act.pause_ms });
        }
    }
    let clients = kind.clients.iter().map(|c| values.clients(c)).collect::<anyhow::Result<_>>()?;
    Ok(Plan { setup, teardown: kind.teardown, steady, settle, acts, clients, seed: u64::from(spec.id) })
}

/// Statements that make the neighbour's tables, once a server.
pub fn foundation() -> anyhow::Result<Vec<String>> {
    Ok(toml::from_str::<Kind>(STEADY).context("in steady.toml")?.setup)
}

/// What the names in `${..}` stand for.
struct Values {
    named: Vec<(String, String)>,
    scaled: Option<Scaled>,
    pace: f64,
    dice: Dice,
}

impl Values {
    fn new(spec: &Spec, kind: &Kind, cpus: u32) -> anyhow::Result<Values> {
        let mut dice = Dice::new(u64::from(spec.id));
        let mut named: Vec<(String, String)> = Vec::new();
        for (name, (low, high)) in &kind.draw {
            named.push((name.clone(), dice.between(i64::from(*low), i64::from(*high)).to_string()));
        }
        // Kinds that draw their sizes have no parameters.
        let scaled = if kind.draw.is_empty() { Some(scale(spec.size, cpus)?) } else { None };
        if let Some(s) = &scaled {
            let columns = |text: &dyn Fn(u32) -> String| (0..s.columns).map(text).collect::<Vec<_>>().join(", ");
            let size = s.value_size;
            named.extend([
                ("threads".to_owned(), s.threads.to_string()),
                ("rows".to_owned(), s.rows.to_string()),
                ("column_size".to_owned(), size.to_string()),
                ("columns".to_owned(), columns(&|i| format!("name{i} varchar({})", s.column_size))),
                ("values".to_owned(), columns(&|_| format!("substr(md5(random()::text), 1, {size})"))),
                // A large table is filled from one sum a row, cut at another place for each column.
                ("fill".to_owned(), columns(&|i| format!("substr(h, {}, {size})", 1 + i % 32))),
            ]);
        }
        Ok(Values { named, scaled, pace: kind.pace, dice })
    }

    fn fill(&self, text: &str) -> anyhow::Result<String> {
        let mut text = text.to_owned();
        for (name, value) in &self.named {
            text = text.replace(&format!("${{{name}}}"), value);
        }
        ensure!(!text.contains("${"), "`{text}` uses a name that stands for nothing");
        Ok(text)
    }

    /// The statement once, or once for each column, index or part.
    fn each(&self, each: Option<Each>, text: &str) -> anyhow::Result<Vec<String>> {
        let Some(each) = each else { return Ok(vec![self.fill(text)?]) };
        let scaled = self.scaled.as_ref();
        let (name, numbers): (&str, Vec<u32>) = match each {
            Each::Part => ("${part}", (0..PARTS).collect()),
            Each::Index => ("${index}", (0..scaled.map_or(0, |s| s.indexes)).collect()),
            Each::Column => {
                let columns = scaled.map_or(0, |s| s.columns);
                let some = columns.min(MOST_COLUMNS);
                ("${column}", (0..some).map(|i| i * columns / some.max(1)).collect())
            }
        };
        numbers.into_iter().map(|number| self.fill(&text.replace(name, &number.to_string()))).collect()
    }

    fn number(&self, count: &Count) -> anyhow::Result<u32> {
        match count {
            Count::Number(number) => Ok(*number),
            Count::Named(name) => {
                let text = self.fill(name)?;
                text.parse().with_context(|| format!("`{name}` stands for `{text}`, which is no number"))
            }
        }
    }

    fn clients(&mut self, clients: &Clients) -> anyhow::Result<ClientSpec> {
        let count = self.number(&clients.count)?;
        let mut work = Vec::new();
        for task in self.drawn(clients) {
            let steps = task.sql.iter().map(|sql| self.each(task.each, sql)).collect::<anyhow::Result<Vec<_>>>()?;
            for turn in 0..steps.first().map_or(0, Vec::len) {
                let sql = steps.iter().filter_map(|repeated| repeated.get(turn).cloned()).collect();
                work.push(Work { weight: task.weight, sql });
            }
        }
        // Clients that start together would go on together: half to one and a half times the mean spreads them.
        let mean = (f64::from(count) * 1000.0 / self.pace.max(0.001)) as i64;
        let think_ms = if clients.paced { (mean / 2, mean * 3 / 2) } else { clients.think_ms };
        Ok(ClientSpec { name: clients.name.clone(), count, think_ms, per_second: None, reconnect: false, work })
    }

    fn drawn<'k>(&mut self, clients: &'k Clients) -> Vec<&'k Task> {
        let mut tasks: Vec<&Task> = clients.work.iter().collect();
        while clients.pick.is_some_and(|pick| tasks.len() > pick.max(1)) {
            let last = tasks.len() as i64 - 1;
            tasks.remove(self.dice.between(0, last) as usize);
        }
        tasks
    }
}
