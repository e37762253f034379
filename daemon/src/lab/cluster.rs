//! A private PostgreSQL cluster: started in a temp folder on a free port, and gone without a trace afterwards.

use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use tokio_postgres::{Client, Config, NoTls};

use super::binaries;
use super::guard::Guard;
use super::network;
use super::room;
use super::volume::Volume;

/// What a cluster may be told.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Folder of `initdb` and `postgres`; searched for when absent.
    pub bin_dir: Option<PathBuf>,
    /// Name of the database and of the role that owns it.
    pub database: String,
    /// Settings on top of the lab's own, as in `postgresql.conf`.
    pub settings: Vec<(String, String)>,
    /// A streaming standby beside it.
    pub standby: bool,
    /// Mebibytes of a volume of its own for the data directory; 0 for none.
    pub volume_mb: u32,
    /// Transaction id that it begins with; 0 for a new server's.
    pub next_xid: u32,
    /// Loopback will be narrowed: this process has to have one of its own.
    pub own_network: bool,
    /// Statement statistics are installed.
    pub statements: bool,
    /// The collector's role may see the sessions of others.
    pub monitor: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        let database = "shop".to_owned();
        Self {
            bin_dir: None,
            database,
            settings: Vec::new(),
            standby: false,
            volume_mb: 0,
            next_xid: 0,
            own_network: false,
            statements: true,
            monitor: true,
        }
    }
}

/// A running cluster with one database. Dropping it stops the server and removes its folder (a second or two);
/// so does the end of this process, however it comes.
pub struct Cluster {
    own: Option<Own>,
    address: Address,
    database: String,
    standby_port: Option<u16>,
    passwords: Passwords,
    notes: Vec<String>,
}

/// What a server of the lab's own has beside its address.
struct Own {
    guard: Guard,
    bin_dir: PathBuf,
    /// Its data directory lies on a small volume, which a fault may fill.
    has_volume: bool,
}

/// Where a server is, and its superuser.
pub(super) struct Address {
    pub host: String,
    pub port: u16,
    pub admin: String,
    pub password: String,
    /// A database that is always there.
    pub database: String,
    /// The collector's role.
    pub collector: String,
}

struct Passwords {
    app: String,
    galen: String,
}

const PATIENCE: Duration = Duration::from_secs(60);
/// Longest path of a unix socket (`sun_path`) less `/.s.PGSQL.65535`.
const SOCKET_FOLDER_LIMIT: usize = 107 - 16;
const DEFAULTS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("shared_buffers", "64MB"),
    ("max_connections", "120"),
    ("max_wal_size", "512MB"),
    ("track_io_timing", "on"),
    ("log_lock_waits", "on"),
    ("log_checkpoints", "on"),
    ("log_temp_files", "0"),
    ("log_line_prefix", "%m [%p] %q%u@%d %a "),
    // One backend a statement: what a session does is then what its client asked for.
    ("max_parallel_workers_per_gather", "0"),
    ("jit", "off"),
    ("autovacuum_naptime", "15s"),
];

impl Cluster {
    /// Makes and starts a cluster. Fails with one line that says what to do.
    pub async fn start(options: ClusterOptions) -> anyhow::Result<Cluster> {
        let bin_dir = binaries::find_bin_dir(options.bin_dir.as_deref())?;
        if options.own_network {
            network::prepare()?;
        }
        let mut attempt = 1;
        loop {
            match Cluster::try_start(&bin_dir, &options).await {
                // Somebody else took the port between our look and the server's bind.
                Err(error) if attempt < 3 && format!("{error:#}").contains("could not bind") => attempt += 1,
                other => return other,
            }
        }
    }

    /// Connection string of the superuser, for the lab itself. With a standby this and the next two name both servers, the
    /// primary first, as clients do that survive a failover.
    pub fn dsn_admin(&self) -> String {
        self.dsn_of_both(&self.address.admin, &self.address.password)
    }

    /// Connection string of the role that owns the database, for its load.
    pub fn dsn_app(&self) -> String {
        self.dsn_of_both(&self.database, &self.passwords.app)
    }

    /// Connection string of the least-privilege role a collector uses.
    pub fn dsn_galen(&self) -> String {
        self.dsn_of_both(&self.address.collector, &self.passwords.galen)
    }

