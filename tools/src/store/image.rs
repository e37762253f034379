//! A capture as the bytes of an SQLite database, and back: what a `NAME.galen` file holds once decompressed.

use std::collections::BTreeMap;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, MAIN_DB, params};

use super::cell::{Budget, check_time, load_json, text};
use super::error::StoreError;
use super::rows::{load_all, store_all};
use super::seal::{APPLICATION_ID, HASH_KEY, NO_HASH, PAGE_BYTES, check_header, check_seal, seal};
use super::series::{load_series, store_series};
use crate::capture::{Capture, FORMAT, Manifest};
use crate::model::Setting;

const SCHEMA: &str = include_str!("capture.sql");

/// The database image of a capture; the same capture gives the same bytes.
pub(super) fn encode(capture: &Capture) -> Result<Vec<u8>, StoreError> {
    let mut db = Connection::open_in_memory()?;
    db.execute_batch(&format!(
        "PRAGMA page_size={PAGE_BYTES}; PRAGMA secure_delete=ON; PRAGMA application_id={APPLICATION_ID};
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

/// The capture out of a database image that may come from a stranger. `max_bytes` bounds what is decoded.
pub(super) fn decode(image: &[u8], max_bytes: u64) -> Result<Capture, StoreError> {
    check_header(image)?;
    let db = open(image)?;
    check_schema(&db)?;
    let mut budget = Budget::new(image.len(), max_bytes);
    let (manifest, seal) = load_manifest(&db, &mut budget)?;
    check_seal(image, &seal)?;
    Ok(Capture {
        manifest,
        series: load_series(&db, &mut budget)?,
        sessions: load_all(&db, &mut budget)?,
        locks: load_all(&db, &mut budget)?,
        statements: load_all(&db, &mut budget)?,
        tables: load_all(&db, &mut budget)?,
        indexes: load_all(&db, &mut budget)?,
        holders: load_all(&db, &mut budget)?,
        events: load_all(&db, &mut budget)?,
        alerts: load_all(&db, &mut budget)?,
        bill: load_all(&db, &mut budget)?,
        texts: load_pairs(&db, "SELECT query_id, text FROM texts ORDER BY query_id", |row| {
            Ok((row.get(0)?, text(row.get_ref(1)?, &mut budget)?.to_owned()))
        })?,
        settings: load_pairs(&db, "SELECT name, value, unit, source FROM settings ORDER BY rowid", |row| {
            let mut field = |i| Ok::<_, StoreError>(text(row.get_ref(i)?, &mut budget)?.to_owned());
            Ok((field(0)?, Setting { value: field(1)?, unit: field(2)?, source: field(3)? }))
        })?,
        answers: load_pairs(&db, "SELECT call, answer FROM answers ORDER BY rowid", |row| {
            let call = text(row.get_ref(0)?, &mut budget)?.to_owned();
            Ok((call, load_json(row.get_ref(1)?, &mut budget)?))
        })?,
    })
}

/// The manifest alone.
pub(super) fn decode_manifest(image: &[u8], max_bytes: u64) -> Result<Manifest, StoreError> {
    check_header(image)?;
    let db = open(image)?;
    check_schema(&db)?;
    load_manifest(&db, &mut Budget::new(image.len(), max_bytes)).map(|(manifest, _)| manifest)
}

fn store_manifest(db: &Connection, manifest: &Manifest) -> Result<(), StoreError> {
    let known = Manifest { format: FORMAT, ..manifest.clone() };
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
    let row = rows.next()?.ok_or_else(|| StoreError::damaged("it has no manifest"))?;
    let manifest: Manifest = load_json(row.get_ref(0)?, budget)?;
    if let Some(span) = manifest.span {
        check_time(span.start).and_then(|()| check_time(span.end))?;
    }
    Ok((manifest, seal))
}

fn store_maps(db: &Connection, capture: &Capture) -> Result<(), StoreError> {
    let mut insert = db.prepare("INSERT INTO texts(query_id, text) VALUES(?, ?)")?;
    for (id, text) in &capture.texts {
        insert.execute(params![id, text])?;
    }
    let mut insert = db.prepare("INSERT INTO settings(name, value, unit, source) VALUES(?, ?, ?, ?)")?;
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
            return Err(StoreError::damaged("a text, setting or answer is there twice"));
        }
    }
    Ok(all)
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::damaged(format!("cannot write JSON: {error}")))
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
