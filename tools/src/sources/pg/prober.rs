//! Answers the on-demand probes of a diagnosis over the second connection: plans without running anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Mutex;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::capture::Capture;
use crate::probe::{Answering, ProbeAnswer, ProbeCall, Prober};

use super::config::PgConfig;
use super::connect::{self, Facts, Link};
use super::error::{SourceError, reason};
use super::hypothetical;
use super::plannable::{Plannable, plannable, safe};
use super::probes::STATEMENT_TEXTS;
use super::runner::lost;
use super::text::normalise;

/// No answer may take longer, connecting included.
const LIMIT: Duration = Duration::from_secs(5);

/// A live target that answers probe calls over one connection, which it opens again when it was lost.
pub struct PgProber {
    config: PgConfig,
    texts: BTreeMap<i64, String>,
    session: Mutex<Option<(Link, Facts)>>,
}

impl PgProber {
    /// Opens the second connection. `capture` knows the texts of the statements that may be asked about; others are
    /// looked up in pg_stat_statements.
    ///
    /// # Errors
    /// As for a collector.
    pub async fn connect(config: &PgConfig, capture: &Capture) -> Result<Self, SourceError> {
        let session = Mutex::new(Some(open(config).await?));
        Ok(Self { config: config.clone(), texts: capture.texts.clone(), session })
    }

    async fn answer(&self, call: &ProbeCall) -> Result<Value, String> {
        let mut held = self.session.lock().await;
        // Taken out while in use: if this future is dropped half way, the session is closed and not used again.
        let (link, facts) = match held.take().filter(|(link, _)| !link.client.is_closed()) {
            Some(session) => session,
            None => open(&self.config).await.map_err(|error| error.to_string())?,
        };
        let answer = self.put(&link.client, &facts, call).await;
        let ended = link.client.batch_execute("ROLLBACK").await;
        if ended.is_ok() {
            *held = Some((link, facts));
        }
        answer
    }

    async fn put(&self, client: &Client, facts: &Facts, call: &ProbeCall) -> Result<Value, String> {
        let (ProbeCall::Plan { query_id } | ProbeCall::HypotheticalIndex { query_id, .. }) = call;
        let text = match self.texts.get(query_id).cloned() {
            Some(text) => text,
            None => look_up(client, facts, *query_id).await?,
        };
        let statement = plannable(&text)?;
        client.batch_execute("BEGIN READ ONLY").await.map_err(|error| reason(&error))?;
        safe(client, facts, &statement).await?;
        match call {
            ProbeCall::Plan { .. } => explain(client, facts, &statement).await,
            ProbeCall::HypotheticalIndex { table, columns, .. } => hypothetical::answer(client, facts, &statement, table, columns).await,
        }
    }
}

impl Prober for PgProber {
    fn ask<'a>(&'a self, call: &'a ProbeCall) -> Answering<'a> {
        Box::pin(async move {
            let started = Instant::now();
            let late = || Err(format!("the target did not answer within {LIMIT:?}; ask again when it is less busy"));
            let answer = tokio::time::timeout(LIMIT, self.answer(call)).await.unwrap_or_else(|_| late());
            let (data, no_data) = match answer {
                Ok(data) => (Some(data), None),
                Err(why) => (None, Some(why)),
            };
            ProbeAnswer { data, no_data, cost_ms: started.elapsed().as_secs_f64() * 1000.0 }
        })
    }
}

async fn open(config: &PgConfig) -> Result<(Link, Facts), SourceError> {
    let (link, facts) = connect::open(config).await?;
    // Plans are made as the application's sessions make them, not with the collector's own settings.
    let _ = link.client.batch_execute("RESET search_path; RESET jit; RESET max_parallel_workers_per_gather").await;
    Ok((link, facts))
}

/// The generic plan (EXPLAIN's `Plan` object) of a statement, inside the caller's transaction.
pub(super) async fn explain(client: &Client, facts: &Facts, statement: &Plannable) -> Result<Value, String> {
    let messages = if facts.version_num >= 160_000 {
        // The simple protocol: `$n` are not parameters of this request.
        client.simple_query(&format!("EXPLAIN (GENERIC_PLAN, FORMAT JSON) {}", statement.sql)).await
    } else {
        explain_prepared(client, statement).await
    };
    let messages = messages.map_err(|error| advice(&error, facts))?;
    let text = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let value: Value = serde_json::from_str(text.unwrap_or_default()).map_err(|_| "the server's plan is not json")?;
    value.pointer("/0/Plan").cloned().ok_or_else(|| "the statement has no plan".into())
}

async fn explain_prepared(client: &Client, statement: &Plannable) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
    client.batch_execute("SET LOCAL plan_cache_mode = force_generic_plan; SAVEPOINT prepared").await?;
    client.batch_execute(&format!("PREPARE galen_plan AS {}", statement.sql)).await?;
    let nulls = vec!["NULL"; statement.parameters].join(", ");
    let arguments = if nulls.is_empty() { nulls } else { format!("({nulls})") };
    let plan = client.simple_query(&format!("EXPLAIN (FORMAT JSON) EXECUTE galen_plan{arguments}")).await;
    // Prepared statements outlive a rollback. After a failure only a rollback makes the session listen again.
    if plan.is_err() {
        client.batch_execute("ROLLBACK TO prepared").await?;
    }
    client.batch_execute("DEALLOCATE galen_plan").await?;
    plan
}

async fn look_up(client: &Client, facts: &Facts, query_id: i64) -> Result<String, String> {
    let unknown = || format!("the text of statement {query_id} is not known");
    let schema = facts.statements_schema.as_ref().ok_or_else(unknown)?.replace('"', "\"\"");
    let sql = STATEMENT_TEXTS.sql(facts.version_num).ok_or_else(unknown)?;
    let path = format!("BEGIN READ ONLY; SET LOCAL search_path = pg_catalog, \"{schema}\"");
    client.batch_execute(&path).await.map_err(|error| reason(&error))?;
    let rows = client.query(sql, &[&vec![query_id]]).await.map_err(|error| reason(&error))?;
    client.batch_execute("ROLLBACK").await.map_err(|error| reason(&error))?;
    let row = rows.first().ok_or_else(unknown)?;
    Ok(normalise(&super::row::text(row, "query")))
}

/// Why the server gave no plan, and what helps.
pub(super) fn advice(error: &tokio_postgres::Error, facts: &Facts) -> String {
    let (why, role) = (reason(error), &facts.role);
    match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) if facts.version_num >= 140_000 => {
            format!("{why}; GRANT pg_read_all_data TO {role}; lets galen plan reading statements")
        }
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            format!("{why}; GRANT SELECT ON the statement's tables TO {role}; lets galen plan it")
        }
        Some(&SqlState::INDETERMINATE_DATATYPE) => {
            format!("{why}; the statement cannot be planned without its parameters")
        }
        Some(&SqlState::UNDEFINED_TABLE) => {
            let database = &facts.database;
            format!("{why}; set the role's search_path: ALTER ROLE {role} IN DATABASE {database} SET search_path = ..;")
        }
        _ if lost(error) => format!("connection lost: {why}; ask again"),
        _ => why,
    }
}
