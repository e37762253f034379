//! Decides whether a normalised text may be planned: exactly one plain statement, and nothing that EXPLAIN would run.

use pg_query::NodeEnum;
use tokio_postgres::Client;

use crate::sql::{Names, names};

use super::connect::Facts;
use super::error::reason;
use super::probes::PLAN_SAFETY;
use super::row::get;

/// A statement that may be put behind EXPLAIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plannable {
    /// The statement, with `$1`, `$2`, ... for its literals.
    pub sql: String,
    /// Highest parameter number.
    pub parameters: usize,
}

/// Reads a normalised text; the error says why it cannot be planned.
pub(super) fn plannable(text: &str) -> Result<Plannable, String> {
    let sql = cast_typed_literals(text.trim().trim_end_matches(';').trim_end());
    let parsed = pg_query::parse(&sql, 0).map_err(|_| "the statement's text does not parse (it may be cut off)")?;
    let [statement] = parsed.protobuf.stmts.as_slice() else {
        return Err("the text is not exactly one statement".into());
    };
    let node = statement.stmt.as_ref().and_then(|stmt| stmt.node.as_ref());
    match node {
        Some(NodeEnum::SelectStmt(select)) if select.into_clause.is_some() => Err("select into has no plan to ask for".into()),
        Some(
            NodeEnum::SelectStmt(_) | NodeEnum::InsertStmt(_) | NodeEnum::UpdateStmt(_) | NodeEnum::DeleteStmt(_) | NodeEnum::MergeStmt(_),
        ) => Ok(Plannable { parameters: parameters(&sql)?, sql }),
        _ => Err("only select, insert, update, delete and merge have plans".into()),
    }
}

/// Refuses a statement whose planning would run code that users of the database wrote: the planner evaluates immutable
/// functions, and it would do so with Galen's rights. What extensions brought is trusted, since only a superuser (or an
/// extension marked as trusted by one) installs it.
pub(super) async fn safe(client: &Client, facts: &Facts, statement: &Plannable) -> Result<(), String> {
    let Names { functions, operators, relations } = names(&statement.sql).ok_or("the statement's names cannot be read")?;
    let sql = PLAN_SAFETY.sql(facts.version_num).ok_or("this server is too old")?;
    let row = client.query_one(sql, &[&functions, &operators, &relations]).await.map_err(|error| reason(&error))?;
    match get::<String>(&row, "why") {
        Some(why) => Err(format!("not planned: {why}, and planning may run it")),
        None => Ok(()),
    }
}

fn parameters(sql: &str) -> Result<usize, String> {
    let tokens = pg_query::scan_tokens(sql).map_err(|_| "the statement's text cannot be scanned")?;
    let number = |token: &pg_query::protobuf::ScanToken| slice(sql, token)?.strip_prefix('$')?.parse::<usize>().ok();
    let highest = tokens.iter().filter_map(number).max().unwrap_or(0);
    if highest > 1_000 { Err(format!("the statement has {highest} parameters: too many to plan")) } else { Ok(highest) }
}

fn slice<'s>(sql: &'s str, token: &pg_query::protobuf::ScanToken) -> Option<&'s str> {
    sql.get(usize::try_from(token.start).ok()?..usize::try_from(token.end).ok()?)
}

/// `interval $1`, which normalisation makes of `interval '1 day'`, is no SQL: writes `$1::interval`.
fn cast_typed_literals(sql: &str) -> String {
    const TYPES: [&str; 6] = ["interval", "date", "timestamp", "timestamptz", "time", "timetz"];
    let Ok(tokens) = pg_query::scan_tokens(sql) else {
        return sql.to_owned();
    };
    let mut out = String::with_capacity(sql.len() + 16);
    let mut copied = 0;
    for pair in tokens.windows(2) {
        let (Some(word), Some(next)) = (slice(sql, &pair[0]), slice(sql, &pair[1])) else {
            continue;
        };
        let parameter = next.strip_prefix('$').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        if parameter && TYPES.iter().any(|name| name.eq_ignore_ascii_case(word)) {
            out.push_str(sql.get(copied..pair[0].start as usize).unwrap_or_default());
            out.push_str(&format!("{next}::{word}"));
            copied = pair[1].end as usize;
        }
    }
    out.push_str(sql.get(copied..).unwrap_or_default());
    out
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn plain_statements_are_planned_and_parameters_counted() {
        let some = plannable("SELECT a FROM t WHERE b = $1 AND c > now() - interval $2;").expect("plannable");
        assert_eq!(some.sql, "SELECT a FROM t WHERE b = $1 AND c > now() - $2::interval");
        assert_eq!(some.parameters, 2);
        for sql in ["INSERT INTO t VALUES ($1)", "UPDATE t SET a = $1", "DELETE FROM t", "WITH x AS (SELECT 1) SELECT * FROM x"] {
            assert!(plannable(sql).is_ok(), "{sql}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for sql in [
            "SELECT 1; DROP TABLE t",
            "DROP TABLE t",
            "EXPLAIN ANALYZE DELETE FROM t",
            "SELECT 1 INTO t",
            "DO $$ BEGIN END $$",
            "CALL p()",
            "COMMIT",
            "COPY t FROM PROGRAM 'x'",
            "SELECT 'cut off",
            "",
            "SELECT $99999",
            "ANALYZE t",
        ] {
            assert!(plannable(sql).is_err(), "{sql}");
        }
    }
}
