//! Tests of the lab on a real server: it starts and leaves nothing, every statement prepares, faults show what they should.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::cluster::connect;
use super::load::ClientSpec;
use super::script::Script;
use super::statement::{Dice, Step};
use super::*;

/// What the server showed during one phase.
#[derive(Debug, Default)]
struct Seen {
    samples: u32,
    active: u32,
    idle_in_transaction: u32,
    waits: BTreeMap<String, u32>,
    seconds: f64,
    cpus: f64,
    counters: BTreeMap<&'static str, f64>,
}

const COUNTERS: [&str; 9] = ["calls", "commits", "rollbacks", "returned", "inserted", "updated", "deleted", "temp_mb", "wal_mb"];

impl Seen {
    fn rate(&self, counter: &str) -> f64 {
        self.counters[counter] / self.seconds
    }

    fn per_sample(&self, wait: &str) -> f64 {
        let hits: u32 = self.waits.iter().filter(|(name, _)| name.starts_with(wait)).map(|(_, count)| count).sum();
        f64::from(hits) / f64::from(self.samples.max(1))
    }

    fn line(&self) -> String {
        let mut waits: Vec<_> = self.waits.iter().collect();
        waits.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let waits: Vec<String> = waits
            .iter()
            .take(4)
            .map(|(name, count)| format!("{name} {:.1}", f64::from(**count) / f64::from(self.samples.max(1))))
            .collect();
        let rates: Vec<String> = COUNTERS.iter().map(|name| format!("{name} {:.0}/s", self.rate(name))).collect();
        let per = f64::from(self.samples.max(1));
        format!(
            "cpus {:.2} active {:.1} idle-in-tx {:.1} [{}] {}",
            self.cpus,
            f64::from(self.active) / per,
            f64::from(self.idle_in_transaction) / per,
            waits.join(", "),
            rates.join(" ")
        )
    }
}

async fn totals(watcher: &Client) -> Vec<f64> {
    let sql =
        "SELECT (SELECT sum(calls)::float8 FROM pg_stat_statements), xact_commit::float8, xact_rollback::float8, tup_returned::float8,
        tup_inserted::float8, tup_updated::float8, tup_deleted::float8, temp_bytes / 1e6::float8,
        (SELECT wal_bytes / 1e6 FROM pg_stat_wal)::float8 FROM pg_stat_database WHERE datname = 'shop'";
    let row = watcher.query_one(sql, &[]).await.unwrap();
    (0..COUNTERS.len()).map(|column| row.get(column)).collect()
}

async fn sample(watcher: &Client, seen: &mut Seen) {
    let sql = "SELECT state, coalesce(wait_event_type || ':' || wait_event, 'CPU') FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND application_name LIKE 'shop%' AND state <> 'idle'";
    seen.samples += 1;
    for row in watcher.query(sql, &[]).await.unwrap() {
        match row.get::<_, &str>(0) {
            "active" => {
                seen.active += 1;
                *seen.waits.entry(row.get(1)).or_default() += 1;
            }
            _ => seen.idle_in_transaction += 1,
        }
    }
}

