//! Signals as rows: name, unit, count, and two compressed blocks of times and values.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::block;
use super::cell::{Budget, blob, check_time, text};
use super::error::StoreError;
use crate::model::Series;

/// Writes signals by name.
pub(super) fn store_series(db: &Connection, series: &BTreeMap<String, Series>) -> Result<(), StoreError> {
    let mut insert = db.prepare("INSERT INTO signals(name, unit, n, times, vals) VALUES(?, ?, ?, ?, ?)")?;
    for (name, series) in series {
        check_series(series).map_err(|error| in_signal(name, error))?;
        let n = series.times.len() as i64;
        insert.execute(params![name, series.unit, n, block::pack(&series.times)?, block::pack(&series.values)?])?;
    }
    Ok(())
}

/// Reads signals that may be forged.
pub(super) fn load_series(db: &Connection, budget: &mut Budget) -> Result<BTreeMap<String, Series>, StoreError> {
    let mut select = db.prepare("SELECT name, unit, n, times, vals FROM signals ORDER BY rowid")?;
    let mut rows = select.query([])?;
    let mut all = BTreeMap::new();
    // Signals of one collector share their sample times: decode each distinct block once.
    let mut last_times: (Vec<u8>, Vec<i64>) = Default::default();
    while let Some(row) = rows.next()? {
        budget.spend(1)?;
        let name = text(row.get_ref(0)?, budget)?.to_owned();
        let unit = text(row.get_ref(1)?, budget)?.to_owned();
        let n = count(row.get(2)?, budget).map_err(|error| in_signal(&name, error))?;
        let times = blob(row.get_ref(3)?, budget)?;
        if last_times.0 != times || last_times.1.len() != n {
            let decoded = block::unpack(times, n).map_err(|error| in_signal(&name, error))?;
            last_times = (times.to_vec(), decoded);
        }
        let values = block::unpack(blob(row.get_ref(4)?, budget)?, n).map_err(|error| in_signal(&name, error))?;
        let series = Series { unit, times: last_times.1.clone(), values };
        check_series(&series).map_err(|error| in_signal(&name, error))?;
        if all.contains_key(&name) {
            return Err(StoreError::damaged(format!("signal {name} is there twice")));
        }
        all.insert(name, series);
    }
    Ok(all)
}

/// The claimed number of samples, if the memory they need (a time and a value each) is within the budget.
fn count(claimed: i64, budget: &mut Budget) -> Result<usize, StoreError> {
    let n = usize::try_from(claimed).map_err(|_| StoreError::damaged(format!("{claimed} samples are absurd")))?;
    budget.hold((n as u64).saturating_mul(16))?;
    Ok(n)
}

/// Equal lengths, strictly increasing times, finite values.
fn check_series(series: &Series) -> Result<(), StoreError> {
    if series.times.len() != series.values.len() {
        let (times, values) = (series.times.len(), series.values.len());
        return Err(StoreError::damaged(format!("{times} times but {values} values")));
    }
    if let Some(pair) = series.times.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(StoreError::damaged(format!("time {} does not come after {}", pair[1], pair[0])));
    }
    // Sorted, so first and last bound the rest.
    for end in [series.times.first(), series.times.last()].into_iter().flatten() {
        check_time(*end)?;
    }
    match series.values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(StoreError::damaged(format!("the value {value} is not a finite number"))),
        None => Ok(()),
    }
}

fn in_signal(name: &str, error: StoreError) -> StoreError {
    StoreError::new(error.kind, format!("signal {name}: {}", error.message))
}