    /// TCP port, on 127.0.0.1 for a server of the lab's own.
    pub fn port(&self) -> u16 {
        self.address.port
    }

    pub(super) fn database(&self) -> &str {
        &self.database
    }

    pub(super) fn collector(&self) -> &str {
        &self.address.collector
    }

    /// The cluster's folder: data, unix socket and `server.log`.
    #[cfg(test)]
    pub fn folder(&self) -> &Path {
        self.own.as_ref().unwrap().guard.folder()
    }

    /// What this server lacks, one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// False once the server has ended by itself.
    #[cfg(test)]
    pub fn is_running(&self) -> bool {
        self.own.as_ref().unwrap().guard.is_running()
    }

    /// The last lines of the server's log, at most 16 kB; nothing of a server that is not the lab's own.
    pub fn log_tail(&self) -> String {
        self.own.as_ref().map(|own| log_tail(own.guard.folder())).unwrap_or_default()
    }

    /// Why a run on this server failed. Where the machine's disk had no room under a server of the lab's own, that is said,
    /// and [`is_full`](room::is_full) knows it; of a small volume of the server's own that is full, it does not.
    pub(super) fn blamed(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(own) = &self.own else { return error };
        if own.has_volume {
            return if room::is_servers(&error) { anyhow!("{error:#}") } else { error };
        }
        // A server that crashed of it, or could not even start, says so in its log alone.
        if !room::is_full(&error) && !room::logs_full(&self.log_tail()) {
            return error;
        }
        let place = own.guard.folder().parent().unwrap_or(Path::new("/"));
        room::full(format!("no room for the lab's server in {} (TMPDIR names another folder): {error:#}", place.display()))
    }

