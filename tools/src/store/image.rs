//! A capture as the bytes of an SQLite database, and back: what a `NAME.galen` file holds once decompressed.

use std::collections::BTreeMap;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, MAIN_DB, params};
use sha2::{Digest, Sha256};

use super::block;
use super::cell::{Budget, blob, check_time, load_json, text};
use super::error::{StoreError, StoreErrorKind};
use super::rows::{load_all, store_all};
use crate::capture::{Capture, FORMAT, Manifest};
use crate::model::{Series, Setting};

/// First bytes of every SQLite database.
pub(super) const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// `application_id` of captures: "galn".
const APPLICATION_ID: i32 = 0x6761_6c6e;
const SCHEMA: &str = include_str!("capture.sql");
/// Stands where the hash belongs while it is computed.
const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const HASH_KEY: &str = "sha256";

/// The database image of a capture; the same capture gives the same bytes.
pub(super) fn encode(capture: &Capture) -> Result<Vec<u8>, StoreError> {
    let mut db = Connection::open_in_memory()?;
    db.execute_batch(&format!(
        "PRAGMA page_size=4096; PRAGMA secure_delete=ON; PRAGMA application_id={APPLICATION_ID};
         PRAGMA user_version={FORMAT}; BEGIN; {SCHEMA}"
    ))?;
    store_manifest(&db, &capture.manifest)?;
    store_series(&db, &capture.series)?;
    store_all(&db, &capture.sessions)?;
    store_all(&db, &capture.locks)?;
    store_all(&db, &capture.statements)?;
    store_all(&db, &capture.tables)?;
    store_all(&db, &capture.indexes)?;
    store_all(&db, &capture.holders)?;
    store_all(&db, &capture.events)?;
    store_all(&db, &capture.alerts)?;
    store_all(&db, &capture.bill)?;
    store_maps(&db, capture)?;
    db.execute_batch("COMMIT")?;
    let mut image = db.serialize(MAIN_DB)?.to_vec();
    seal(&mut image)?;
    Ok(image)
}

/// The capture out of a database image that may come from a stranger. `max_bytes` bounds the decoded signals.
pub(super) fn decode(image: &[u8], max_bytes: u64) -> Result<Capture, StoreError> {
    check_header(image)?;
    let db = open(image)?;
    check_schema(&db)?;
    let mut budget = Budget::new(image.len());
    let (manifest, seal) = load_manifest(&db, &mut budget)?;
    check_seal(image, &seal)?;
    Ok(Capture {
        manifest,
        series: load_series(&db, &mut budget, max_bytes)?,
        sessions: load_all(&db, &mut budget)?,
        locks: load_all(&db, &mut budget)?,
        statements: load_all(&db, &mut budget)?,
        tables: load_all(&db, &mut budget)?,
        indexes: load_all(&db, &mut budget)?,
        holders: load_all(&db, &mut budget)?,
        events: load_all(&db, &mut budget)?,
        alerts: load_all(&db, &mut budget)?,
        bill: load_all(&db, &mut budget)?,
        texts: load_pairs(
            &db,
            "SELECT query_id, text FROM texts ORDER BY query_id",
            |row| Ok((row.get(0)?, text(row.get_ref(1)?, &mut budget)?.to_owned())),
        )?,
        settings: load_pairs(
            &db,
            "SELECT name, value, unit, source FROM settings ORDER BY rowid",
            |row| {
                let mut field =
                    |i| Ok::<_, StoreError>(text(row.get_ref(i)?, &mut budget)?.to_owned());
                Ok((
                    field(0)?,
                    Setting {
                        value: field(1)?,
                        unit: field(2)?,
                        source: field(3)?,
                    },
                ))
            },
        )?,
        answers: load_pairs(
            &db,
            "SELECT call, answer FROM answers ORDER BY rowid",
            |row| {
                let call = text(row.get_ref(0)?, &mut budget)?.to_owned();
                Ok((call, load_json(row.get_ref(1)?, &mut budget)?))
            },
        )?,
    })
}

fn store_manifest(db: &Connection, manifest: &Manifest) -> Result<(), StoreError> {
    let known = Manifest {
        format: FORMAT,
        ..manifest.clone()
    };
    let mut insert = db.prepare("INSERT INTO manifest(key, value) VALUES(?, ?)")?;
    insert.execute(params!["manifest", to_json(&known)?])?;
    // Written last, so that it lies before the manifest's text in the page: the first match is the real one.
    insert.execute(params![HASH_KEY, NO_HASH])?;
    Ok(())
}