/// Runs a fault beside a watcher; returns what was seen in the baseline and in the anomaly.
async fn watch(cluster: &Cluster, name: &str, baseline: u64, anomaly: u64) -> (Seen, Seen, Recorded) {
    let scenario = Scenario::load(name).unwrap();
    scenario.prepare(cluster).await.unwrap();
    let phase = AtomicU8::new(0);
    let phases = Phases {
        warmup: Duration::from_secs(2),
        baseline: Duration::from_secs(baseline),
        anomaly: Duration::from_secs(anomaly),
        recovery: Duration::from_secs(1),
    };
    let parameters = Parameters::new();
    let plan = Run { parameters, phases, seed: 1 };
    let running = record(cluster, &scenario, &plan, |began| phase.store(began as u8, SeqCst));
    let watching = async {
        let watcher = connect(&cluster.dsn_galen()).await.unwrap();
        while phase.load(SeqCst) < Phase::Baseline as u8 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let calm = watch_phase(&watcher, &phase, Phase::Baseline).await;
        let storm = watch_phase(&watcher, &phase, Phase::Anomaly).await;
        println!("{name}\n  before: {}\n  during: {}", calm.line(), storm.line());
        let top = "SELECT left(query, 90), calls, round(total_exec_time)::float8, round(mean_exec_time)::float8, rows FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT 4";
        for row in watcher.query(top, &[]).await.unwrap() {
            let (text, calls, total, mean, rows): (String, i64, f64, f64, i64) =
                (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
            println!("    {total:>8} ms, {calls} calls, mean {mean} ms, {rows} rows: {}", text.replace('\n', " "));
        }
        (calm, storm)
    };
    let (report, (calm, storm)) = tokio::join!(running, watching);
    (calm, storm, report.unwrap())
}

async fn watch_phase(watcher: &Client, phase: &AtomicU8, wanted: Phase) -> Seen {
    let mut seen = Seen::default();
    let (from, busy, began) = (totals(watcher).await, cpu_seconds(), Instant::now());
    while phase.load(SeqCst) == wanted as u8 {
        sample(watcher, &mut seen).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let to = totals(watcher).await;
    seen.seconds = began.elapsed().as_secs_f64();
    seen.cpus = (cpu_seconds() - busy) / seen.seconds;
    seen.counters = COUNTERS.iter().zip(from.iter().zip(to)).map(|(name, (a, b))| (*name, b - a)).collect();
    seen
}

/// Busy CPU seconds of the whole host.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap();
    let ticks: Vec<f64> = text.lines().next().unwrap().split_whitespace().skip(1).map(|it| it.parse().unwrap()).collect();
    (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / 100.0
}

fn processes_of(folder: &Path) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))).count()
}

#[tokio::test]
async fn a_cluster_starts_and_leaves_nothing_behind() {
    for stopped in [true, false] {
        let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
        let folder = cluster.folder().to_owned();
        assert!(cluster.is_running() && processes_of(&folder) > 0);
        assert!(cluster.log_tail().contains("ready to accept connections"), "{}", cluster.log_tail());
        let galen = connect(&cluster.dsn_galen()).await.unwrap();
        let row = galen
            .query_one("SELECT rolsuper, pg_has_role('pg_monitor', 'member') FROM pg_roles WHERE rolname = current_user", &[])
            .await
            .unwrap();
        assert_eq!((row.get::<_, bool>(0), row.get::<_, bool>(1)), (false, true));
        match stopped {
            true => cluster.stop().await,
            false => drop(cluster),
        }
        assert!(!folder.exists(), "{}", folder.display());
        assert_eq!(processes_of(&folder), 0);
    }
}

