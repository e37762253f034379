//! What a new index would change: planner costs with and without it, by hypopg, which builds nothing.

use serde_json::{Value, json};
use tokio_postgres::Client;

use super::connect::Facts;
use super::error::reason;
use super::plannable::Plannable;
use super::prober::{advice, explain};
use super::probes::{HYPOPG_SCHEMA, PLAN_COLUMNS};
use super::row::{get, text};

/// PostgreSQL allows 32; nobody wants more than this in an advised index.
const MOST_COLUMNS: usize = 8;

/// Costs of a statement before and after, inside the caller's transaction.
pub(super) async fn answer(
    client: &Client,
    facts: &Facts,
    statement: &Plannable,
    table: &str,
    columns: &[String],
    open: &mut bool,
) -> Result<Value, String> {
    if columns.is_empty() || columns.len() > MOST_COLUMNS {
        return Err(format!("an index on {} columns is not tried; name 1 to {MOST_COLUMNS}", columns.len()));
    }
    let hypopg = schema(client, facts).await?;
    let definition = definition(client, facts, table, columns).await?;
    let before = explain(client, facts, statement).await?;
    let answer = with_index(client, facts, statement, &hypopg, &definition).await;
    // Hypothetical indexes live as long as the session and know no transactions.
    client.batch_execute("ROLLBACK").await.map_err(|error| reason(&error))?;
    *open = false;
    client.batch_execute(&format!("SELECT {hypopg}.hypopg_reset()")).await.map_err(|error| reason(&error))?;
    let (after, name, bytes) = answer?;
    Ok(json!({
        "cost_before": before["Total Cost"],
        "cost_after": after["Total Cost"],
        "index_bytes": bytes,
        "uses_index": names_index(&after, &name),
        "definition": definition,
    }))
}

async fn with_index(
    client: &Client,
    facts: &Facts,
    statement: &Plannable,
    hypopg: &str,
    definition: &str,
) -> Result<(Value, String, f64), String> {
    let create = format!("SELECT indexrelid::int8 AS oid, indexname AS name FROM {hypopg}.hypopg_create_index($1)");
    let row = client.query_one(&create, &[&definition]).await.map_err(|error| advice(&error, facts))?;
    let oid: i64 = get(&row, "oid").ok_or("hypopg made no index")?;
    let size = format!("SELECT {hypopg}.hypopg_relation_size($1::int8::oid)::float8 AS bytes");
    let bytes = client.query_one(&size, &[&oid]).await.map_err(|error| advice(&error, facts))?;
    let plan = explain(client, facts, statement).await?;
    Ok((plan, text(&row, "name"), get(&bytes, "bytes").unwrap_or(0.0)))
}

async fn schema(client: &Client, facts: &Facts) -> Result<String, String> {
    let sql = HYPOPG_SCHEMA.sql(facts.version_num).unwrap_or_default();
    let row = client.query_opt(sql, &[]).await.map_err(|error| advice(&error, facts))?;
    row.map(|row| text(&row, "schema"))
        .ok_or_else(|| format!("hypopg is not installed in database {}; CREATE EXTENSION hypopg;", facts.database))
}

/// `CREATE INDEX` from names that stand in the catalog, quoted by the server.
async fn definition(client: &Client, facts: &Facts, table: &str, columns: &[String]) -> Result<String, String> {
    let sql = PLAN_COLUMNS.sql(facts.version_num).unwrap_or_default();
    let rows = client.query(sql, &[&table, &columns]).await.map_err(|error| advice(&error, facts))?;
    let row = rows.first().ok_or_else(|| format!("there is no table {table} in database {}", facts.database))?;
    let quoted: Vec<String> = get(row, "columns").unwrap_or_default();
    if quoted.len() != columns.len() {
        return Err(format!("columns {} are not all in {table}", columns.join(", ")));
    }
    Ok(format!("CREATE INDEX ON {} USING btree ({})", text(row, "table"), quoted.join(", ")))
}

/// True when any node of the plan scans the index.
fn names_index(plan: &Value, name: &str) -> bool {
    match plan {
        Value::Object(fields) => {
            fields.get("Index Name").and_then(Value::as_str) == Some(name) || fields.values().any(|v| names_index(v, name))
        }
        Value::Array(items) => items.iter().any(|item| names_index(item, name)),
        _ => false,
    }
}