    /// Stops the server (fast shutdown, then by force) and removes its folder; from a server that was handed over only
    /// what the lab made there goes.
    pub async fn stop(self) {
        if self.own.is_none() {
            self.leave().await;
        }
        // Waiting for the server blocks, so it happens off the async threads.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    /// A connection as superuser to the lab's database.
    pub(super) async fn admin(&self) -> anyhow::Result<Client> {
        connect(&self.dsn_admin()).await.context("cannot connect to the lab's server")
    }

    /// A connection as superuser to the standby.
    pub(super) async fn standby(&self) -> anyhow::Result<Client> {
        let port = self.standby_port.context("the lab's server has no standby")?;
        let dsn = self.dsn_at(port, &self.address.admin, &self.address.password, "postgres");
        connect(&dsn).await.context("cannot connect to the lab's standby")
    }

    /// Gives a process the server's user, and the environment that leads it to the server.
    pub(super) fn dress(&self, command: &mut std::process::Command) -> anyhow::Result<()> {
        use std::os::unix::process::CommandExt;
        let own = self.own.as_ref().context("processes can run beside a server of the lab's own only")?;
        if let Some(user) = binaries::server_user()? {
            command.uid(user.uid).gid(user.gid);
        }
        let folder = own.guard.folder();
        let path = std::env::join_paths(
            std::iter::once(own.bin_dir.clone()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        )?;
        command.current_dir(folder).env("PATH", path).env("LAB", folder).env("PGDATA", folder.join("data"));
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.address.port.to_string()).env("PGUSER", "postgres");
        command.env("PGPASSWORD", &self.address.password).env("PGDATABASE", &self.database).env("LC_ALL", "C");
        Ok(())
    }

    async fn try_start(bin_dir: &Path, options: &ClusterOptions) -> anyhow::Result<Cluster> {
        let user = binaries::server_user()?;
        let folder = binaries::make_folder(user.as_ref())?;
        let port = free_port()?;
        let standby_port = if options.standby { Some(free_port()?) } else { None };
        let password = secret()?;
        let mut notes = Vec::new();
        let settings = settings_file(bin_dir, folder.path(), port, options, &mut notes)?;
        write_readable(&folder.path().join("settings.conf"), &settings)?;
        write_readable(&folder.path().join("password"), &password)?;
        if options.next_xid > 0 {
            write_readable(&folder.path().join("next_xid"), &next_xid(options.next_xid))?;
        }
        if let Some(own) = standby_port {
            write_readable(&folder.path().join("standby.conf"), &standby_file(own, port, &password)?)?;
        }
        let volume =
            if options.volume_mb > 0 { Some(Volume::mount(&folder.path().join("data"), options.volume_mb, user.as_ref())?) } else { None };
        let guard = Guard::start(folder, bin_dir, user.as_ref(), volume)?;
        let address = Address {
            host: "127.0.0.1".to_owned(),
            port,
            admin: "postgres".to_owned(),
            password,
            database: "postgres".to_owned(),
            collector: "galen".to_owned(),
        };
        let own = Some(Own { guard, bin_dir: bin_dir.to_owned(), has_volume: options.volume_mb > 0 });
        let mut cluster = Cluster { own, standby_port, notes, ..Cluster::at(address, options.database.clone())? };
        let begun = cluster.begin(options).await;
        begun.map_err(|error| cluster.blamed(error))?;
        Ok(cluster)
    }

    async fn begin(&mut self, options: &ClusterOptions) -> anyhow::Result<()> {
        self.wait_until_ready().await?;
        self.furnish(options).await?;
        self.wait_for_standby().await
    }

    /// A server at this address in which the lab has made nothing yet.
    pub(super) fn at(address: Address, database: String) -> anyhow::Result<Cluster> {
        let passwords = Passwords { app: secret()?, galen: secret()? };
        Ok(Cluster { own: None, address, database, standby_port: None, passwords, notes: Vec::new() })
    }

    /// Returns once the standby streams, at once where there is none.
    async fn wait_for_standby(&self) -> anyhow::Result<()> {
        if self.standby_port.is_none() {
            return Ok(());
        }
        let admin = self.admin().await?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
            if admin.query_one(sql, &[]).await?.get::<_, i64>(0) > 0 && self.standby().await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the lab's standby does not stream after {} s", PATIENCE.as_secs())
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.own.as_ref().is_some_and(|own| !own.guard.is_running()) {
                bail!("the lab's server did not start; its log ends with: {}", last_lines(&self.log_tail(), 5));
            }
            if connect(&self.dsn_postgres()).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the lab's server was not ready after {} s; its log ends with: {}", PATIENCE.as_secs(), last_lines(&self.log_tail(), 5))
    }

    /// Roles, the database and its extensions.
    pub(super) async fn furnish(&mut self, options: &ClusterOptions) -> anyhow::Result<()> {
        let postgres = connect(&self.dsn_postgres()).await?;
        let version: i32 = postgres.query_one("SELECT current_setting('server_version_num')::int", &[]).await?.get(0);
        let Passwords { app, galen, .. } = &self.passwords;
        let (name, collector) = (&self.database, &self.address.collector);
        let mut sql = format!("CREATE ROLE {name} LOGIN PASSWORD '{app}'; CREATE ROLE {collector} LOGIN PASSWORD '{galen}';");
        if options.monitor {
            sql.push_str(&format!("GRANT pg_monitor TO {collector};"));
        }
        if version >= 140_000 {
            sql.push_str(&format!("GRANT pg_read_all_data TO {collector};"));
        } else {
            self.notes.push("PostgreSQL before 14 has no role pg_read_all_data: plans of the shop's statements cannot be asked for".into());
        }
        postgres.batch_execute(&sql).await?;
        postgres.batch_execute(&format!("CREATE DATABASE {name} OWNER {name}")).await?;
        let admin = self.admin().await?;
        for extension in ["pg_stat_statements", "hypopg"].into_iter().skip(usize::from(!options.statements)) {
            let found = admin.query_opt("SELECT 1 FROM pg_available_extensions WHERE name = $1", &[&extension]).await?;
            match found {
                Some(_) => admin.batch_execute(&format!("CREATE EXTENSION {extension}")).await?,
                None => self.notes.push(format!("the extension {extension} is not installed on this machine")),
            }
        }
        Ok(())
    }

    fn dsn(&self, user: &str, password: &str) -> String {
        self.dsn_at(self.address.port, user, password, &self.database)
    }

    fn dsn_of_both(&self, user: &str, password: &str) -> String {
        let primary = self.dsn(user, password);
        match self.standby_port {
            Some(port) => format!("{primary} host=127.0.0.1 port={port}"),
            None => primary,
        }
    }

    pub(super) fn dsn_postgres(&self) -> String {
        self.dsn_at(self.address.port, &self.address.admin, &self.address.password, &self.address.database)
    }

    fn dsn_at(&self, port: u16, user: &str, password: &str, database: &str) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
        let (host, user, password, database) = (quoted(&self.address.host), quoted(user), quoted(password), quoted(database));
        let secret = if password == "''" { String::new() } else { format!(" password={password}") };
        format!("host={host} port={port} user={user}{secret} dbname={database}")
    }
}

