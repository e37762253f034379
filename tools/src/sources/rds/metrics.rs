//! CloudWatch: GetMetricData as the API and its command line give it, the same in snake case, and GetMetricStatistics.

use std::collections::BTreeMap;

use serde_json::Value;

use super::answer::Answers;
use super::field::{clean, get, label, list, text, time};
use super::table::Table;
use super::{ImportError, flaw};
use crate::capture::Capture;
use crate::model::{HolderSample, Series, UnixMs};

/// Samples of one metric beyond this many are refused.
const MAX_SAMPLES: usize = 200_000;

/// Samples of one metric of one instance.
#[derive(Debug, Clone, Default)]
pub struct Metric {
    /// Name in CloudWatch.
    pub source: String,
    /// Instance it belongs to, when the answer says so.
    pub instance: Option<String>,
    /// Unit that stands in the data.
    pub unit: Option<String>,
    /// Samples in the order of the answer.
    pub points: Vec<(UnixMs, f64)>,
}

/// Reads an answer that holds metrics.
pub fn read(json: &Value, table: &Table, into: &mut Answers) -> Result<(), ImportError> {
    if let Some(points) = get(json, "Datapoints") {
        let points = points.as_array().ok_or_else(|| flaw("Datapoints is no list"))?;
        into.metrics.push(statistics(json, points, table)?);
        return Ok(());
    }
    let Some(results) = get(json, "MetricDataResults") else { return one(json, table, into) };
    let results = results.as_array().ok_or_else(|| flaw("MetricDataResults is no list"))?;
    results.iter().try_for_each(|result| one(result, table, into))
}

fn one(result: &Value, table: &Table, into: &mut Answers) -> Result<(), ImportError> {
    let (source, instance) = identity(result, table);
    if source.is_empty() {
        return Err(flaw("a metric has neither Id nor Label"));
    }
    let (times, values) = (list(result, "Timestamps"), list(result, "Values"));
    if times.len() != values.len() {
        return Err(flaw(format!("{source}: {} times for {} values", times.len(), values.len())));
    }
    if times.len() > MAX_SAMPLES {
        return Err(flaw(format!("{source}: {} samples, above the limit of {MAX_SAMPLES}", times.len())));
    }
    let mut metric = Metric { unit: text(result, "Unit").map(str::to_owned), instance, source, points: Vec::new() };
    for (at, value) in times.iter().zip(values) {
        metric.points.extend(point(&metric.source, at, value)?);
    }
    if let Some(status) = text(result, "StatusCode").filter(|s| *s != "Complete") {
        into.partial.push((metric.source.clone(), clean(status, 40)));
    }
    into.metrics.push(metric);
    Ok(())
}

/// A sample; none where the value is null.
fn point(source: &str, at: &Value, value: &Value) -> Result<Option<(UnixMs, f64)>, ImportError> {
    let time = time(at).ok_or_else(|| flaw(format!("{source}: {at} is no time")))?;
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(number.as_f64().map(|v| (time, v))),
        other => Err(flaw(format!("{source}: {other} is no number"))),
    }
}

/// Name of the metric and of its instance. GetMetricData does not repeat the query: its Label holds the metric's name,
/// or whatever tells several results apart.
fn identity(result: &Value, table: &Table) -> (String, Option<String>) {
    let dimension = list(result, "Dimensions").iter().find(|d| text(d, "Name") == Some("DBInstanceIdentifier"));
    let instance = dimension.and_then(|d| text(d, "Value")).map(label);
    if let Some(name) = text(result, "MetricName") {
        return (label(name), instance);
    }
    let shown = text(result, "Label").unwrap_or_default();
    let words = || shown.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '|' | '(' | ')'));
    if let Some(known) = words().find(|w| table.knows(w)) {
        let other = words().find(|w| !w.is_empty() && *w != known && w.starts_with(|c: char| c.is_ascii_lowercase()));
        return (known.to_owned(), instance.or_else(|| other.map(label)));
    }
    let id = text(result, "Id").unwrap_or_default();
    match table.spelled(id) {
        Some(known) => (known.to_owned(), instance.or_else(|| (!shown.is_empty()).then(|| label(shown)))),
        None => (label(if shown.is_empty() { id } else { shown }), instance),
    }
}

