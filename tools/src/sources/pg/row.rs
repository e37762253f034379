//! Reading columns by name: a missing, null or odd column is `None`, so that no answer of a server can panic.

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

/// A column, if it is there, not null and of the type asked for.
pub(super) fn get<'r, T: FromSql<'r>>(row: &'r Row, column: &str) -> Option<T> {
    row.try_get::<_, Option<T>>(column).ok().flatten()
}

/// A float column, 0 where it is null: for counters that PostgreSQL itself starts at 0.
pub(super) fn count(row: &Row, column: &str) -> f64 {
    get(row, column).unwrap_or(0.0)
}

/// A text column, empty where it is null.
pub(super) fn text(row: &Row, column: &str) -> String {
    get(row, column).unwrap_or_default()
}

/// A float column rounded to whole milliseconds; ages that clocks make negative become 0.
pub(super) fn age_ms(row: &Row, column: &str) -> Option<i64> {
    get::<f64>(row, column).map(|ms| ms.max(0.0) as i64)
}
