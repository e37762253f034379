//! The rule by which a specification's size becomes one that this machine can run in seconds.

use anyhow::{Context, ensure};

use super::spec::Size;

/// The rule in words, for the help and the documents.
pub const RULE: &str = "Scaling: up to 10 threads stay; more become a quarter, at least 10 and at most 16 a CPU.\n\
Up to 1000 rows stay; more become a twentieth, and at most as many as fit 128 MB. Columns stay.\n\
Values have the column's size, at most 32 characters, as in the original. Six tenths of the columns\n\
get an index where the original says so.";

const MOST_BYTES: u64 = 128 << 20;
/// Longest value: the original cuts it from one MD5 sum in hexadecimal digits.
const MOST_VALUE: u32 = 32;
/// Bytes of a row beside its text columns: header, id, time, line pointer.
const ROW_BYTES: u64 = 44;

/// Sizes after scaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scaled {
    /// Clients at once.
    pub threads: u32,
    /// Text columns.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
    /// Declared characters of a text column.
    pub column_size: u32,
    /// Characters of a value.
    pub value_size: u32,
    /// Text columns that get an index.
    pub indexes: u32,
}

/// Scales a size to so many CPUs. Fails when a part that every sized kind has is missing or out of bounds.
pub fn scale(size: Size, cpus: u32) -> anyhow::Result<Scaled> {
    let part = |name: &str, value: Option<u32>, most: u32| {
        let value = value.with_context(|| format!("the parameter {name} is missing"))?;
        ensure!((1..=most).contains(&value), "the parameter {name} is {value}: it must lie between 1 and {most}");
        Ok(value)
    };
    let threads = part("threads", size.threads, 10_000)?;
    let columns = part("columns", size.columns, 1_000)?;
    let rows = part("rows", size.rows, 1_000_000_000)?;
    let column_size = part("column_size", size.column_size, 1_000)?;
    let value_size = column_size.min(MOST_VALUE);
    let row_bytes = ROW_BYTES + u64::from(columns) * u64::from(value_size + 1);
    let fitting = u32::try_from(MOST_BYTES / row_bytes).unwrap_or(u32::MAX);
    Ok(Scaled {
        threads: if threads <= 10 { threads } else { (threads / 4).clamp(10, 16 * cpus.max(1)) },
        columns,
        rows: if rows <= 1000 { rows } else { (rows / 20).clamp(1000, fitting.max(1000)) },
        column_size,
        value_size,
        indexes: columns * size.indexes.unwrap_or(0).min(10) / 10,
    })
}
