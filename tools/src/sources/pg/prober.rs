//! Answers on-demand probes over the second connection: plans and hypothetical indexes, never executing a statement.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Mutex;

use crate::capture::Capture;
use crate::probe::{Answering, ProbeAnswer, ProbeCall, Prober};

use super::config::PgConfig;
use super::connect::{self, Link};
use super::error::{SourceError, reason};
use super::hypothetical;

/// Longest time a probe may take in all.
const LIMIT: Duration = Duration::from_secs(5);

/// A live target that answers probes. Statements are known by the texts of a capture.
pub struct PgProber {
    session: Mutex<Link>,
    pub(super) version_num: i32,
    pub(super) role: String,
    texts: std::collections::BTreeMap<i64, String>,
}

impl PgProber {
    /// Opens the second connection; `capture` knows the texts of the statements that may be asked about.
    ///
    /// # Errors
    /// As for a collector.
    pub async fn connect(config: &PgConfig, capture: &Capture) -> Result<Self, SourceError> {
        let (link, facts) = connect::open(config).await?;
        // Plans are made as the application's sessions make them: with the usual search path.
        let _ = link.client.batch_execute("RESET search_path; RESET jit; RESET max_parallel_workers_per_gather").await;
        Ok(Self { session: Mutex::new(link), version_num: facts.version_num, role: facts.role, texts: capture.texts.clone() })
    }

    async fn answer(&self, call: &ProbeCall) -> Result<Value, String> {
        let link = self.session.lock().await;
        match call {
            ProbeCall::Plan { query_id } => self.plan(&link, self.text(*query_id)?).await,
            ProbeCall::HypotheticalIndex { query_id, table, columns } => {
                hypothetical::ask(self, &link, self.text(*query_id)?, table, columns).await
            }
        }
    }

    fn text(&self, query_id: i64) -> Result<&str, String> {
        self.texts.get(&query_id).map(String::as_str).ok_or_else(|| format!("the text of statement {query_id} is not known"))
    }

    /// The generic plan of a statement. It runs in a read-only transaction that is rolled back, and never ANALYZEs.
    pub(super) async fn plan(&self, link: &Link, text: &str) -> Result<Value, String> {
        let parameters = plannable(text)?;
        let fail = |error: tokio_postgres::Error| self.advise(&reason(&error));
        link.client.batch_execute("BEGIN READ ONLY; SET LOCAL statement_timeout = 2000").await.map_err(fail)?;
        let planned = if self.version_num >= 160_000 {
            link.client.simple_query(&format!("EXPLAIN (GENERIC_PLAN, FORMAT JSON) {text}")).await
        } else {
            prepared(link, text, parameters).await
        };
        link.client.batch_execute("ROLLBACK; DEALLOCATE ALL").await.map_err(fail)?;
        let rows = planned.map_err(fail)?;
        let json = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        let plan: Value = serde_json::from_str(&json.unwrap_or_default()).map_err(|_| "the plan is not JSON".to_owned())?;
        plan.pointer("/0/Plan").cloned().ok_or_else(|| "the server gave no plan".to_owned())
    }

    fn advise(&self, why: &str) -> String {
        if why.contains("permission denied") {
            let grant = if self.version_num >= 140_000 { "pg_read_all_data" } else { "SELECT on its tables" };
            return format!("{why}; to let galen see plans: GRANT {grant} TO {};", self.role);
        }
        why.to_owned()
    }
}

/// Up to PostgreSQL 15: a prepared statement with its parameters unknown, under a generic plan.
async fn prepared(link: &Link, text: &str, parameters: usize) -> Result<Vec<tokio_postgres::SimpleQueryMessage>, tokio_postgres::Error> {
    link.client.batch_execute("SET LOCAL plan_cache_mode = force_generic_plan").await?;
    link.client.batch_execute(&format!("PREPARE galen_plan AS {text}")).await?;
    let nulls = vec!["NULL"; parameters].join(", ");
    let arguments = if parameters > 0 { format!("({nulls})") } else { String::new() };
    link.client.simple_query(&format!("EXPLAIN (FORMAT JSON) EXECUTE galen_plan{arguments}")).await
}

/// Checks that a text is exactly one plain statement; returns how many parameters it has.
fn plannable(text: &str) -> Result<usize, String> {
    let parsed = pg_query::parse(text, pg_query::ParserOptions::default())
        .map_err(|_| "the statement's text does not parse (cut off?)".to_owned())?;
    let kinds = parsed.statement_types();
    match kinds.as_slice() {
        ["SelectStmt" | "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt"] => {}
        _ => return Err("only a single SELECT, INSERT, UPDATE, DELETE or MERGE has a plan".into()),
    }
    let most = text.split('$').skip(1).filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()).max();
    Ok(most.unwrap_or(0).min(500))
}

impl Prober for PgProber {
    fn ask<'a>(&'a self, call: &'a ProbeCall) -> Answering<'a> {
        Box::pin(async move {
            let started = Instant::now();
            let answer = tokio::time::timeout(LIMIT, self.answer(call)).await.unwrap_or_else(|_| Err("no answer within 5 s".into()));
            let cost_ms = started.elapsed().as_secs_f64() * 1000.0;
            match answer {
                Ok(data) => ProbeAnswer { data: Some(data), no_data: None, cost_ms },
                Err(why) => ProbeAnswer { data: None, no_data: Some(why), cost_ms },
            }
        })
    }
}

#[cfg(test)]
mod unit {
    use super::plannable;

    #[test]
    fn only_one_plain_statement_is_ever_planned() {
        assert_eq!(plannable("SELECT * FROM t WHERE a = $2 AND b = $1"), Ok(2));
        assert_eq!(plannable("UPDATE t SET a = $1"), Ok(1));
        for bad in ["SELECT 1; DROP TABLE t", "DROP TABLE t", "EXPLAIN ANALYZE SELECT 1", "COPY t TO PROGRAM 'sh'", "SELECT (", ""] {
            assert!(plannable(bad).is_err(), "{bad}");
        }
    }
}
