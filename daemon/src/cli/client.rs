//! `galen incidents` and `galen ask`: a running daemon, over its socket.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Global;
use crate::failure::Failure;
use crate::{output, rpc};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen incidents list
  galen incidents report 3 --format html > report.html
  galen incidents label 3 missing_index --note \"confirmed by the team\"")]
pub struct IncidentsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List incidents, newest first
    List,
    /// Show one incident and its alerts
    Show { id: i64 },
    /// Print its report
    Report {
        id: i64,
        /// Form of the report
        #[arg(long, value_parser = ["markdown", "html", "json"], default_value = "markdown")]
        format: String,
    },
    /// Show the search tree, pruned branches with their reasons
    Tree { id: i64 },
    /// Say what the cause really was
    Label {
        id: i64,
        cause: String,
        #[arg(long, default_value = "")]
        note: String,
    },
}

/// One call to the daemon, printed.
pub async fn incidents(global: &Global, args: IncidentsArgs) -> Result<(), Failure> {
    let path = global.load()?.socket_path();
    let call = |method: &'static str, params: Value| {
        let path = path.clone();
        async move { rpc::call(&path, method, params).await }
    };
    match args.action {
        Action::List => {
            let list = call("incidents.list", json!({"limit": 100})).await?;
            let rows = list.as_array().cloned().unwrap_or_default();
            if rows.is_empty() && !global.json {
                output::line("no incidents so far");
            }
            for i in rows {
                output::line(&if global.json { i.to_string() } else { row(&i) });
            }
        }
        Action::Show { id } => show(global, &call("incidents.show", json!({"id": id})).await?),
        Action::Report { id, format } => {
            let format = if global.json { "json".to_owned() } else { format };
            match call("incidents.report", json!({"id": id, "format": format})).await? {
                Value::String(text) => output::text(&text),
                object => output::line(&object.to_string()),
            }
        }
        Action::Tree { id } => {
            let tree = call("incidents.tree", json!({"id": id})).await?;
            let nodes = tree.as_array().cloned().unwrap_or_default();
            for node in &nodes {
                output::line(&if global.json { node.to_string() } else { branch(node) });
            }
        }
        Action::Label { id, cause, note } => {
            call("incidents.label", json!({"id": id, "cause": cause, "note": note})).await?;
            output::line(&if global.json { json!({"labelled": id}).to_string() } else { format!("incident {id} is labelled {cause}") });
        }
    }
    Ok(())
}

fn clean(value: &Value) -> String {
    output::plain(value.as_str().unwrap_or_default())
}

fn row(i: &Value) -> String {
    let began =
        i["opened_at"].as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|t| t.to_string()).unwrap_or_default();
    format!("{:>4}  {:<20.19} {:<12} {:<10} {}", i["id"], began, clean(&i["target"]), clean(&i["state"]), clean(&i["headline"]))
}

fn show(global: &Global, incident: &Value) {
    if global.json {
        output::line(&incident.to_string());
        return;
    }
    output::line(&row(incident));
    for alert in incident["alerts"].as_array().into_iter().flatten() {
        output::line(&format!("      alert {} from {}: {}", clean(&alert["name"]), clean(&alert["source"]), clean(&alert["summary"])));
    }
    if let Some(cause) = incident["first_finding"]["cause"].as_str() {
        output::line(&format!("      first finding {cause} after {:.1} s", incident["first_finding_s"].as_f64().unwrap_or(0.0)));
    }
    if let Some(error) = incident["error"].as_str() {
        output::line(&format!("      {error}"));
    }
}

/// One node: indentation by kind, then state and why.
fn branch(node: &Value) -> String {
    let depth = match node["kind"].as_str().unwrap_or_default() {
        "root" => 0,
        "hypothesis" => 1,
        _ => 2,
    };
    let p = node["probability"].as_f64().map(|p| format!(" {:.1} %", p * 100.0)).unwrap_or_default();
    format!(
        "{:indent$}{} [{}{p}, {} visits] {}",
        "",
        clean(&node["label"]),
        clean(&node["state"]),
        node["visits"],
        clean(&node["reason"]),
        indent = depth * 2
    )
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen ask \"why is checkout slow since 14:05?\"
  galen ask \"what should we do?\" --incident 3
  galen ask \"could it be deadlocks?\"")]
pub struct AskArgs {
    /// The question
    question: String,
    /// Incident to ask about; by default the one at the time of today (UTC) in the question, else the newest
    #[arg(long)]
    incident: Option<i64>,
}

/// Asks the daemon.
pub async fn ask(global: &Global, args: AskArgs) -> Result<(), Failure> {
    let path = global.load()?.socket_path();
    let answer = rpc::call(&path, "ask", json!({"question": args.question, "incident": args.incident})).await?;
    if global.json {
        output::line(&answer.to_string());
        return Ok(());
    }
    if answer["note"].is_string() {
        output::line(&clean(&answer["note"]));
    }
    output::line(&format!("incident {}: {}", answer["incident"], clean(&answer["headline"])));
    for sentence in answer["sentences"].as_array().into_iter().flatten() {
        let ids: Vec<String> = sentence["evidence"].as_array().into_iter().flatten().map(clean).collect();
        output::line(&format!("  {} [{}]", clean(&sentence["text"]), ids.join(", ")));
    }
    Ok(())
}
