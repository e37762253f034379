//! Import of DBSherlock's recordings: a table (CSV, perhaps gzipped) with one row a second and one column an attribute.
//! Which rows are abnormal and what was wrong stands in another file, which is never opened here.

use std::collections::BTreeSet;
use std::io::Read;

use crate::capture::{Capture, FORMAT, Manifest, Missing};
use crate::model::{Series, Window};
use crate::sources::names::{self, Names};

/// The largest table that is parsed, bytes after decompression.
const MAX_BYTES: u64 = 64 << 20;
/// Rows and columns beyond these are refused.
const MAX_ROWS: usize = 100_000;
const MAX_COLUMNS: usize = 2_000;
/// Longest name of a column, bytes.
const MAX_NAME: usize = 200;
/// The largest second that is a time: the start of the year 2200.
const LATEST: f64 = 7_258_118_400.0;

/// A recording that cannot be imported: one line that says what is wrong and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ImportError(String);

fn flaw(text: impl std::fmt::Display) -> ImportError {
    // Messages quote the file.
    ImportError(text.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect())
}

/// Turns one recording into a capture called `name`. The first column is the time in seconds and must increase; an
/// empty cell is no data. Attributes with a canonical name are converted, the rest keep their own and have no unit.
///
/// # Errors
/// A file that is no such table, or larger than an import takes.
pub fn import(bytes: &[u8], name: &str) -> Result<Capture, ImportError> {
    let text = unpack(bytes)?;
    let mut table = csv::ReaderBuilder::new().flexible(false).from_reader(text.as_slice());
    let header = table.headers().map_err(|e| flaw(format!("not a CSV table: {e}")))?.clone();
    let mut columns = columns(&header)?;
    let mut times: Vec<i64> = Vec::new();
    for (at, row) in table.records().enumerate() {
        let row = row.map_err(|e| flaw(format!("row {}: {e}", at + 1)))?;
        if at == MAX_ROWS {
            return Err(flaw(format!("more than {MAX_ROWS} rows")));
        }
        let time = number(row.get(0).unwrap_or_default()).filter(|t| (0.0..LATEST).contains(t));
        let time = time.ok_or_else(|| flaw(format!("row {}: {:?} is no time in seconds", at + 1, row.get(0).unwrap_or_default())))?;
        let time = (time * 1000.0).round() as i64;
        if times.last().is_some_and(|last| *last >= time) {
            return Err(flaw(format!("row {}: the time does not increase", at + 1)));
        }
        times.push(time);
        for (column, cell) in columns.iter_mut().zip(row.iter().skip(1)) {
            if cell.trim().is_empty() {
                continue;
            }
            let value = number(cell).ok_or_else(|| flaw(format!("row {}: {cell:?} under {:?} is no number", at + 1, column.source)))?;
            let value = column.convert.apply(value);
            // A rate below zero is a counter that was reset.
            if !(names::is_rate(&column.series.unit) && value < 0.0) {
                column.series.push(time, value);
            }
        }
    }
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return Err(flaw("the table has no rows")) };
    let manifest = Manifest {
        format: FORMAT,
        name: name.to_owned(),
        galen_version: env!("CARGO_PKG_VERSION").to_owned(),
        origin: "dbsherlock".to_owned(),
        target: "dbsherlock".to_owned(),
        span: Some(Window { start: *first, end: last + 1000 }),
        missing: ["sessions", "statements", "tables"]
            .map(|what| {
                let why = "the recording holds attributes of a MySQL server and its host, once a second";
                Missing::new(what, why, "record PostgreSQL with `galen record`")
            })
            .to_vec(),
        ..Manifest::default()
    };
    let series = columns.into_iter().filter(|c| !c.series.times.is_empty()).map(|c| (c.name, c.series)).collect();
    Ok(Capture { manifest, series, ..Capture::default() })
}

/// The bytes of the table; gzip is told by its magic.
fn unpack(bytes: &[u8]) -> Result<Vec<u8>, ImportError> {
    let mut text = Vec::new();
    let read = match bytes.starts_with(&[0x1f, 0x8b]) {
        true => flate2::read::GzDecoder::new(bytes).take(MAX_BYTES + 1).read_to_end(&mut text),
        false => bytes.take(MAX_BYTES + 1).read_to_end(&mut text),
    };
    read.map_err(|e| flaw(format!("damaged gzip: {e}")))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(flaw(format!("more than {MAX_BYTES} bytes when unpacked")));
    }
    Ok(text)
}

