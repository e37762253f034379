//! The socket door: JSON-RPC 2.0, one object a line, for people of this machine.
//!
//! Who may come in is decided by the socket's mode (0660) alone: to connect takes the right to write to it, which the
//! kernel grants to its user, to root, and to every member of its group, supplementary ones included. Credentials of
//! the peer would tell the primary group only.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use galen_tools::store::{Filter, StoreError, StoreErrorKind};

use crate::ask;
use crate::failure::Failure;
use crate::state::{State, lock};

/// Longest line, bytes.
const MOST_LINE: u64 = 1 << 20;
/// Clients at a time.
const MOST_CLIENTS: usize = 32;
/// A client that says nothing for this long is dropped.
const IDLE: Duration = Duration::from_secs(60);

/// Serves what [`bind`] opened until `stop`; the socket file is removed at the end.
pub async fn serve(state: Arc<State>, listener: UnixListener, path: &Path, stop: impl Future<Output = ()>) {
    let clients = Arc::new(Semaphore::new(MOST_CLIENTS));
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&clients).try_acquire_owned() else { continue };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let _permit = permit;
            let _ = converse(&state, stream).await;
        });
    }
    let _ = std::fs::remove_file(path);
}

/// Opens the socket.
///
/// # Errors
/// Another daemon listens, or the path cannot be bound.
pub async fn bind(path: &Path) -> Result<UnixListener, Failure> {
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(Failure::config(format!("another daemon listens on {}; stop it or choose another socket.path", path.display())));
        }
        let _ = std::fs::remove_file(path);
    }
    let fail = |e: std::io::Error| Failure::config(format!("cannot listen on {}: {e}; choose another socket.path", path.display()));
    // Bound under a name nobody knows, then opened to the group, then moved into place: never open to all.
    let hidden = path.with_extension(format!("sock.{}", std::process::id()));
    let _ = std::fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden).map_err(fail)?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o660)).map_err(fail)?;
    std::fs::rename(&hidden, path).map_err(fail)?;
    Ok(listener)
}

async fn converse(state: &Arc<State>, stream: UnixStream) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(MOST_LINE + 1);
        let read = tokio::time::timeout(IDLE, limited.read_until(b'\n', &mut line)).await;
        if !matches!(read, Ok(Ok(n)) if n > 0) {
            return Ok(());
        }
        let too_long = line.len() as u64 > MOST_LINE;
        let answer = if too_long { fault(Value::Null, -32600, "a request has at most 1 MB") } else { answer(state, &line).await };
        if let Some(answer) = answer {
            let mut text = answer.to_string();
            text.push('\n');
            write.write_all(text.as_bytes()).await?;
        }
        if too_long {
            return Ok(());
        }
    }
}

#[derive(Deserialize)]
struct Request {
    jsonrpc: String,
    method: String,
    #[serde(default)]
    params: Value,
    id: Option<Value>,
}

/// The answer to one line; none to a notification.
async fn answer(state: &Arc<State>, line: &[u8]) -> Option<Value> {
    let Ok(raw) = serde_json::from_slice::<Value>(line) else { return fault(Value::Null, -32700, "this is not JSON") };
    let id = raw.get("id").cloned().filter(|id| id.is_string() || id.is_number());
    let Ok(request) = serde_json::from_value::<Request>(raw) else {
        return fault(
            id.unwrap_or(Value::Null),
            -32600,
            "this is not a JSON-RPC 2.0 request: {\"jsonrpc\":\"2.0\",\"method\":..,\"params\":{..},\"id\":1}",
        );
    };
    if request.jsonrpc != "2.0" {
        return fault(id.unwrap_or(Value::Null), -32600, "jsonrpc must be \"2.0\"");
    }
    let result = call_method(state, &request.method, &request.params).await;
    request.id.as_ref()?;
    let id = id.unwrap_or(Value::Null);
    match result {
        Ok(result) => Some(json!({"jsonrpc": "2.0", "id": id, "result": result})),
        Err((code, message)) => fault(id, code, &message),
    }
}

fn fault(id: Value, code: i64, message: &str) -> Option<Value> {
    Some(json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}))
}

type Outcome = Result<Value, (i64, String)>;

fn wrong(what: &str) -> (i64, String) {
    (-32602, what.to_owned())
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        let code = if error.kind == StoreErrorKind::NotFound { -32602 } else { -32000 };
        Self((code, error.to_string()))
    }
}

struct Trouble((i64, String));

impl From<Trouble> for (i64, String) {
    fn from(trouble: Trouble) -> Self {
        trouble.0
    }
}