fn load_manifest(db: &Connection, budget: &mut Budget) -> Result<(Manifest, String), StoreError> {
    let mut select = db.prepare("SELECT value FROM manifest WHERE key = ?")?;
    let seal = select.query_row([HASH_KEY], |row| row.get::<_, String>(0))?;
    let mut rows = select.query(["manifest"])?;
    let row = rows
        .next()?
        .ok_or_else(|| StoreError::damaged("it has no manifest"))?;
    let manifest: Manifest = load_json(row.get_ref(0)?, budget)?;
    if let Some(span) = manifest.span {
        check_time(span.start).and_then(|()| check_time(span.end))?;
    }
    Ok((manifest, seal))
}

fn store_series(db: &Connection, series: &BTreeMap<String, Series>) -> Result<(), StoreError> {
    let mut insert =
        db.prepare("INSERT INTO signals(name, unit, n, times, vals) VALUES(?, ?, ?, ?, ?)")?;
    for (name, series) in series {
        check_series(series).map_err(|error| in_signal(name, error))?;
        let n = series.times.len() as i64;
        insert.execute(params![
            name,
            series.unit,
            n,
            block::pack(&series.times)?,
            block::pack(&series.values)?
        ])?;
    }
    Ok(())
}

fn load_series(
    db: &Connection,
    budget: &mut Budget,
    max_bytes: u64,
) -> Result<BTreeMap<String, Series>, StoreError> {
    let mut select = db.prepare("SELECT name, unit, n, times, vals FROM signals ORDER BY rowid")?;
    let mut rows = select.query([])?;
    let mut all = BTreeMap::new();
    // Signals of one collector share their sample times: decode each distinct block once.
    let mut last_times: (Vec<u8>, Vec<i64>) = Default::default();
    let mut left = max_bytes / 16;
    while let Some(row) = rows.next()? {
        budget.spend(1)?;
        let name = text(row.get_ref(0)?, budget)?.to_owned();
        let unit = text(row.get_ref(1)?, budget)?.to_owned();
        let n: i64 = row.get(2)?;
        left = u64::try_from(n)
            .ok()
            .and_then(|n| left.checked_sub(n))
            .ok_or_else(|| {
                StoreError::new(
                    StoreErrorKind::TooLarge,
                    format!(
                        "signal {name} claims {n} samples, above the limit of {max_bytes} bytes"
                    ),
                )
            })?;
        let times = blob(row.get_ref(3)?, budget)?;
        if last_times.0 != times || last_times.1.len() as i64 != n {
            let decoded =
                block::unpack(times, n as usize).map_err(|error| in_signal(&name, error))?;
            last_times = (times.to_vec(), decoded);
        }
        let values = block::unpack(blob(row.get_ref(4)?, budget)?, n as usize)
            .map_err(|error| in_signal(&name, error))?;
        let series = Series {
            unit,
            times: last_times.1.clone(),
            values,
        };
        check_series(&series).map_err(|error| in_signal(&name, error))?;
        if all.contains_key(&name) {
            return Err(StoreError::damaged(format!("signal {name} is there twice")));
        }
        all.insert(name, series);
    }
    Ok(all)
}

/// Equal lengths, strictly increasing times, finite values.
fn check_series(series: &Series) -> Result<(), StoreError> {
    if series.times.len() != series.values.len() {
        let (times, values) = (series.times.len(), series.values.len());
        return Err(StoreError::damaged(format!(
            "{times} times but {values} values"
        )));
    }
    if let Some(pair) = series.times.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(StoreError::damaged(format!(
            "time {} does not come after {}",
            pair[1], pair[0]
        )));
    }
    // Sorted, so first and last bound the rest.
    for end in [series.times.first(), series.times.last()]
        .into_iter()
        .flatten()
    {
        check_time(*end)?;
    }
    match series.values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(StoreError::damaged(format!(
            "the value {value} is not a finite number"
        ))),
        None => Ok(()),
    }
}

fn in_signal(name: &str, error: StoreError) -> StoreError {
    StoreError::new(error.kind, format!("signal {name}: {}", error.message))
}

fn store_maps(db: &Connection, capture: &Capture) -> Result<(), StoreError> {
    let mut insert = db.prepare("INSERT INTO texts(query_id, text) VALUES(?, ?)")?;
    for (id, text) in &capture.texts {
        insert.execute(params![id, text])?;
    }
    let mut insert =
        db.prepare("INSERT INTO settings(name, value, unit, source) VALUES(?, ?, ?, ?)")?;
    for (name, setting) in &capture.settings {
        insert.execute(params![name, setting.value, setting.unit, setting.source])?;
    }
    let mut insert = db.prepare("INSERT INTO answers(call, answer) VALUES(?, ?)")?;
    for (call, answer) in &capture.answers {
        insert.execute(params![call, to_json(answer)?])?;
    }
    Ok(())
}

