//! Performance Insights: load by statement, wait, user and client, as DescribeDimensionKeys and GetResourceMetrics give
//! it, and as one document that holds the database load with its top lists.
//!
//! A load becomes a labelled signal in sessions. What is only known as an average over the whole time is a signal with a
//! single value.

use std::collections::BTreeMap;

use serde_json::Value;

use super::answer::Answers;
use super::field::{get, label, list, text, time};
use super::metrics::Metric;
use super::table::Table;
use super::{ImportError, flaw};
use crate::capture::Capture;
use crate::model::{Series, UnixMs};
use crate::sources::dbot::statement::Statement;

/// A wait that the answer does not name.
const UNKNOWN_WAIT: &str = "unknown";

/// Everything that Performance Insights said.
#[derive(Default)]
pub struct Insights {
    /// Signal name to samples.
    pub loads: BTreeMap<String, Vec<(UnixMs, f64)>>,
    /// Normalised texts by id.
    pub texts: BTreeMap<i64, String>,
    seen: bool,
}

impl Insights {
    /// True when no document of Performance Insights was there.
    pub fn is_empty(&self) -> bool {
        !self.seen
    }

    fn add(&mut self, signal: &str, labels: &[(&str, &str)], at: UnixMs, value: f64) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        self.loads.entry(format!("{signal}{{{}}}", labels.join(","))).or_default().push((at, value));
    }

    fn statement(&mut self, sql: &str) -> String {
        let Statement { id, text, .. } = Statement::read(sql);
        self.texts.insert(id, text);
        id.to_string()
    }
}

/// Reads one answer.
pub fn read(json: &Value, table: &Table, into: &mut Answers) -> Result<(), ImportError> {
    into.insights.seen = true;
    if get(json, "MetricList").is_some() {
        return resource_metrics(json, table, into);
    }
    if get(json, "Keys").is_some() {
        return dimension_keys(json, into);
    }
    top_lists(json, into)
}

fn number(value: &Value, key: &str) -> Result<f64, ImportError> {
    let found = get(value, key).ok_or_else(|| flaw(format!("an entry of the load has no {key}")))?;
    found.as_f64().filter(|n| *n >= 0.0).ok_or_else(|| flaw(format!("{key} is {found}, which is no load")))
}

/// `{"db_load":{"timestamps","values"},"top_sql":[..],"top_wait_events":[..],..}`.
fn top_lists(json: &Value, into: &mut Answers) -> Result<(), ImportError> {
    into.instances.extend(text(json, "DbInstanceIdentifier").map(label));
    let mut load = Metric { source: "db.load.avg".into(), ..Metric::default() };
    if let Some(series) = get(json, "DbLoad") {
        let (times, values) = (list(series, "Timestamps"), list(series, "Values"));
        if times.len() != values.len() {
            return Err(flaw(format!("db_load: {} times for {} values", times.len(), values.len())));
        }
        for (at, value) in times.iter().zip(values) {
            let at = time(at).ok_or_else(|| flaw(format!("db_load: {at} is no time")))?;
            load.points.extend(value.as_f64().map(|v| (at, v)));
        }
    }
    let start = get(json, "StartTime").and_then(time).or_else(|| load.points.first().map(|p| p.0));
    let start = start.ok_or_else(|| flaw("the load has neither a start time nor samples"))?;
    let mean = load.points.iter().map(|p| p.1).sum::<f64>() / load.points.len().max(1) as f64;
    // Top lists may be shares of the load in per cent.
    let scale = |entries: &[Value]| -> Result<f64, ImportError> {
        let sum = entries.iter().map(|e| number(e, "DbLoadAvg")).sum::<Result<f64, _>>()?;
        Ok(if !load.points.is_empty() && sum > 30.0 && sum <= 101.0 && sum > 5.0 * mean { mean / 100.0 } else { 1.0 })
    };
    let statements = list(json, "TopSql");
    let factor = scale(statements)?;
    for entry in statements {
        let id = into.insights.statement(text(entry, "Statement").unwrap_or_default());
        let total = number(entry, "DbLoadAvg")?;
        let waits = list(entry, "WaitEvents").iter().map(|w| Ok((wait_of(w), number(w, "DbLoadAvg")?))).collect::<Result<Vec<_>, _>>()?;
        split(&mut into.insights, &id, total, waits, start, factor);
        if let Some(calls) = get(entry, "CallsPerSec").and_then(Value::as_f64) {
            into.insights.add("statement_calls_per_s", &[("query_id", &id)], start, calls);
        }
    }
    for (key, signal, name, field) in [
        ("TopWaitEvents", "wait_load", "wait", "Name"),
        ("TopUsers", "user_load", "user", "Name"),
        ("TopHosts", "client_load", "client", "Id"),
    ] {
        let entries = list(json, key);
        let factor = scale(entries)?;
        for entry in entries {
            let value = label(text(entry, field).or_else(|| text(entry, "Name")).unwrap_or(UNKNOWN_WAIT));
            into.insights.add(signal, &[(name, &value)], start, number(entry, "DbLoadAvg")? * factor);
        }
    }
    into.metrics.extend((!load.points.is_empty()).then_some(load));
    Ok(())
}

