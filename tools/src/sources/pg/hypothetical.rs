//! Hypothetical indexes (hypopg): the planner's cost with an index that nobody has built.

use serde_json::{Value, json};

use super::connect::Link;
use super::error::reason;
use super::prober::PgProber;
use super::probes::{HYPOPG_SCHEMA, PLAN_COLUMNS};
use super::row::{get, text as column};

/// Cost of a statement before and after an index on these columns. Names are found in the catalog and quoted by the
/// server; nothing is built and nothing outlives the session.
pub(super) async fn ask(prober: &PgProber, link: &Link, text: &str, table: &str, columns: &[String]) -> Result<Value, String> {
    let fail = |error: tokio_postgres::Error| reason(&error);
    let schema = link.client.query_opt(HYPOPG_SCHEMA.sql(prober.version_num).unwrap_or_default(), &[]).await.map_err(fail)?;
    let Some(schema) = schema.map(|row| column(&row, "schema")) else {
        return Err("hypopg is not installed in this database: CREATE EXTENSION hypopg;".into());
    };
    let found = link.client.query_opt(PLAN_COLUMNS.sql(prober.version_num).unwrap_or_default(), &[&table, &columns]).await.map_err(fail)?;
    let Some(row) = found else { return Err(format!("table {table} is not in the catalog")) };
    let (quoted, names): (String, Vec<String>) = (column(&row, "table"), get(&row, "columns").unwrap_or_default());
    if names.is_empty() || names.len() != columns.len() {
        return Err(format!("columns {} are not all in {table}", columns.join(", ")));
    }
    let before = prober.plan(link, text).await?;
    let definition = format!("CREATE INDEX ON {quoted} ({})", names.join(", "));
    let made = link
        .client
        .query_one(&format!("SELECT indexrelid::oid AS id, indexname::text AS name FROM {schema}.hypopg_create_index($1)"), &[&definition])
        .await
        .map_err(fail)?;
    let name = column(&made, "name");
    let id: u32 = get(&made, "id").unwrap_or(0);
    let size = link.client.query_one(&format!("SELECT {schema}.hypopg_relation_size($1)::float8 AS bytes"), &[&id]).await;
    let after = prober.plan(link, text).await;
    let _ = link.client.batch_execute(&format!("SELECT {schema}.hypopg_reset()")).await;
    let after = after?;
    let cost = |plan: &Value| plan["Total Cost"].as_f64();
    Ok(json!({
        "cost_before": cost(&before),
        "cost_after": cost(&after),
        "index_bytes": size.ok().and_then(|row| get::<f64>(&row, "bytes")),
        "uses_index": after.to_string().contains(&name) && !name.is_empty(),
        "definition": definition,
    }))
}