fn load_pairs<K: Ord, V>(
    db: &Connection,
    sql: &str,
    mut read: impl FnMut(&rusqlite::Row<'_>) -> Result<(K, V), StoreError>,
) -> Result<BTreeMap<K, V>, StoreError> {
    let mut select = db.prepare(sql)?;
    let mut rows = select.query([])?;
    let mut all = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (key, value) = read(row)?;
        if all.insert(key, value).is_some() {
            return Err(StoreError::damaged(
                "a text, setting or answer is there twice",
            ));
        }
    }
    Ok(all)
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::damaged(format!("cannot write JSON: {error}")))
}

/// Magic, application id and version lie at fixed offsets: look before SQLite does.
fn check_header(image: &[u8]) -> Result<(), StoreError> {
    let word = |at: usize| {
        image
            .get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map(i32::from_be_bytes)
    };
    if !image.starts_with(SQLITE_MAGIC) || word(68) != Some(APPLICATION_ID) {
        return Err(StoreError::new(
            StoreErrorKind::NotACapture,
            "what it contains is no capture",
        ));
    }
    match word(60).and_then(|version| u32::try_from(version).ok()) {
        Some(version) if (1..=FORMAT).contains(&version) => Ok(()),
        Some(version) if version > FORMAT => Err(StoreError::new(
            StoreErrorKind::TooNew,
            format!(
                "written in format {version}, this Galen reads up to {FORMAT}: use a newer galen"
            ),
        )),
        _ => Err(StoreError::damaged("its format version is forged")),
    }
}

fn open(image: &[u8]) -> Result<Connection, StoreError> {
    let mut db = Connection::open_in_memory()?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    db.deserialize_read_exact(MAIN_DB, image, image.len(), true)?;
    db.execute_batch("PRAGMA cell_size_check=ON; PRAGMA trusted_schema=OFF;")?;
    Ok(db)
}

/// Exactly our tables and nothing else: no view, trigger, index or generated column can come in.
fn check_schema(db: &Connection) -> Result<(), StoreError> {
    let mut select = db.prepare("SELECT type, sql FROM sqlite_schema ORDER BY rowid")?;
    let mut rows = select.query([])?;
    let mut expected = SCHEMA.lines().map(|line| line.trim_end_matches(';'));
    let foreign = || StoreError::damaged("its tables are not those of a capture");
    while let Some(row) = rows.next()? {
        let (kind, sql): (String, Option<String>) = (row.get(0)?, row.get(1)?);
        if kind != "table" || sql.as_deref() != expected.next() {
            return Err(foreign());
        }
    }
    expected.next().map_or(Ok(()), |_| Err(foreign()))
}

/// Puts the hash of the image, taken with zeros in the hash's own place, into that place.
pub(super) fn seal(image: &mut [u8]) -> Result<(), StoreError> {
    let hash = hash_of(image);
    let at = place_of_hash(image, NO_HASH)
        .ok_or_else(|| StoreError::damaged("no place for the hash"))?;
    image[at..at + NO_HASH.len()].copy_from_slice(hash.as_bytes());
    Ok(())
}

fn check_seal(image: &[u8], claimed: &str) -> Result<(), StoreError> {
    let place = (claimed.len() == NO_HASH.len())
        .then(|| place_of_hash(image, claimed))
        .flatten();
    let at = place.ok_or_else(|| StoreError::damaged("its sha256 is forged"))?;
    let mut hasher = Sha256::new();
    hasher.update(&image[..at]);
    hasher.update(NO_HASH);
    hasher.update(&image[at + NO_HASH.len()..]);
    if hex(&hasher.finalize()) == claimed {
        return Ok(());
    }
    Err(StoreError::damaged(
        "its content does not match its sha256: it was altered after it was written",
    ))
}

fn place_of_hash(image: &[u8], value: &str) -> Option<usize> {
    let needle = [HASH_KEY.as_bytes(), value.as_bytes()].concat();
    image
        .windows(needle.len())
        .position(|window| window == needle)
        .map(|at| at + HASH_KEY.len())
}

fn hash_of(image: &[u8]) -> String {
    hex(&Sha256::digest(image))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