async fn call_method(state: &Arc<State>, method: &str, params: &Value) -> Outcome {
    let id = || params["id"].as_i64().ok_or_else(|| wrong("params.id must be the number of an incident"));
    match method {
        "status" => Ok(status(state)),
        "incidents.list" => {
            let limit = params["limit"].as_u64().unwrap_or(50).min(1000) as usize;
            let list = state.with_store(move |s| s.incidents(&Filter::default(), limit)).await.map_err(Trouble::from)?;
            Ok(serde_json::to_value(list).unwrap_or_default())
        }
        "incidents.show" => show(state, id()?).await,
        "incidents.report" => {
            let id = id()?;
            let saved = state.with_store(move |s| s.report(id)).await.map_err(Trouble::from)?;
            match params["format"].as_str().unwrap_or("json") {
                "json" => Ok(serde_json::from_str(&saved.report_json).unwrap_or_default()),
                "markdown" => Ok(saved.markdown.into()),
                "html" => Ok(saved.html.into()),
                other => {
                    Err(wrong(&format!("params.format `{}` is none of json, markdown, html", other.chars().take(40).collect::<String>())))
                }
            }
        }
        "incidents.tree" => {
            let id = id()?;
            let tree = state.with_store(move |s| s.tree(id)).await.map_err(Trouble::from)?;
            Ok(serde_json::from_str(&tree).unwrap_or_default())
        }
        "incidents.label" => {
            let (id, cause) = (id()?, params["cause"].as_str().unwrap_or_default().to_owned());
            let known = cause == "healthy" || galen_knowledge::catalog::Catalog::builtin().is_ok_and(|c| c.get(&cause).is_some());
            if !known {
                return Err(wrong("params.cause is not in the catalog"));
            }
            let note = params["note"].as_str().unwrap_or_default().to_owned();
            state.with_store(move |s| s.label(id, &cause, &note)).await.map_err(Trouble::from)?;
            Ok(json!({"labelled": id}))
        }
        "ask" => question(state, params).await,
        _ => Err((-32601, "there is no such method".to_owned())),
    }
}

fn status(state: &State) -> Value {
    let targets: Value = state.targets.iter().map(|(name, t)| json!({"target": name, "down": *lock(&t.down)})).collect();
    json!({"version": env!("CARGO_PKG_VERSION"), "targets": targets, "model": state.config.model.name})
}

async fn show(state: &Arc<State>, id: i64) -> Outcome {
    let incident = state.with_store(move |s| s.incident(id)).await.map_err(Trouble::from)?;
    let alerts = state.with_store(move |s| s.alerts_of(id)).await.map_err(Trouble::from)?;
    let reported = state.with_store(move |s| s.report(id)).await.ok();
    let mut value = serde_json::to_value(&incident).unwrap_or_default();
    value["alerts"] = serde_json::to_value(alerts).unwrap_or_default();
    if let Some((cause, seconds)) = lock(&state.first_findings).get(&id) {
        value["first_finding"] = json!({"cause": cause, "seconds": seconds});
        value["first_finding_s"] = json!(seconds);
    }
    if let Some(why) = lock(&state.troubles).get(&id) {
        value["error"] = json!(format!("{why}; tried again by itself"));
    }
    if let Some(saved) = reported {
        value["report_s"] = json!((saved.at - incident.opened_at) as f64 / 1000.0);
    }
    Ok(value)
}

async fn question(state: &Arc<State>, params: &Value) -> Outcome {
    let Some(question) = params["question"].as_str().filter(|q| !q.trim().is_empty() && q.len() <= 4_000) else {
        return Err(wrong("params.question must be a text of at most 4000 characters"));
    };
    let list = state.with_store(|s| s.incidents(&Filter::default(), 200)).await.map_err(Trouble::from)?;
    let mut reports = Vec::new();
    for incident in list.iter().filter(|i| params["incident"].as_i64().is_none_or(|wanted| wanted == i.id)) {
        let id = incident.id;
        if let Ok(saved) = state.with_store(move |s| s.report(id)).await
            && let Ok(report) = serde_json::from_str::<galen_agents::report::Report>(&saved.report_json)
        {
            reports.push((id, report));
        }
    }
    let now = jiff::Timestamp::now();
    let Some(ask::Picked { id, report, note }) = ask::pick(question, &reports, now) else {
        return Err((-32000, "there is no report to answer from yet; `galen incidents list` shows what is under way".to_owned()));
    };
    // Who names an incident does not ask for another.
    let note = note.filter(|_| params["incident"].is_null());
    let answer = ask::answer(question, report);
    Ok(json!({"incident": id, "note": note, "answered": answer.answered, "sentences": answer.sentences, "headline": report.headline}))
}

/// Calls a method of the daemon that listens on `path`.
///
/// # Errors
/// Code 4 when no daemon listens or it refuses; its own message otherwise.
pub async fn call(path: &Path, method: &str, params: Value) -> Result<Value, Failure> {
    let nobody = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::PermissionDenied => {
            Failure::target(format!("you may not use {}; become a member of its group (`ls -l` shows it)", path.display()))
        }
        _ => Failure::target(format!("no daemon listens on {} ({e}); start one with `galen serve`", path.display())),
    };
    let stream = UnixStream::connect(path).await.map_err(nobody)?;
    let (read, mut write) = stream.into_split();
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    write.write_all(format!("{request}\n").as_bytes()).await.map_err(nobody)?;
    let mut line = String::new();
    let mut reader = BufReader::new(read).take(64 << 20);
    tokio::time::timeout(IDLE, reader.read_line(&mut line))
        .await
        .map_err(|_| Failure::target("the daemon does not answer; look at its log".to_owned()))?
        .map_err(nobody)?;
    let answer: Value = serde_json::from_str(&line)
        .map_err(|_| Failure::target("the daemon closed the connection; it serves 32 clients at a time, try again".to_owned()))?;
    if let Some(message) = answer["error"]["message"].as_str() {
        let code = answer["error"]["code"].as_i64().unwrap_or(0);
        return Err(if code == -32602 { Failure::usage(message.to_owned()) } else { Failure::target(message.to_owned()) });
    }
    Ok(answer["result"].clone())
}