/// Load of a statement by wait; what its waits do not cover is of an unknown wait.
fn split(insights: &mut Insights, id: &str, total: f64, waits: Vec<(String, f64)>, at: UnixMs, factor: f64) {
    let named: f64 = waits.iter().map(|w| w.1).sum();
    let rest = (total - named > 0.05 * total.max(0.1)).then(|| (UNKNOWN_WAIT.to_owned(), total - named));
    for (wait, load) in waits.into_iter().chain(rest) {
        insights.add("statement_load", &[("query_id", id), ("wait", &wait)], at, load * factor);
    }
}

/// `Type:Event`, `CPU` for sessions that wait for nothing.
fn wait_of(entry: &Value) -> String {
    wait_name(text(entry, "Name").unwrap_or(UNKNOWN_WAIT), text(entry, "Type"))
}

fn wait_name(name: &str, kind: Option<&str>) -> String {
    match kind {
        Some("CPU") => "CPU".to_owned(),
        Some(kind) if !name.contains(':') && kind != name => label(&format!("{kind}:{name}")),
        _ if name == "CPU" || name.starts_with("CPU:") => "CPU".to_owned(),
        _ => label(name),
    }
}

/// Dimensions of an entry, such as `db.wait_event.name`.
struct Dimensions<'v>(&'v Value);

impl<'v> Dimensions<'v> {
    fn of(entry: &'v Value) -> Option<Self> {
        get(entry, "Dimensions").filter(|d| d.is_object()).map(Self)
    }

    fn get(&self, names: &[&str]) -> Option<&'v str> {
        names.iter().find_map(|name| self.0.get(name)?.as_str())
    }

    fn wait(&self) -> Option<String> {
        let kind = self.get(&["db.wait_event.type", "db.wait_event_type.name"]);
        let name = self.get(&["db.wait_event.name"]).or(kind)?;
        Some(wait_name(name, kind))
    }

    fn sql(&self) -> Option<&'v str> {
        self.get(&["db.sql_tokenized.statement", "db.sql.statement"])
    }
}

