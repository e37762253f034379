//! A private PostgreSQL for tests: a fresh cluster in a temporary directory on a free port, stopped when dropped.
//!
//! `GALEN_TEST_PGBIN` names the directory with `initdb`, `pg_ctl` and `postgres` (default: PostgreSQL 15 of Debian).

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, NoTls};

use super::{Collector, Intervals, PgConfig};
use crate::capture::{Capture, Frame};

/// Password of every role; it must never show up anywhere.
pub const PASSWORD: &str = "w4tch-hunter2";

/// A running cluster with a superuser `postgres`, a role `watcher` (pg_monitor), a role `app`, and a database `shop`.
pub struct Cluster {
    directory: PathBuf,
    bin: PathBuf,
    pub port: u16,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with("shared_preload_libraries = 'pg_stat_statements'", true).await
    }

    pub async fn start_with(settings: &str, statements: bool) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let bin = std::env::var("GALEN_TEST_PGBIN").unwrap_or_else(|_| "/usr/lib/postgresql/15/bin".into());
        let name = format!("galen-pg-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).expect("temporary directory");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).expect("permissions");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("free port").port();
        let cluster = Self { directory, bin: bin.into(), port };
        fs::write(cluster.directory.join("pw"), PASSWORD).expect("password file");
        let (data, pwfile) = (cluster.data(), format!("--pwfile={}/pw", cluster.directory.display()));
        cluster.run("initdb", &["-D", &data, "-U", "postgres", "-A", "scram-sha-256", &pwfile, "-N", "-E", "UTF8", "--locale=C"]);
        let config = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nfsync = off\nmax_connections = 50\n{settings}\n",
            cluster.directory.display()
        );
        let file = Path::new(&data).join("postgresql.conf");
        let old = fs::read_to_string(&file).expect("postgresql.conf");
        fs::write(&file, old + &config).expect("postgresql.conf");
        cluster.control("start");
        cluster.prepare(statements).await;
        cluster
    }

    async fn prepare(&self, statements: bool) {
        let admin = self.client("postgres", "postgres").await;
        for role in ["watcher", "app"] {
            admin.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")).await.expect("role");
        }
        admin.batch_execute("GRANT pg_monitor TO watcher").await.expect("grant");
        admin.batch_execute("CREATE DATABASE shop OWNER app").await.expect("database");
        let shop = self.client("postgres", "shop").await;
        if statements {
            shop.batch_execute("CREATE EXTENSION pg_stat_statements").await.expect("extension");
        }
        shop.batch_execute("GRANT ALL ON SCHEMA public TO app").await.expect("schema");
        let tables = "CREATE TABLE accounts (id int PRIMARY KEY, owner text, balance int);
             INSERT INTO accounts SELECT g, 'owner ' || g, 0 FROM generate_series(1, 20000) g;
             ANALYZE accounts";
        self.client("app", "shop").await.batch_execute(tables).await.expect("tables");
    }

    fn data(&self) -> String {
        self.directory.join("data").display().to_string()
    }

    /// Restarts as a standby without a primary, until `control("promote")`.
    pub fn restart_as_standby(&self) {
        self.control("stop");
        let signal = Path::new(&self.data()).join("standby.signal");
        fs::write(&signal, "").expect("standby.signal");
        // The server removes it when it is promoted.
        let mode = fs::metadata(self.data()).expect("data directory");
        std::os::unix::fs::chown(&signal, Some(mode.uid()), Some(mode.gid())).expect("owner");
        self.control("start");
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// `pg_ctl start` or `restart`.
    pub fn control(&self, action: &str) {
        let (data, log) = (self.data(), self.directory.join("log").display().to_string());
        self.run("pg_ctl", &["-D", &data, "-l", &log, "-w", "-t", "60", action]);
    }

    fn run(&self, program: &str, args: &[&str]) {
        let output = self.command(program, args);
        let log = self.log();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} failed (set GALEN_TEST_PGBIN?): {error}{log}");
    }

    /// The server refuses to run as root.
    fn command(&self, program: &str, args: &[&str]) -> Output {
        let path = self.bin.join(program);
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        command.args(args).current_dir("/").output().expect("program")
    }

    pub fn dsn(&self, user: &str, database: &str) -> String {
        format!("postgresql://{user}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// A target for the least-privileged role, with intervals short enough for a test.
    pub fn config(&self) -> PgConfig {
        PgConfig { intervals: Intervals::brisk(), ..PgConfig::new("shop", self.dsn("watcher", "shop")) }
    }

    pub async fn client(&self, user: &str, database: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.dsn(user, database), NoTls).await.expect("client");
        tokio::spawn(connection);
        client
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.command("pg_ctl", &["-D", &self.data(), "-m", "immediate", "stop"]);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Turns once a second of real time, absorbed into a capture; also the frames, for what a capture merges away.
pub async fn turns(collector: &mut Collector, from: i64, count: i64) -> (Capture, Vec<Frame>) {
    let (mut capture, mut frames) = (Capture::default(), Vec::new());
    for turn in 0..count {
        let frame = collector.turn(from + turn * 1000).await.expect("turn");
        frames.push(frame.clone());
        capture.absorb(frame);
        tokio::time::sleep(std::time::Duration::from_millis(1000)).await;
    }
    (capture, frames)
}
