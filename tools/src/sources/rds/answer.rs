//! Which API a JSON document is an answer of, and everything that the files of one incident say together.

use std::collections::BTreeMap;

use serde_json::Value;

use super::field::{clean, get, label, list, text};
use super::insights::Insights;
use super::metrics::Metric;
use super::table::Table;
use super::{ImportError, alert, events, flaw, insights, metrics};
use crate::model::{Alert, Event, Setting};

/// What the files of one incident say.
#[derive(Default)]
pub struct Answers {
    /// Metrics, one for each result.
    pub metrics: Vec<Metric>,
    /// Load by statement, wait, user and host.
    pub insights: Insights,
    /// Events with the numbers that stand in them.
    pub events: Vec<(Event, events::Values)>,
    /// An answer of DescribeEvents was there, perhaps an empty one.
    pub has_events: bool,
    /// Alerts.
    pub alerts: Vec<Alert>,
    /// Parameters of the instance.
    pub settings: BTreeMap<String, Setting>,
    /// Metrics whose answer is not complete, with the status.
    pub partial: Vec<(String, String)>,
    /// Identifiers of the instance, most trustworthy first.
    pub instances: Vec<String>,
    /// Identifiers of its read replicas.
    pub replicas: Vec<String>,
}

impl Answers {
    /// The instance that the incident is about; empty when nothing says.
    pub fn target(&self) -> String {
        if let Some(first) = self.instances.first() {
            return first.clone();
        }
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for metric in self.metrics.iter().filter(|m| m.source != "ReplicaLag") {
            *votes.entry(metric.instance.as_deref().unwrap_or_default()).or_default() += 1;
        }
        votes.into_iter().max_by_key(|(_, n)| *n).map(|(name, _)| name.to_owned()).unwrap_or_default()
    }

    /// A read replica, when anything names one. What replicates elsewhere in the files need not be ours.
    pub fn replica(&self) -> Option<String> {
        let by_metric = self.metrics.iter().find(|m| m.source == "ReplicaLag").and_then(|m| m.instance.clone());
        let by_event = self.events.iter().find(|(e, _)| e.kind == "replication_lag" && !e.object.is_empty()).map(|(e, _)| e.object.clone());
        by_event.or(by_metric).or_else(|| self.replicas.first().cloned())
    }
}

/// One document.
pub struct Answer;

impl Answer {
    /// Reads one document into the answers.
    ///
    /// # Errors
    /// A document that is none of the known answers, or one whose values have wrong types.
    pub fn read(json: &Value, table: &Table, into: &mut Answers) -> Result<(), ImportError> {
        let has = |key: &str| get(json, key).is_some();
        if has("MetricDataResults") || has("Datapoints") || (has("Values") && has("Timestamps")) {
            return metrics::read(json, table, into);
        }
        if has("DbLoad") || has("TopSql") || has("TopWaitEvents") || has("Keys") || has("MetricList") {
            return insights::read(json, table, into);
        }
        if has("Events") {
            return events::read(json, table, into);
        }
        if has("Parameters") {
            parameters(json, table, into);
            return Ok(());
        }
        if has("DBInstances") {
            instances(json, into);
            return Ok(());
        }
        if alert::is_one(json) {
            return alert::read(json, into);
        }
        // The envelope of metrics that are split over files holds the period alone.
        if has("Namespace") && has("Period") {
            return Ok(());
        }
        Err(flaw(
            "no answer of CloudWatch, Performance Insights, DescribeEvents, DescribeDBParameters or DescribeDBInstances, and no alert",
        ))
    }
}

fn parameters(json: &Value, table: &Table, into: &mut Answers) {
    for parameter in list(json, "Parameters") {
        let named = text(parameter, "ParameterName").zip(text(parameter, "ParameterValue"));
        let Some((name, value)) = named else { continue };
        // A formula such as {DBInstanceClassMemory/9531392} is no value.
        let usable = value.parse::<f64>().is_ok();
        if let Some(unit) = table.setting(name).filter(|_| usable) {
            let source = clean(text(parameter, "Source").unwrap_or("parameter group"), 60);
            into.settings.insert(name.to_owned(), Setting { value: value.to_owned(), unit: unit.to_owned(), source });
        }
    }
}

fn instances(json: &Value, into: &mut Answers) {
    for instance in json.get("DBInstances").and_then(Value::as_array).into_iter().flatten() {
        into.instances.extend(instance.get("DBInstanceIdentifier").and_then(Value::as_str).map(label));
        let replicas = instance.get("ReadReplicaDBInstanceIdentifiers").and_then(Value::as_array);
        into.replicas.extend(replicas.into_iter().flatten().filter_map(Value::as_str).map(label));
    }
}
