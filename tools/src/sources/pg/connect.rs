//! Opens one session to a target: limits set before anything runs, TLS, and the facts that decide what may be read.

use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Socket};

use super::config::PgConfig;
use super::error::{SourceError, SourceErrorKind, reason};
use super::probes::FACTS;
use super::row::{get, text};
use super::tls;

/// Limit of a statement when a session begins, milliseconds; the one in [`LIMITS`].
pub(super) const FIRST_TIMEOUT_MS: u32 = 2_000;
/// Set by the server itself when the session begins, so that nothing can run without them.
const LIMITS: &str = "-c default_transaction_read_only=on -c statement_timeout=2000 -c lock_timeout=100 \
     -c idle_in_transaction_session_timeout=10000 -c standard_conforming_strings=on";

/// One open connection and the task that drives it.
pub(super) struct Link {
    pub client: Client,
    driver: JoinHandle<Option<SqlState>>,
}

impl Link {
    /// The SQLSTATE with which the server ended the session, if it has ended it with one.
    pub async fn epitaph(&mut self) -> Option<SqlState> {
        tokio::time::timeout(Duration::from_millis(200), &mut self.driver).await.ok()?.ok()?
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What a session learns at its beginning.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub version_num: i32,
    pub role: String,
    pub database: String,
    pub superuser: bool,
    /// A superuser role that this one may become by SET ROLE; itself when it is one.
    pub superuser_of: Option<String>,
    pub reads_stats: bool,
    pub started_ms: f64,
    pub pid: i32,
    pub data_directory: Option<String>,
    pub computes_query_ids: bool,
    pub statements_schema: Option<String>,
}

/// `host:port/database` for messages.
pub(super) fn place(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.display().to_string(),
        None => config.get_hostaddrs().first().map_or("localhost".to_owned(), IpAddr::to_string),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    format!("{host}:{port}/{}", config.get_dbname().or(config.get_user()).unwrap_or_default())
}

/// True for a socket or a loopback address.
pub(super) fn looks_local(config: &Config) -> bool {
    match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        #[cfg(unix)]
        Some(Host::Unix(_)) => true,
        None => config.get_hostaddrs().first().is_some_and(IpAddr::is_loopback),
    }
}

/// Connects and checks version and role.
pub(super) async fn open(config: &PgConfig) -> Result<(Link, Facts), SourceError> {
    let mut pg = config.dsn.parse()?;
    let options = format!("{} {LIMITS}", pg.get_options().unwrap_or_default());
    pg.options(options.trim()).application_name("galen");
    if pg.get_connect_timeout().is_none() {
        pg.connect_timeout(Duration::from_secs(5));
    }
    let place = place(&pg);
    let tls = tls::connector(pg.get_ssl_mode()).map_err(|why| SourceError::new(SourceErrorKind::Unreachable, format!("{place}: {why}")))?;
    // The driver's own limit covers the socket only; a server that accepts and then says nothing must not hang us.
    let (client, connection) = tokio::time::timeout(Duration::from_secs(15), pg.connect(tls))
        .await
        .map_err(|_| {
            let why = format!("{place}: no answer within 15 s; check that it is a postgresql server and not overloaded");
            SourceError::new(SourceErrorKind::Unreachable, why)
        })?
        .map_err(|error| SourceError::on_connect(&place, &error))?;
    let version = connection.parameter("server_version").unwrap_or_default().to_owned();
    let driver = tokio::spawn(drive(connection));
    let link = Link { client, driver };
    check_version(&place, &version)?;
    let facts = facts(&link.client).await.map_err(|error| SourceError::on_connect(&place, &error))?;
    check_role(&place, &facts, config.allow_superuser)?;
    Ok((link, facts))
}

/// Moves bytes until the session ends; returns the SQLSTATE of the server's last words. Those of a server that takes
/// its sessions down after a crash come as a warning, not as an error.
async fn drive<T>(mut connection: Connection<Socket, T>) -> Option<SqlState>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut last_words = None;
    while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => last_words = Some(notice.code().clone()),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "a connection ended");
                return error.code().cloned().or(last_words);
            }
        }
    }
    last_words
}

fn check_version(place: &str, version: &str) -> Result<(), SourceError> {
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse::<u32>() {
        Ok(major) if major < 13 => Err(SourceError::new(
            SourceErrorKind::UnsupportedVersion,
            format!("{place}: postgresql {version} is too old; galen reads version 13 and later"),
        )),
        _ => Ok(()),
    }
}

fn check_role(place: &str, facts: &Facts, allow_superuser: bool) -> Result<(), SourceError> {
    let Some(superuser) = facts.superuser_of.as_ref().filter(|_| !allow_superuser) else { return Ok(()) };
    let role = &facts.role;
    let what = if facts.superuser { "a superuser".to_owned() } else { format!("a member of superuser {superuser}") };
    Err(SourceError::new(
        SourceErrorKind::Refused,
        format!(
            "{place}: role {role} is {what}; connect as a role with pg_monitor only (galen init-role prints the sql) \
             or set allow_superuser"
        ),
    ))
}

async fn facts(client: &Client) -> Result<Facts, tokio_postgres::Error> {
    // Nothing of the user's schemas may stand in for a catalog function.
    client.batch_execute("SET search_path = pg_catalog; SET jit = off; SET max_parallel_workers_per_gather = 0").await?;
    let row = client.query_one(FACTS.sql(i32::MAX).unwrap_or_default(), &[]).await?;
    Ok(Facts {
        version_num: get(&row, "version_num").unwrap_or(0),
        role: text(&row, "role"),
        database: text(&row, "database"),
        superuser: get(&row, "superuser").unwrap_or(false),
        superuser_of: get(&row, "superuser_of"),
        reads_stats: get(&row, "reads_stats").unwrap_or(false),
        started_ms: get(&row, "started_ms").unwrap_or(0.0),
        pid: get(&row, "pid").unwrap_or(0),
        data_directory: get(&row, "data_directory"),
        computes_query_ids: get::<String>(&row, "compute_query_id").is_some_and(|value| value != "off"),
        statements_schema: get(&row, "statements_schema"),
    })
}

/// Lets the session see pg_stat_statements, wherever it is installed.
pub(super) async fn see_statements(link: &Link, facts: &Facts) -> Result<(), String> {
    let Some(schema) = &facts.statements_schema else { return Ok(()) };
    let quoted = schema.replace('"', "\"\"");
    let sql = format!("SET search_path = pg_catalog, \"{quoted}\"");
    link.client.batch_execute(&sql).await.map_err(|error| reason(&error))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn places_are_named_without_the_password() {
        let config: Config = "postgresql://u:hunter2@db.example:6432/shop".parse().expect("dsn");
        assert_eq!(place(&config), "db.example:6432/shop");
        assert!(!looks_local(&config));
        assert!(looks_local(&"host=/run/postgresql user=u".parse().expect("dsn")));
        assert!(looks_local(&"host=127.0.0.1 user=u".parse().expect("dsn")));
    }

    #[test]
    fn old_servers_are_refused() {
        let error = check_version("db:5432/x", "12.9 (Debian)").expect_err("too old");
        assert_eq!(error.kind, SourceErrorKind::UnsupportedVersion);
        assert!(check_version("db:5432/x", "13.0").is_ok());
        assert!(check_version("db:5432/x", "19devel").is_ok());
    }
}
