//! The HTTP door, on loopback: Alertmanager's webhook, reports, health and metrics.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State as Extract};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use galen_agents::llm::Provider;
use galen_tools::model::{Alert, UnixMs};
use galen_tools::store::Filter;

use crate::config::{Model, ModelProvider};
use crate::state::{State, lock};

/// Largest payload, bytes.
const MOST_BODY: usize = 1 << 20;
/// Most alerts in one payload.
const MOST_ALERTS: usize = 500;

/// All routes.
pub fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/api/v1/alerts/alertmanager", post(webhook))
        .route("/webhook/alertmanager", post(webhook))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .route("/", get(index))
        .route("/incidents/{id}", get(incident))
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .layer(middleware::from_fn(only_local_names))
        .with_state(state)
}

/// A page of another site may point a name of its own at 127.0.0.1: only our own names are answered.
async fn only_local_names(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("localhost");
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    if name != "localhost" && !name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        return refuse(StatusCode::MISDIRECTED_REQUEST, "ask for 127.0.0.1 or localhost");
    }
    next.run(request).await
}

fn refuse(status: StatusCode, message: &str) -> Response {
    (status, axum::Json(json!({"error": message}))).into_response()
}

/// Alertmanager's payload, version 4. Outside JSON becomes a domain type here and nowhere else.
#[derive(Deserialize)]
struct Payload {
    version: String,
    alerts: Vec<Incoming>,
    #[serde(default, rename = "commonAnnotations")]
    common_annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Incoming {
    status: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    starts_at: String,
    #[serde(default)]
    ends_at: String,
    #[serde(default)]
    fingerprint: String,
}

impl Incoming {
    fn into_alert(self, common: &BTreeMap<String, String>) -> Result<Alert, String> {
        if !matches!(self.status.as_str(), "firing" | "resolved") {
            return Err("status must be firing or resolved".into());
        }
        // It stays as sent, for it tells a repeated alert; an incident never opens later than now.
        let starts_at = millis(&self.starts_at).ok_or("startsAt is not RFC 3339")?.max(0);
        let text = |key: &str| self.annotations.get(key).or_else(|| common.get(key)).cloned();
        let name = self.labels.get("alertname").cloned().unwrap_or_else(|| "alert".into());
        let fingerprint = if self.fingerprint.is_empty() {
            self.labels.iter().fold(String::new(), |key, (k, v)| key + k + "=" + v + ",")
        } else {
            self.fingerprint.clone()
        };
        Ok(Alert {
            fingerprint: cut(&fingerprint, 200),
            summary: cut(&text("summary").or_else(|| text("description")).unwrap_or_else(|| name.clone()), 500),
            name: cut(&name, 200),
            source: "alertmanager".into(),
            ends_at: millis(&self.ends_at).filter(|end| *end > starts_at),
            starts_at,
            labels: self.labels.iter().take(64).map(|(k, v)| (cut(k, 200), cut(v, 500))).collect(),
            status: self.status,
        })
    }
}

fn cut(text: &str, most: usize) -> String {
    crate::output::plain(text).chars().take(most).collect()
}

fn millis(text: &str) -> Option<UnixMs> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

async fn webhook(Extract(state): Extract<Arc<State>>, body: Bytes) -> Response {
    let payload: Payload = match serde_json::from_slice(&body) {
        Ok(payload) => payload,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &format!("not an Alertmanager payload: {error}")),
    };
    if payload.version != "4" {
        return refuse(StatusCode::BAD_REQUEST, "version must be \"4\"");
    }
    if payload.alerts.is_empty() || payload.alerts.len() > MOST_ALERTS {
        return refuse(StatusCode::BAD_REQUEST, "a payload has 1 to 500 alerts");
    }
    let common = payload.common_annotations;
    let alerts: Result<Vec<Alert>, String> = payload.alerts.into_iter().map(|a| a.into_alert(&common)).collect();
    let alerts = match alerts {
        Ok(alerts) => alerts,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, &why),
    };
    let names: Vec<&str> = state.targets.keys().map(String::as_str).collect();
    match by_target(alerts, &names) {
        Ok(parts) => take_in(&state, parts).await,
        Err(why) => refuse(StatusCode::UNPROCESSABLE_ENTITY, &why),
    }
}

/// Takes in a payload's alerts, target by target. Where one part cannot be stored the sender is told to send all again:
/// what was stored already is then known.
async fn take_in(state: &State, parts: BTreeMap<String, Vec<Alert>>) -> Response {
    let mut taken = Vec::new();
    for (target, alerts) in parts {
        match state.intake(alerts, &target).await {
            Ok(intake) => taken.push(json!({"target": target, "incident": intake.incident_id, "new": intake.new})),
            Err(error) => {
                tracing::error!(%error, "alerts could not be stored; the sender will try again");
                return refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string());
            }
        }
    }
    let first = taken.first().cloned().unwrap_or_default();
    axum::Json(json!({"incident": first["incident"], "new": first["new"], "incidents": taken})).into_response()
}

/// A payload's alerts by target; an alert that cannot be placed refuses them all.
fn by_target(alerts: Vec<Alert>, names: &[&str]) -> Result<BTreeMap<String, Vec<Alert>>, String> {
    let mut parts: BTreeMap<String, Vec<Alert>> = BTreeMap::new();
    for alert in alerts {
        parts.entry(target_of(&alert, names)?).or_default().push(alert);
    }
    Ok(parts)
}

