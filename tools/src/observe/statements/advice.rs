//! Tools that ask the target: a hypothetical index for the scanning statement, the plan of the top statement.

use serde_json::Value;

use crate::model::CulpritKind;
use crate::observe::facts::FactSheet;
use crate::observe::{Observation, Scene};
use crate::probe::ProbeCall;

use super::{scans, top};

/// The calls a diagnosis of this scene would put to the target: to freeze their answers beforehand.
pub fn calls(scene: &Scene<'_>) -> Vec<ProbeCall> {
    [hypothetical(scene), top::top(scene).map(|query_id| ProbeCall::Plan { query_id })].into_iter().flatten().collect()
}

fn hypothetical(scene: &Scene<'_>) -> Option<ProbeCall> {
    let scan = scans::scan(scene)?;
    let columns: Vec<String> = scan.columns.iter().take(3).cloned().collect();
    (!columns.is_empty()).then_some(())?;
    Some(ProbeCall::HypotheticalIndex { query_id: scan.query_id?, table: scan.table, columns })
}

/// `index_advice`.
pub async fn index_advice(scene: &Scene<'_>) -> Observation {
    let mut sheet = FactSheet::new("index_advice", scene);
    let Some(call) = hypothetical(scene) else {
        return sheet.finish("no statement scans a table by a predicate that an index could serve");
    };
    let ProbeCall::HypotheticalIndex { query_id, table, .. } = &call else { return sheet.finish("no candidate") };
    let answer = scene.prober.ask(&call).await;
    sheet.cost(answer.cost_ms);
    let Some(data) = answer.data else { return sheet.finish(&answer.no_data.unwrap_or_else(|| "the target did not answer".into())) };
    let number = |key: &str| data[key].as_f64();
    sheet.put("table", table.as_str()).put("query_id", query_id.to_string());
    sheet.put("cost_before", number("cost_before")).put("cost_after", number("cost_after")).put("index_bytes", number("index_bytes"));
    sheet.put("cost_ratio", number("cost_before").zip(number("cost_after")).map(|(b, a)| (b / a.max(0.01)).min(1e6)));
    sheet.put("uses_index", data["uses_index"].as_bool()).put("definition", data["definition"].as_str());
    sheet.finish("the target's answer held nothing")
}

/// `plan`.
pub async fn plan(scene: &Scene<'_>) -> Observation {
    let mut sheet = FactSheet::new("plan", scene);
    let Some(query_id) = top::top(scene) else { return sheet.finish("no statement was seen") };
    let answer = scene.prober.ask(&ProbeCall::Plan { query_id }).await;
    sheet.cost(answer.cost_ms);
    let Some(data) = answer.data else { return sheet.finish(&answer.no_data.unwrap_or_else(|| "the target did not answer".into())) };
    let nodes = flatten(&data);
    let kind = |n: &Value| n["Node Type"].as_str().unwrap_or_default().to_owned();
    sheet.put("query_id", query_id.to_string());
    sheet.put("total_cost", data["Total Cost"].as_f64()).put("plan_rows", data["Plan Rows"].as_f64());
    let mut types: Vec<String> = nodes.iter().map(|n| kind(n)).collect();
    types.sort();
    types.dedup();
    let joins = nodes.iter().filter(|n| matches!(kind(n).as_str(), "Nested Loop" | "Hash Join" | "Merge Join")).count();
    let scanned: Vec<String> =
        nodes.iter().filter(|n| kind(n) == "Seq Scan").filter_map(|n| n["Relation Name"].as_str().map(str::to_owned)).collect();
    let inner_scan = |n: &&&Value| {
        n["Plans"]
            .as_array()
            .and_then(|p| p.get(1))
            .is_some_and(|inner| kind(inner) == "Seq Scan" && inner["Plan Rows"].as_f64() > Some(500.0))
    };
    sheet.put("nested_loop_over_seq_scan", nodes.iter().filter(|n| kind(n) == "Nested Loop").any(|n| inner_scan(&n)));
    sheet.put("cartesian", nodes.iter().filter(|n| kind(n) == "Nested Loop").any(|n| unconditioned(n)));
    sheet.put("sort_or_hash", types.iter().any(|t| t.starts_with("Sort") || t.contains("Hash") || t.contains("Aggregate")));
    sheet.put("subplan", nodes.iter().any(|n| n["Parent Relationship"] == "SubPlan"));
    sheet.put("node_types", types).put("join_nodes", joins).put("seq_scan_tables", scanned.clone());
    for table in scanned.iter().take(2) {
        sheet.culprit(CulpritKind::Table, table, "read by a sequential scan in the plan");
    }
    sheet.finish("")
}

/// A nested loop with no join filter whose inner side has no condition at all: a Cartesian product.
fn unconditioned(node: &Value) -> bool {
    let Some(inner) = node["Plans"].as_array().and_then(|p| p.get(1)) else { return false };
    let free = |n: &Value| ["Index Cond", "Filter", "Recheck Cond", "Hash Cond", "Cache Key"].iter().all(|k| n[*k].is_null());
    let rows = inner["Plan Rows"].as_f64().unwrap_or(0.0);
    node["Join Filter"].is_null() && flatten(inner).iter().all(|n| free(n)) && rows > 100.0
}

/// All nodes of a plan, bounded.
fn flatten(plan: &Value) -> Vec<&Value> {
    let (mut nodes, mut open) = (Vec::new(), vec![plan]);
    while let Some(node) = open.pop() {
        nodes.push(node);
        if nodes.len() > 500 {
            break;
        }
        open.extend(node["Plans"].as_array().into_iter().flatten());
    }
    nodes
}
