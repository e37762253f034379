//! Walks over a parse tree as JSON, without recursion in our code: the tree's depth is the statement's business.

use serde_json::{Map, Value};

/// All nodes of a kind (`ColumnRef`, `SubLink`, ...) at or below a value, in document order.
pub fn find_all<'t>(tree: &'t Value, kind: &str) -> Vec<&'t Value> {
    let mut found = Vec::new();
    let mut open = vec![tree];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                for (key, child) in fields.iter().rev() {
                    if key == kind && child.is_object() {
                        found.push(child);
                    }
                    open.push(child);
                }
            }
            Value::Array(items) => open.extend(items.iter().rev()),
            _ => {}
        }
    }
    found
}

/// Derived tables (subqueries in FROM) at or below a value, those inside of others left out.
pub fn derived_tables(tree: &Value) -> Vec<&Value> {
    let mut found = Vec::new();
    let mut open = vec![tree];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                for (key, child) in fields {
                    match key.as_str() {
                        "RangeSubselect" => found.push(child),
                        "SubLink" => {}
                        _ => open.push(child),
                    }
                }
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    found
}

/// A copy of a tree without its subqueries.
pub fn without_subqueries(tree: &Value) -> Value {
    match tree {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(key, _)| !matches!(key.as_str(), "SubLink" | "RangeSubselect" | "CommonTableExpr"));
            Value::Object(kept.map(|(key, child)| (key.clone(), without_subqueries(child))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_subqueries).collect()),
        other => other.clone(),
    }
}

/// Tables with their aliases (the bare name where there is none), at or below a value, subqueries included.
pub fn range_tables(tree: &Value) -> Vec<(String, String)> {
    let mut nodes = find_all(tree, "RangeVar");
    // A RangeVar that is a field, not a node: the target of UPDATE, DELETE, INSERT and CREATE INDEX.
    if tree["relname"].is_string() {
        nodes.push(tree);
    }
    if tree["relation"]["relname"].is_string() {
        nodes.push(&tree["relation"]);
    }
    nodes
        .into_iter()
        .filter_map(|node| {
            let name = node["relname"].as_str()?;
            let schema = node["schemaname"].as_str().filter(|s| !s.is_empty());
            let alias = node["alias"]["aliasname"].as_str().unwrap_or(name);
            Some((schema.map_or_else(|| name.to_owned(), |s| format!("{s}.{name}")), alias.to_owned()))
        })
        .collect()
}

/// Columns at or below a value: alias (empty when unqualified) and name.
pub fn columns_of(tree: &Value) -> Vec<(String, String)> {
    find_all(tree, "ColumnRef")
        .into_iter()
        .filter_map(|node| {
            let parts: Vec<String> = strings(&node["fields"]);
            let column = parts.last()?.clone();
            let alias = if parts.len() > 1 { parts[parts.len() - 2].clone() } else { String::new() };
            Some((alias, column))
        })
        .collect()
}

/// The last part of a dotted name (`pg_catalog.count` gives `count`).
pub fn ident(names: &Value) -> String {
    strings(names).pop().unwrap_or_default()
}

/// A list field, empty when absent.
pub fn list<'t>(tree: &'t Value, key: &str) -> &'t [Value] {
    tree[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn strings(names: &Value) -> Vec<String> {
    find_all(names, "String").iter().filter_map(|s| s["sval"].as_str().map(str::to_owned)).collect()
}