struct Column {
    source: String,
    name: String,
    convert: names::Convert,
    series: Series,
}

fn columns(header: &csv::StringRecord) -> Result<Vec<Column>, ImportError> {
    if header.len() < 2 || header.len() > MAX_COLUMNS {
        return Err(flaw(format!("{} columns; a recording has the time and 1 to {} attributes", header.len(), MAX_COLUMNS - 1)));
    }
    let map = Names::load(names::DBSHERLOCK);
    let mut seen = BTreeSet::new();
    let mut columns = Vec::new();
    for source in header.iter().skip(1) {
        if source.trim().is_empty() || source.len() > MAX_NAME || source.chars().any(char::is_control) {
            return Err(flaw(format!("{source:?} is no name of an attribute")));
        }
        let (name, unit, convert) = map.resolve(source);
        if !seen.insert(name.clone()) {
            return Err(flaw(format!("two columns hold {name:?}")));
        }
        columns.push(Column { source: source.to_owned(), name, convert, series: Series { unit, ..Series::default() } });
    }
    Ok(columns)
}

fn number(cell: &str) -> Option<f64> {
    cell.trim().parse::<f64>().ok().filter(|v| v.is_finite())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TABLE: &str = "Epoch,AvgCpuIdle,dbmsPageSize\n1,75,16\n2,,16\n3,50,16\n";

    #[test]
    fn a_table_becomes_a_capture_gzipped_or_not() {
        let plain = import(TABLE.as_bytes(), "x").unwrap();
        let busy = &plain.series["node_cpu_busy_ratio"];
        assert_eq!(
            (busy.times.as_slice(), busy.values.as_slice(), busy.unit.as_str()),
            ([1000, 3000].as_slice(), [0.25, 0.5].as_slice(), "ratio")
        );
        assert_eq!(plain.series["dbmsPageSize"].values, [16.0; 3]);
        assert_eq!((plain.span(), plain.manifest.labels.len()), (Some(Window { start: 1000, end: 4000 }), 0));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(TABLE.as_bytes()).unwrap();
        assert_eq!(import(&gzip.finish().unwrap(), "x").unwrap(), plain);
    }

    #[test]
    fn a_counter_that_was_reset_is_no_data() {
        let table = "Epoch,dbmsCommittedCommands,dbmsPageSize\n1,100,-1\n2,-86000,-1\n3,110,-1\n";
        let capture = import(table.as_bytes(), "x").unwrap();
        assert_eq!(capture.series["dbmsPageSize"].values, [-1.0; 3], "what is no rate stays as it is");
        let Some((name, _)) = capture.series.iter().find(|(name, _)| *name != "dbmsPageSize") else { panic!("no series") };
        assert_eq!((name.as_str(), capture.series[name].values.as_slice()), ("tps", [100.0, 110.0].as_slice()));
    }

    #[test]
    fn what_is_no_recording_is_named() {
        for (text, part) in [
            ("", "columns"),
            ("Epoch,a\n", "no rows"),
            ("Epoch,a\n1,2\n1,3\n", "does not increase"),
            ("Epoch,a\n1,x\n", "no number"),
            ("Epoch,a\n1,inf\n", "no number"),
            ("Epoch,a\nNaN,1\n", "no time"),
            ("Epoch,a\n1e300,1\n", "no time"),
            ("Epoch,a,a\n1,2,3\n", "two columns"),
            ("Epoch,AvgCpuIdle,node_cpu_busy_ratio\n1,2,3\n", "two columns"),
            ("Epoch,a\n1,2,3\n", "row 1"),
            ("Epoch,\u{1b}[31m\n1,2\n", "no name"),
        ] {
            let error = import(text.as_bytes(), "x").unwrap_err().to_string();
            assert!(error.contains(part) && error.lines().count() <= 1, "{text:?}: {error}");
        }
        assert!(import(&[0x1f, 0x8b, 8, 0, 1, 2, 3], "x").unwrap_err().to_string().contains("gzip"));
    }

    #[test]
    fn a_gzip_bomb_stops_at_the_limit() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        for _ in 0..70 {
            gzip.write_all(&vec![b'1'; 1 << 20]).unwrap();
        }
        assert!(import(&gzip.finish().unwrap(), "x").unwrap_err().to_string().contains("unpacked"));
    }
}