/// A transaction id at the beginning of a page of pg_xact, and the name of the segment that holds that page: 4 ids a
/// byte, 8192 bytes a page, 32 pages a segment.
fn next_xid(wanted: u32) -> String {
    let first = wanted - wanted % 32_768;
    format!("{first} {:04X}\n", first / (32_768 * 32))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).and_then(|it| it.local_addr()).context("no free port")?.port())
}

/// Settings of the standby that differ from its primary's.
fn standby_file(own: u16, primary: u16, password: &str) -> anyhow::Result<String> {
    let from = format!("host=127.0.0.1 port={primary} user=postgres password={password} application_name=standby1");
    let lines = [("port", own.to_string()), ("primary_conninfo", from), ("hot_standby", "on".into())];
    lines.iter().map(|(key, value)| setting_line(key, value)).collect()
}

/// Connects and lets the connection run by itself.
pub(super) async fn connect(dsn: &str) -> anyhow::Result<Client> {
    let mut config: Config = dsn.parse()?;
    config.application_name("psql").connect_timeout(Duration::from_secs(5));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn settings_file(bin_dir: &Path, folder: &Path, port: u16, options: &ClusterOptions, notes: &mut Vec<String>) -> anyhow::Result<String> {
    let mut lines = vec![("port".to_owned(), port.to_string())];
    let place = folder.to_string_lossy().into_owned();
    if place.len() <= SOCKET_FOLDER_LIMIT {
        lines.push(("unix_socket_directories".into(), place));
    } else {
        lines.push(("unix_socket_directories".into(), String::new()));
        notes.push("the temp folder's path is too long for a unix socket: the lab listens on TCP only".into());
    }
    lines.extend(DEFAULTS.iter().map(|(key, value)| (key.to_string(), value.to_string())));
    if !options.statements {
        notes.push("statement statistics are left out on purpose".into());
    } else if binaries::has_library(bin_dir, "pg_stat_statements") {
        lines.push(("shared_preload_libraries".into(), "pg_stat_statements".into()));
    } else {
        notes.push("pg_stat_statements is not installed on this machine: statement statistics will be missing".into());
    }
    lines.extend(options.settings.iter().cloned());
    lines.iter().map(|(key, value)| setting_line(key, value)).collect()
}

fn setting_line(key: &str, value: &str) -> anyhow::Result<String> {
    let good_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    if !good_key || value.contains(|c: char| c.is_control()) {
        bail!("`{} = {}` is not a server setting: use NAME and a VALUE on one line", key.escape_debug(), value.escape_debug());
    }
    Ok(format!("{key} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''")))
}

/// Inside a 0700 folder, so the mode only has to let the server's user read.
fn write_readable(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// 128 random bits in hex.
fn secret() -> anyhow::Result<String> {
    let mut bytes = [0u8; 16];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn log_tail(folder: &Path) -> String {
    let Ok(mut file) = std::fs::File::open(folder.join("server.log")) else {
        return String::new();
    };
    let length = file.metadata().map_or(0, |meta| meta.len());
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(length.saturating_sub(16_384))).and_then(|_| file.read_to_end(&mut bytes)).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_cannot_smuggle_in_another() {
        assert!(setting_line("work_mem", "1MB'\nfsync = 'off").is_err());
        assert!(setting_line("work mem", "1MB").is_err());
        assert_eq!(setting_line("log_line_prefix", "it's").unwrap(), "log_line_prefix = 'it''s'\n");
    }

    #[tokio::test]
    async fn a_server_that_needs_a_network_of_its_own_is_refused_where_there_is_none() {
        let options = ClusterOptions { own_network: true, ..ClusterOptions::default() };
        let error = Cluster::start(options).await.err().unwrap().to_string();
        assert!(error.starts_with("a network of its own ") && error.lines().count() == 1, "{error}");
    }

    #[test]
    fn secrets_differ() {
        let (one, two) = (secret().unwrap(), secret().unwrap());
        assert!(one.len() == 32 && one != two);
    }
}
