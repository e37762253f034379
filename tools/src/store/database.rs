//! The daemon's database: one SQLite file in WAL mode, opened, migrated, and handed out one caller at a time.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::error::{StoreError, StoreErrorKind};
use super::intake::Waiting;
use crate::model::UnixMs;

/// Schema changes in order; `user_version` counts those applied. Never edit one that was released: add another.
const MIGRATIONS: &[&str] = &[include_str!("incidents.sql")];
/// How long a statement waits for another process (a CLI command beside the daemon).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Incidents, their alerts, diagnoses and feedback, in `galen.db` under the data directory.
///
/// Every method blocks: it takes a lock on the one connection and may wait for the disk. Call it from a blocking
/// thread (`spawn_blocking`) in async code. What a method wrote is durable when it returns.
pub struct Store {
    folder: PathBuf,
    connection: Mutex<Connection>,
    pub(super) waiting: Mutex<Vec<Waiting>>,
}

impl Store {
    /// Opens the store in a data directory; makes both where they are missing.
    ///
    /// Fails with `Permission`, `Damaged` (no database of ours), `TooNew`, `DiskFull` or `Io`.
    pub fn open(data_dir: &Path) -> Result<Store, StoreError> {
        let captures = data_dir.join("captures");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&captures)
            .map_err(|error| StoreError::io(&captures, "create the folder", &error))?;
        let path = data_dir.join("galen.db");
        let connection = connect(&path).map_err(|error| error.at(&path))?;
        Ok(Store { folder: data_dir.to_owned(), connection: Mutex::new(connection), waiting: Mutex::default() })
    }

    /// Where the capture of an incident is kept, whether it was written yet or not.
    pub fn capture_path(&self, incident: i64) -> PathBuf {
        self.folder.join("captures").join(format!("{incident}.galen"))
    }

    /// The one connection. A panic of another holder rolled its transaction back, so its lock is taken over.
    pub(super) fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` in a transaction that holds the write lock from its start, and commits.
    pub(super) fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = work(&transaction)?;
        transaction.commit()?;
        Ok(result)
    }
}

/// Wall clock in milliseconds.
pub(super) fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // FULL: a commit is on the disk before an alert's sender hears of it.
    connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;")?;
    connection.set_prepared_statement_cache_capacity(64);
    migrate(&mut connection)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).map_err(|_| StoreError::damaged("its schema version is negative"))?;
    if done > MIGRATIONS.len() {
        let known = MIGRATIONS.len();
        let message = format!("schema version {version}, this Galen knows up to {known}: use a newer galen");
        return Err(StoreError::new(StoreErrorKind::TooNew, message));
    }
    if done == 0 {
        refuse_foreign(&transaction)?;
    }
    for migration in &MIGRATIONS[done..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    Ok(transaction.commit()?)
}

/// Somebody else's database under our name is left as it is.
fn refuse_foreign(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(());
    }
    Err(StoreError::damaged("a database that is not Galen's: choose another data directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_opens_again_and_by_two_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("new/data");
        let first = Store::open(&data).unwrap();
        let second = Store::open(&data).unwrap();
        assert_eq!(first.capture_path(7), data.join("captures/7.galen"));
        assert!(second.incidents(&Default::default(), 10).unwrap().is_empty());
        let journal: String = first.connection().pragma_query_value(None, "journal_mode", |r| r.get(0)).unwrap();
        let synchronous: i64 = first.connection().pragma_query_value(None, "synchronous", |r| r.get(0)).unwrap();
        assert_eq!((journal.as_str(), synchronous), ("wal", 2));
    }

    #[test]
    fn a_foreign_newer_or_unreadable_database_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("galen.db");
        let refused = |kind| {
            let error = Store::open(dir.path()).err().unwrap();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains("galen.db"), "{error}");
            fs::remove_file(&path).unwrap();
        };
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs(a)").unwrap();
        refused(StoreErrorKind::Damaged);
        Connection::open(&path).unwrap().execute_batch("PRAGMA user_version=99").unwrap();
        refused(StoreErrorKind::TooNew);
        fs::write(&path, "this is no database at all, only a text that is long enough".repeat(9)).unwrap();
        refused(StoreErrorKind::Damaged);
    }

    #[test]
    fn a_data_directory_that_is_a_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Store::open(file.path()).err().unwrap();
        assert!(error.message.contains("captures"), "{error}");
    }
}
