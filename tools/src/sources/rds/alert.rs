//! The alert: as Grafana or Alertmanager sends it, or as a CloudWatch alarm comes through SNS. Only what an operator's
//! tool always has is read: name, severity, summary, instance. Anything else in it may tell the answer.

use serde_json::Value;

use super::answer::Answers;
use super::field::{clean, get, label, list, text, time};
use super::{ImportError, flaw};
use crate::model::Alert;

/// True for a document that is an alert.
pub fn is_one(json: &Value) -> bool {
    let any = |keys: &[&str]| keys.iter().any(|k| json.get(k).is_some());
    any(&["commonLabels", "commonAnnotations", "AlarmName"]) || (any(&["alerts"]) && json["alerts"].is_array()) || message(json).is_some()
}

/// The alarm inside a notification of SNS.
fn message(json: &Value) -> Option<Value> {
    let inner: Value = serde_json::from_str(json.get("Message")?.as_str()?).ok()?;
    inner.get("AlarmName").is_some().then_some(inner)
}

/// Reads an alert.
pub fn read(json: &Value, into: &mut Answers) -> Result<(), ImportError> {
    let inner = message(json);
    let json = inner.as_ref().unwrap_or(json);
    let alert = if json.get("AlarmName").is_some() { alarm(json, into)? } else { grafana(json, into)? };
    into.alerts.push(alert);
    Ok(())
}

fn alarm(json: &Value, into: &mut Answers) -> Result<Alert, ImportError> {
    let name = text(json, "AlarmName").ok_or_else(|| flaw("AlarmName is no text"))?;
    let dimensions = json.get("Trigger").map(|t| list(t, "Dimensions")).unwrap_or_default();
    let named = |d: &&Value| ["name", "Name"].iter().any(|k| d.get(k).and_then(Value::as_str) == Some("DBInstanceIdentifier"));
    let value = |d: &Value| ["value", "Value"].iter().find_map(|k| d.get(k)?.as_str().map(label));
    into.instances.extend(dimensions.iter().find(named).and_then(value));
    let starts_at = get(json, "StateChangeTime").and_then(time).unwrap_or(0);
    let firing = text(json, "NewStateValue") != Some("OK");
    Ok(new(name, firing, starts_at, text(json, "NewStateReason").unwrap_or_default(), None))
}

fn grafana(json: &Value, into: &mut Answers) -> Result<Alert, ImportError> {
    let first = json.get("alerts").and_then(|a| a.get(0));
    let part = |common: &str, own: &str| json.get(common).or_else(|| first?.get(own)).cloned().unwrap_or_default();
    let (labels, annotations) = (part("commonLabels", "labels"), part("commonAnnotations", "annotations"));
    let name = labels.get("alertname").and_then(Value::as_str).ok_or_else(|| flaw("the alert has no label alertname"))?;
    let either = |key: &str| annotations.get(key).or_else(|| labels.get(key)).and_then(Value::as_str);
    into.instances.extend(["db_instance_identifier", "db_instance", "dbinstance_identifier"].iter().find_map(|k| either(k)).map(label));
    into.replicas.extend(either("read_replica").map(label));
    let state = json.get("state").or_else(|| json.get("status")).and_then(Value::as_str).unwrap_or("firing");
    let starts_at = first.and_then(|a| a.get("startsAt")).and_then(time).unwrap_or(0);
    let summary = annotations.get("summary").and_then(Value::as_str).unwrap_or_default();
    Ok(new(name, matches!(state, "alerting" | "firing" | "pending"), starts_at, summary, either("severity")))
}

fn new(name: &str, firing: bool, starts_at: i64, summary: &str, severity: Option<&str>) -> Alert {
    let mut alert = Alert {
        name: label(name),
        status: if firing { "firing" } else { "resolved" }.to_owned(),
        source: "cloudwatch".to_owned(),
        starts_at,
        summary: clean(summary, 500),
        ..Alert::default()
    };
    alert.labels.insert("alertname".into(), label(name));
    if let Some(severity) = severity {
        alert.labels.insert("severity".into(), label(severity));
    }
    alert
}