/// DescribeDimensionKeys: averages over the time asked for, perhaps partitioned by wait.
fn dimension_keys(json: &Value, into: &mut Answers) -> Result<(), ImportError> {
    let start = ["AlignedStartTime", "StartTime"].iter().find_map(|k| get(json, k).and_then(time));
    let start = start.ok_or_else(|| flaw("AlignedStartTime is missing or no time"))?;
    let partitions: Vec<Option<String>> = list(json, "PartitionKeys").iter().map(|k| Dimensions::of(k).and_then(|d| d.wait())).collect();
    for key in list(json, "Keys") {
        let Some(dimensions) = Dimensions::of(key) else { return Err(flaw("a key has no Dimensions")) };
        let total = number(key, "Total")?;
        if let Some(sql) = dimensions.sql() {
            let id = into.insights.statement(sql);
            let parts = list(key, "Partitions").iter().zip(&partitions);
            let waits = parts.filter_map(|(load, wait)| Some((wait.clone()?, load.as_f64().filter(|l| *l > 0.0)?))).collect();
            split(&mut into.insights, &id, total, waits, start, 1.0);
            let extra = get(key, "AdditionalMetrics").and_then(Value::as_object);
            let calls = extra.and_then(|m| m.iter().find(|(name, _)| name.ends_with("calls_per_sec.avg"))).and_then(|(_, v)| v.as_f64());
            if let Some(calls) = calls {
                into.insights.add("statement_calls_per_s", &[("query_id", &id)], start, calls);
            }
        } else {
            dimension(&mut into.insights, &dimensions, start, total);
        }
    }
    Ok(())
}

/// Load by wait, user or client.
fn dimension(insights: &mut Insights, dimensions: &Dimensions<'_>, at: UnixMs, load: f64) {
    if let Some(wait) = dimensions.wait() {
        insights.add("wait_load", &[("wait", &wait)], at, load);
    } else if let Some(user) = dimensions.get(&["db.user.name"]) {
        insights.add("user_load", &[("user", &label(user))], at, load);
    } else if let Some(client) = dimensions.get(&["db.host.name", "db.host.id"]) {
        insights.add("client_load", &[("client", &label(client))], at, load);
    }
}

/// GetResourceMetrics: a series for each metric, perhaps for each of its dimensions.
fn resource_metrics(json: &Value, table: &Table, into: &mut Answers) -> Result<(), ImportError> {
    for entry in list(json, "MetricList") {
        let key = get(entry, "Key").ok_or_else(|| flaw("an entry of MetricList has no Key"))?;
        let source = text(key, "Metric").ok_or_else(|| flaw("an entry of MetricList has no Metric"))?;
        let mut points = Vec::new();
        for point in list(entry, "DataPoints") {
            let at = get(point, "Timestamp").and_then(time).ok_or_else(|| flaw(format!("{source}: a data point has no time")))?;
            match point.get("Value") {
                None | Some(Value::Null) => {}
                Some(value) => points.push((at, value.as_f64().ok_or_else(|| flaw(format!("{source}: {value} is no number")))?)),
            }
        }
        let dimensions = Dimensions::of(key).filter(|_| source == "db.load.avg");
        let Some(dimensions) = dimensions else {
            if table.knows(source) {
                into.metrics.push(Metric { source: source.to_owned(), points, ..Metric::default() });
            }
            continue;
        };
        let statement = dimensions.sql().map(|sql| into.insights.statement(sql));
        for (at, load) in points {
            match &statement {
                Some(id) => split(&mut into.insights, id, load, Vec::from_iter(dimensions.wait().map(|w| (w, load))), at, 1.0),
                None => dimension(&mut into.insights, &dimensions, at, load),
            }
        }
    }
    Ok(())
}

/// Puts the loads into a capture. Statements that share a shape are one: their loads add up.
pub fn place(insights: &Insights, capture: &mut Capture) {
    for (name, points) in &insights.loads {
        let mut by_time: BTreeMap<UnixMs, f64> = BTreeMap::new();
        for (at, value) in points {
            *by_time.entry(*at).or_default() += value;
        }
        let unit = if name.starts_with("statement_calls") { "1/s" } else { "sessions" };
        let mut series = Series { unit: unit.to_owned(), ..Series::default() };
        by_time.into_iter().for_each(|(at, value)| series.push(at, value));
        if !series.times.is_empty() {
            capture.series.insert(name.clone(), series);
        }
    }
    capture.texts.extend(insights.texts.clone());
}