#[tokio::test]
async fn an_interrupted_start_leaves_nothing_behind() {
    for millis in [0, 300, 900, 2000] {
        // The folder's name cannot be chosen, so the attempt is told apart by a TMPDIR of its own.
        let root = tempfile::Builder::new().prefix(&format!("galen-lab-{millis}-")).tempdir().unwrap();
        // As /tmp is; the umask would have taken the bits from a mode given at creation.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        std::fs::set_permissions(root.path(), open).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lab::trial::starts_only_to_be_killed", "--ignored"])
            .env("TMPDIR", root.path())
            .env("GALEN_LAB_VICTIM", "1")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // From the guard's start on: before it there is a folder with nothing in it that runs.
        let begun = || processes_of(root.path()) > 0;
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && !begun() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(begun(), "the start had begun when it was killed");
        tokio::time::sleep(Duration::from_millis(millis)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline && (std::fs::read_dir(root.path()).unwrap().count() > 0 || processes_of(root.path()) > 0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "after {millis} ms");
        assert_eq!(processes_of(root.path()), 0, "after {millis} ms");
    }
}

#[tokio::test]
#[ignore = "the victim of an_interrupted_start_leaves_nothing_behind"]
async fn starts_only_to_be_killed() {
    if std::env::var_os("GALEN_LAB_VICTIM").is_none() {
        return;
    }
    let _cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
}

async fn prepare_all(client: &Client, specs: &[ClientSpec], whose: &str) {
    for text in specs.iter().flat_map(|spec| &spec.work).flat_map(|work| &work.sql) {
        let Step::Statement(template) = Step::parse(text).unwrap() else {
            continue;
        };
        // A cursor's FETCH only prepares after its DECLARE.
        if template.sql.starts_with("FETCH") {
            continue;
        }
        let statement = client.prepare(&template.sql).await.unwrap_or_else(|error| panic!("{whose}: {text}: {error:?}"));
        template.values(statement.params(), &mut Dice::new(1)).unwrap_or_else(|error| panic!("{whose}: {text}: {error}"));
    }
}

/// Runs every setup and teardown of a schema's faults, and prepares every statement of their clients in between.
async fn every_fault_prepares(cluster: &Cluster, schema: &Schema) {
    let admin = cluster.admin().await.unwrap();
    let app = connect(&cluster.dsn_app()).await.unwrap();
    prepare_all(&app, &schema.baseline, &schema.name).await;
    for fault in Scenario::list().unwrap().into_iter().filter(|fault| fault.schema == schema.name) {
        let Script { before, usual, setup, clients, teardown, .. } = fault.script(&Parameters::new()).unwrap();
        for sql in before.iter().chain(&setup) {
            admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{}: {sql}: {error:?}", fault.name));
        }
        prepare_all(&app, &usual, &fault.name).await;
        prepare_all(&app, &clients, &fault.name).await;
        for sql in &teardown {
            admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{}: {sql}: {error:?}", fault.name));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_of_the_other_schemas_prepares() {
    for name in ["tpcc", "tpch", "queue", "timeseries"] {
        let settings = vec![("fsync".to_owned(), "off".to_owned())];
        let cluster = Cluster::start(ClusterOptions { database: name.into(), settings, ..ClusterOptions::default() }).await.unwrap();
        let scenario = Scenario { schema: Schema::load(name).unwrap(), fault: Scenario::load("healthy").unwrap().fault };
        scenario.prepare(&cluster).await.unwrap();
        every_fault_prepares(&cluster, &scenario.schema).await;
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_streams_and_a_volume_is_small_and_all_of_it_goes_again() {
    let root = nix::unistd::geteuid().is_root();
    let volume_mb = if root { 160 } else { 0 };
    let settings = vec![("min_wal_size".to_owned(), "32MB".to_owned())];
    let with = ClusterOptions { volume_mb, settings: settings.clone(), ..ClusterOptions::default() };
    let cluster = Cluster::start(with).await.unwrap();
    let folder = cluster.folder().to_owned();
    if root {
        let all = nix::sys::statvfs::statvfs(&folder.join("data")).unwrap();
        assert_eq!(all.blocks() * all.fragment_size(), 160 << 20);
    } else {
        eprintln!("the volume was not tried: mounting needs root");
    }
    cluster.stop().await;
    assert!(!folder.exists());

    let cluster = Cluster::start(ClusterOptions { standby: true, settings, ..ClusterOptions::default() }).await.unwrap();
    let folder = cluster.folder().to_owned();
    let standby = cluster.standby().await.unwrap();
    assert!(standby.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap().get::<_, bool>(0));
    drop(cluster);
    assert!(!folder.exists());
    assert_eq!(processes_of(&folder), 0);
}

/// A server of somebody: the lab works there beside what is there, and leaves only that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_handed_over_is_left_as_it_was() {
    let theirs = Cluster::start(ClusterOptions { database: "accounts".into(), ..ClusterOptions::default() }).await.unwrap();
    let dsn = theirs.dsn_admin();
    let inventory = "SELECT (SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database), (SELECT string_agg(rolname, ',' ORDER BY rolname) FROM pg_roles)";
    let owner = theirs.admin().await.unwrap();
    let look = async || {
        let row = owner.query_one(inventory, &[]).await.unwrap();
        (row.get::<_, String>(0), row.get::<_, String>(1))
    };
    let before = look().await;
    let scenario = Scenario::load("workers_take_turns").unwrap();
    let cluster = Cluster::adopt(&dsn, &scenario, &Parameters::new()).await.unwrap();
    assert!(Cluster::adopt(&dsn, &scenario, &Parameters::new()).await.err().unwrap().to_string().contains("already"));
    scenario.prepare(&cluster).await.unwrap();
    assert_ne!(look().await, before);
    cluster.stop().await;
    assert_eq!(look().await, before);
    // What the owner has set in this way would be reset by the teardown.
    owner.batch_execute("ALTER SYSTEM SET work_mem = '7MB'").await.unwrap();
    for heavy in ["replication_lag", "work_mem_spill", "spill_and_inserts", "cpu_contention", "network_congestion"] {
        let heavy = Scenario::load(heavy).unwrap();
        let error = Cluster::adopt(&dsn, &heavy, &Parameters::new()).await.err().unwrap().to_string();
        assert!(error.contains("private server"), "{error}");
    }
    let kept = "SELECT setting FROM pg_file_settings WHERE name = 'work_mem' AND sourcefile LIKE '%postgresql.auto.conf'";
    assert_eq!(owner.query_one(kept, &[]).await.unwrap().get::<_, &str>(0), "7MB");
    let humble = theirs.dsn_galen();
    assert!(Cluster::adopt(&humble, &scenario, &Parameters::new()).await.err().unwrap().to_string().contains("superuser"));
    theirs.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_prepares_and_two_faults_show_what_they_should() {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    let scenario = Scenario::load("healthy").unwrap();
    let began = Instant::now();
    scenario.prepare(&cluster).await.unwrap();
    println!("setup took {:?}", began.elapsed());
    every_fault_prepares(&cluster, &scenario.schema).await;
    let admin = cluster.admin().await.unwrap();

    let (calm, storm, _) = watch(&cluster, "concurrent_updates", 4, 5).await;
    assert!(calm.per_sample("Lock:") < 1.0, "{}", calm.line());
    assert!(storm.per_sample("Lock:") > 8.0, "{}", storm.line());

    let (calm, storm, report) = watch(&cluster, "missing_index", 4, 5).await;
    assert!(storm.rate("returned") > 20.0 * calm.rate("returned").max(10_000.0), "{} / {}", calm.line(), storm.line());
    assert!(report.answer.steady.errors == 0, "{:?}", report.answer);
    let back = admin.query_one("SELECT to_regclass('orders_customer_id_idx') IS NOT NULL", &[]).await.unwrap();
    assert!(back.get::<_, bool>(0), "the teardown put the index back");
    cluster.stop().await;
}

/// `GALEN_LAB_TRIAL=missing_index:20:30,healthy:20:30 cargo test ... lab::trial::by_hand -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints what faults do to a real server, for tuning them"]
async fn by_hand() {
    let wanted = std::env::var("GALEN_LAB_TRIAL").unwrap_or_else(|_| "missing_index:20:30".into());
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    for one in wanted.split(',') {
        let parts: Vec<&str> = one.split(':').collect();
        let began = Instant::now();
        Scenario::load(parts[0]).unwrap().prepare(&cluster).await.unwrap();
        println!("loaded in {:.1} s", began.elapsed().as_secs_f64());
        cluster.admin().await.unwrap().batch_execute("SELECT pg_stat_statements_reset()").await.unwrap();
        let (_, _, report) = watch(&cluster, parts[0], parts[1].parse().unwrap(), parts[2].parse().unwrap()).await;
        println!("    {:?}", report.answer);
    }
    cluster.stop().await;
}
