//! Whether a disk has no room: as files, a server and its clients tell it, whichever disk it is.

use std::io::{Error, ErrorKind};

use galen_tools::store::{StoreError, StoreErrorKind};
use tokio_postgres::error::{DbError, SqlState};

/// What the system calls it, in a server's log.
const NO_ROOM: &str = "No space left on device";
/// What a server names where it is its shared memory (`/dev/shm`) or the system's semaphores that are used up: the same words, and no disk.
const NO_DISK: [&str; 2] = ["shared memory segment", "semaphore"];

/// True when an error comes from a disk without room: that of the captures, or that of a server.
pub fn is_full(error: &anyhow::Error) -> bool {
    is_servers(error)
        || error.chain().any(|cause| {
            let store = cause.downcast_ref::<StoreError>().is_some_and(|it| it.kind == StoreErrorKind::DiskFull);
            let kind = cause.downcast_ref::<Error>().map(Error::kind);
            store || matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge))
        })
}

/// True when a server said that its disk has no room (SQLSTATE 53100).
pub fn is_servers(error: &anyhow::Error) -> bool {
    let of_disk = |it: &DbError| *it.code() == SqlState::DISK_FULL && of_a_disk(it.message());
    error.chain().any(|cause| cause.downcast_ref::<DbError>().is_some_and(of_disk))
}

/// True of a client's text of an error (`SQLSTATE: message`) that says so.
pub fn says_full(error: &str) -> bool {
    error.split(':').next() == Some(SqlState::DISK_FULL.code()) && of_a_disk(error)
}

/// True of a server's log in which a line says so.
pub fn logs_full(log: &str) -> bool {
    log.lines().any(|line| line.contains(NO_ROOM) && of_a_disk(line))
}

fn of_a_disk(message: &str) -> bool {
    !NO_DISK.iter().any(|other| message.contains(other))
}

/// An error that [`is_full`] knows, for what was told in words alone.
pub fn full(why: String) -> anyhow::Error {
    Error::new(ErrorKind::StorageFull, why).into()
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;
    use crate::lab::cluster::connect;
    use crate::lab::load::Work;
    use crate::lab::{ClientSpec, Cluster, ClusterOptions, Load};

    /// What PostgreSQL answers to a write that finds no room.
    const FAILS: &str = "CREATE FUNCTION write_more() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'could not extend file \"base/5/16384\"' USING ERRCODE = 'disk_full'; END $$";
    /// What it answers where `/dev/shm` is full, with the same SQLSTATE.
    const NO_MEMORY: &str = "CREATE FUNCTION share_more() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'could not resize shared memory segment \"/PostgreSQL.1\" to 4 bytes: No space left on device'
        USING ERRCODE = 'disk_full'; END $$";

    #[test]
    fn only_a_lack_of_room_is_one() {
        assert!(is_full(&full("the volume".to_owned()).context("a case")));
        assert!(!is_full(&anyhow::anyhow!("53100: no room")) && !is_servers(&full(String::new())));
        assert!(says_full("53100: could not extend file") && !says_full("22012: 53100: division by zero"));
        assert!(!says_full("53100: could not resize shared memory segment \"/x\" to 4 bytes: No space left on device"));
        let (memory, disk) =
            ("ERROR:  could not resize shared memory segment: No space left on device\n", "PANIC:  write: No space left on device\n");
        assert!(!logs_full(memory) && logs_full(disk) && logs_full(&[memory, disk, memory].concat()) && !logs_full(""));
    }

    #[tokio::test]
    async fn a_server_without_room_is_told_by_itself_and_by_its_clients() {
        let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
        cluster.admin().await.unwrap().batch_execute(FAILS).await.unwrap();
        let app = connect(&cluster.dsn_app()).await.unwrap();
        let refused = app.batch_execute("SELECT write_more()").await.context("the setup failed").unwrap_err();
        assert!(is_full(&refused) && is_servers(&refused), "{refused:#}");
        let told = cluster.blamed(refused);
        assert!(is_full(&told) && told.to_string().contains("TMPDIR") && told.to_string().contains("could not extend"), "{told:#}");
        let other = app.batch_execute("SELECT 1 / 0").await.context("the setup failed").unwrap_err();
        assert!(!is_full(&cluster.blamed(other)));
        cluster.admin().await.unwrap().batch_execute(NO_MEMORY).await.unwrap();
        let memory = app.batch_execute("SELECT share_more()").await.context("the setup failed").unwrap_err();
        assert!(format!("{memory:#}").contains(NO_DISK[0]) && !is_full(&memory), "{memory:#}");
        assert!(cluster.log_tail().contains(NO_DISK[0]) && !is_full(&cluster.blamed(memory)));

        let work = vec![Work { weight: 1, sql: vec!["SELECT write_more()".to_owned()] }];
        let spec = ClientSpec { name: "app".to_owned(), count: 1, think_ms: (20, 20), per_second: None, reconnect: false, work };
        let load = Load::start(&cluster.dsn_app(), &[spec], 1).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while load.report().errors == 0 && std::time::Instant::now() < end {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let report = load.stop().await;
        assert!(report.full > 0, "{report:?}");
        let error = report.had_room().unwrap_err();
        assert!(is_full(&error) && error.to_string().contains("53100"), "{error:#}");
        cluster.stop().await;
    }
}