/// GetMetricStatistics: a label and datapoints with one statistic or several.
fn statistics(json: &Value, points: &[Value], table: &Table) -> Result<Metric, ImportError> {
    let (source, instance) = identity(json, table);
    if points.len() > MAX_SAMPLES {
        return Err(flaw(format!("{source}: {} samples, above the limit of {MAX_SAMPLES}", points.len())));
    }
    let mut metric = Metric { unit: None, instance, source, points: Vec::new() };
    for datapoint in points {
        let value = ["Average", "Maximum", "Minimum", "Sum"].iter().find_map(|s| get(datapoint, s));
        let (Some(at), Some(value)) = (get(datapoint, "Timestamp"), value) else {
            return Err(flaw(format!("{}: a datapoint has no Timestamp or no statistic", metric.source)));
        };
        metric.points.extend(point(&metric.source, at, value)?);
        metric.unit = text(datapoint, "Unit").map(str::to_owned).or(metric.unit);
    }
    Ok(metric)
}

/// Puts the metrics into a capture: those of the target under their name, those of other instances with a label. Pages
/// of one metric are joined, times are sorted, and of two values of one time the first stands.
pub fn place(answers: &Answers, table: &Table, target: &str, capture: &mut Capture) {
    let mut by_signal: BTreeMap<String, BTreeMap<Option<&str>, Vec<&Metric>>> = BTreeMap::new();
    for metric in answers.metrics.iter().filter(|m| !m.points.is_empty()) {
        let signal = table.resolve(&metric.source, None).signal;
        by_signal.entry(signal).or_default().entry(metric.instance.as_deref()).or_default().push(metric);
    }
    for (signal, instances) in by_signal {
        let plain = instances.keys().find(|i| **i == Some(target)).or_else(|| instances.keys().next()).copied();
        let of_replicas = signal == "replica_lag_seconds";
        for (instance, metrics) in &instances {
            let series = joined(metrics, table);
            if of_replicas {
                holders(&series, instance.map(str::to_owned).or_else(|| answers.replica()), capture);
            }
            let elsewhere = instance.filter(|_| Some(*instance) != plain && !of_replicas);
            let name = elsewhere.map_or_else(|| signal.clone(), |other| format!("{signal}{{instance=\"{other}\"}}"));
            match capture.series.get_mut(&name) {
                Some(known) if of_replicas => *known = largest(known, &series),
                Some(_) => {}
                None => {
                    capture.series.insert(name, series);
                }
            }
        }
    }
    capture.holders.sort_by(|a, b| a.at.cmp(&b.at).then(a.name.cmp(&b.name)));
}

fn joined(metrics: &[&Metric], table: &Table) -> Series {
    let mut points: Vec<(UnixMs, f64)> = Vec::new();
    let mut series = Series::default();
    for metric in metrics {
        let resolved = table.resolve(&metric.source, metric.unit.as_deref());
        series.unit = resolved.unit;
        points.extend(metric.points.iter().map(|(at, value)| (*at, value * resolved.factor)));
    }
    points.sort_by_key(|(at, _)| *at);
    points.into_iter().for_each(|(at, value)| series.push(at, value));
    series
}

/// Of two replicas the one that is further behind, at each time.
fn largest(a: &Series, b: &Series) -> Series {
    let mut points: BTreeMap<UnixMs, f64> = a.times.iter().copied().zip(a.values.iter().copied()).collect();
    for (at, value) in b.times.iter().zip(&b.values) {
        points.entry(*at).and_modify(|v| *v = v.max(*value)).or_insert(*value);
    }
    Series { unit: a.unit.clone(), times: points.keys().copied().collect(), values: points.into_values().collect() }
}

fn holders(series: &Series, name: Option<String>, capture: &mut Capture) {
    let Some(name) = name else { return };
    let sample = |(at, lag): (&UnixMs, &f64)| HolderSample {
        at: *at,
        kind: "replica".into(),
        name: name.clone(),
        active: true,
        lag_ms: Some(lag * 1000.0),
        ..HolderSample::default()
    };
    capture.holders.extend(series.times.iter().zip(&series.values).map(sample));
}