/// The target an alert is about: the one named by label `galen_target` or `target`, which must be known; else the one
/// that `instance` or `datname` happens to name; else the only one.
fn target_of(alert: &Alert, names: &[&str]) -> Result<String, String> {
    let label = |key: &str| alert.labels.get(key).filter(|value| !value.is_empty());
    let known = |value: &&String| names.contains(&value.as_str());
    if let Some(named) = label("galen_target").or_else(|| label("target")) {
        let unknown = || format!("there is no target `{named}`; set label target to one of: {}", names.join(", "));
        return Some(named).filter(known).cloned().ok_or_else(unknown);
    }
    let hint = ["instance", "datname"].into_iter().find_map(|key| label(key).filter(known));
    match (hint, names) {
        (Some(name), _) => Ok(name.clone()),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => Err(format!("no label names a target; set label target to one of: {}", names.join(", "))),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn page_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers
        .insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; img-src data:"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
}

async fn index(Extract(state): Extract<Arc<State>>) -> Response {
    let list = match state.with_store(|s| s.incidents(&Filter::default(), 200)).await {
        Ok(list) => list,
        Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    };
    let mut rows = String::new();
    for i in &list {
        let began = jiff::Timestamp::from_millisecond(i.opened_at).map(|t| t.to_string()).unwrap_or_default();
        let headline = i.headline.as_deref().or(i.error.as_deref()).unwrap_or_default();
        let state = serde_json::to_value(i.state).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        let _ = write!(
            rows,
            "<tr><td><a href=\"/incidents/{id}\">{id}</a><td>{}<td>{}<td>{}<td>{}</tr>",
            escape(&began),
            escape(&i.target),
            escape(&state),
            escape(headline),
            id = i.id
        );
    }
    let page = format!(
        "<!doctype html><meta charset=utf-8><title>Galen</title><style>body{{font:16px system-ui;margin:2rem;color-scheme:light dark}}td,th{{padding:.3rem .8rem;text-align:left;vertical-align:top}}</style>\
         <h1>Incidents</h1><table><tr><th>id<th>began<th>target<th>state<th>headline</tr>{rows}</table>{}",
        if list.is_empty() { "<p>None so far.</p>" } else { "" }
    );
    (page_headers(), Html(page)).into_response()
}

async fn incident(Extract(state): Extract<Arc<State>>, Path(name): Path<String>) -> Response {
    let (number, json) = name.strip_suffix(".json").map_or((name.as_str(), false), |n| (n, true));
    let Ok(id) = number.parse::<i64>() else { return refuse(StatusCode::NOT_FOUND, "incidents have numbers") };
    match state.with_store(move |s| s.report(id)).await {
        Ok(saved) if json => ([(header::CONTENT_TYPE, "application/json")], saved.report_json).into_response(),
        Ok(saved) => (page_headers(), Html(saved.html)).into_response(),
        Err(error) => refuse(StatusCode::NOT_FOUND, &error.to_string()),
    }
}

/// What the model's engine has done so far; of an embedded engine that is configured and has not started, that it is not up, so that
/// who watches for 0 sees a model that was never there as well as one that died.
fn engine(config: &Model, model: Option<&dyn Provider>) -> String {
    match model {
        Some(model) => model.metrics().map(|metrics| metrics.prometheus()).unwrap_or_default(),
        None if config.provider == ModelProvider::Local && config.name != "none" => {
            "# TYPE galen_llm_up gauge\ngalen_llm_up 0\n".to_owned()
        }
        None => String::new(),
    }
}

/// Prometheus's text format.
async fn metrics(Extract(state): Extract<Arc<State>>) -> Response {
    let mut out = String::new();
    let counters = [
        ("galen_alerts_total", &state.counters.alerts),
        ("galen_diagnoses_total", &state.counters.diagnoses),
        ("galen_diagnosis_failures_total", &state.counters.failures),
        ("galen_collector_turns_total", &state.counters.turns),
    ];
    for (name, counter) in counters {
        let _ = writeln!(out, "# TYPE {name} counter\n{name} {}", counter.load(Ordering::Relaxed));
    }
    if let Ok(list) = state.with_store(|s| s.incidents(&Filter::default(), 1000)).await {
        let mut by_state: BTreeMap<String, u64> = BTreeMap::new();
        for incident in list {
            let name = serde_json::to_value(incident.state).unwrap_or(Value::Null);
            *by_state.entry(name.as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        out.push_str("# TYPE galen_incidents gauge\n");
        for (name, count) in by_state {
            let _ = writeln!(out, "galen_incidents{{state=\"{name}\"}} {count}");
        }
    }
    out.push_str("# TYPE galen_target_up gauge\n# TYPE galen_probe_milliseconds_total counter\n");
    for (name, target) in &state.targets {
        let _ = writeln!(out, "galen_target_up{{target=\"{name}\"}} {}", u8::from(lock(&target.down).is_none()));
        for cost in &lock(&target.history).bill {
            let _ = writeln!(out, "galen_probe_milliseconds_total{{target=\"{name}\",probe=\"{}\"}} {:.3}", cost.probe, cost.total_ms);
        }
    }
    out.push_str(&engine(&state.config.model, state.model.get().map(|model| &**model)));
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok().and_then(|s| s.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0);
    let _ = writeln!(out, "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {}", pages * 4096);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], out).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_has_not_started_is_not_up_and_one_of_a_server_is_neither() {
        let of = |provider, name: &str| engine(&Model { provider, name: name.to_owned(), ..Model::default() }, None);
        let up = of(ModelProvider::Local, "smollm2-135m");
        assert!(up.lines().any(|line| line == "galen_llm_up 0"), "{up}");
        assert_eq!([of(ModelProvider::Local, "none"), of(ModelProvider::Openai, "m")], ["", ""]);
    }
}
