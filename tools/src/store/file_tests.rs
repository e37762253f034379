//! Capture files: what is written comes back; a failure to write leaves nothing behind.

use std::collections::BTreeMap;
use std::process::Command;

use proptest::prelude::*;
use rusqlite::Connection;

use super::*;
use crate::capture::Half;
use crate::model::*;
use crate::probe::{ProbeAnswer, ProbeCall};

const T0: i64 = 1_700_000_000_000;

/// A capture that uses every table, with awkward values.
pub(super) fn sample(seconds: i64) -> Capture {
    let mut capture = Capture::default();
    capture.manifest = Manifest {
        format: crate::capture::FORMAT,
        name: "sample".into(),
        origin: "live".into(),
        span: Some(Window { start: T0, end: T0 + seconds * 1000 }),
        memory_bytes: Some(8e9 + 0.1),
        labels: vec!["missing_index".into()],
        ..Manifest::default()
    };
    for i in 0..seconds {
        let at = T0 + i * 1000;
        for name in ["tps", "active_sessions{wait_class=\"Lock\"}", "node_load1"] {
            capture.series.entry(name.into()).or_default().push(at, (i as f64).sqrt() / 3.0);
        }
        capture.sessions.push(SessionSample {
            at,
            pid: 7,
            query_id: i64::MIN,
            xact_age_ms: Some(i),
            blocked_by: vec![1, -2],
            user: "Zoë's".into(),
            ..Default::default()
        });
        capture.locks.push(LockSample {
            at,
            pid: 7,
            relation: (i % 2 == 0).then(|| "public.t".into()),
            granted: true,
            ..Default::default()
        });
        capture.statements.push(StatementSample { at, query_id: -5, calls: 0.1 + i as f64, ..Default::default() });
        capture.tables.push(TableSample { at, table: "public.t".into(), since_vacuum_s: Some(1e300), ..Default::default() });
        capture.holders.push(HolderSample { at, kind: "slot".into(), lag_bytes: Some(1.5), xmin_age: Some(3), ..Default::default() });
    }
    capture.indexes.push(IndexSample { at: T0, columns: vec!["a".into(), "lower(b)".into()], valid: true, ..Default::default() });
    capture.events.push(Event { at: T0, kind: "restart".into(), ..Default::default() });
    capture.texts.insert(-5, "SELECT $1".into());
    capture.settings.insert("work_mem".into(), Setting { value: "4096".into(), unit: "kB".into(), source: "default".into() });
    capture.alerts.push(Alert {
        fingerprint: "f".into(),
        starts_at: T0,
        ends_at: Some(T0 + 1),
        labels: BTreeMap::from([("a".into(), "b".into())]),
        ..Default::default()
    });
    let answer = ProbeAnswer { data: Some(serde_json::json!({"Total Cost": 1.25})), no_data: None, cost_ms: 0.3 };
    capture.answers.insert(ProbeCall::Plan { query_id: -5 }.key(), answer);
    capture.bill.push(ProbeCost { probe: "sessions".into(), runs: 90, total_ms: 20.5, ..Default::default() });
    capture
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_capture_comes_back_whole_and_is_named_by_its_file() {
    let dir = folder();
    let path = dir.path().join("incident-7.galen");
    let capture = sample(60);
    write(&capture, &path).unwrap();
    let back = read(&path).unwrap();
    assert_eq!(back.manifest.name, "incident-7");
    assert_eq!(Capture { manifest: Manifest { name: "sample".into(), ..back.manifest.clone() }, ..back }, capture);
    write(&Capture::default(), &path).unwrap();
    assert!(read(&path).unwrap().series.is_empty(), "an empty capture replaces it");
}

#[test]
fn the_head_can_be_read_alone_and_says_its_half_only_where_there_is_one() {
    let dir = folder();
    let path = dir.path().join("renamed.galen");
    let mut capture = sample(60);
    write(&capture, &path).unwrap();
    let plain = manifest(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(plain, Manifest { format: crate::capture::FORMAT, ..capture.manifest.clone() });
    assert!(!serde_json::to_string(&plain).unwrap().contains("half"), "captures without a half keep their bytes");
    capture.manifest.half = Some(Half::Test);
    write(&capture, &path).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(manifest(&bytes).unwrap().half, Some(Half::Test));
    assert_eq!(read(&path).unwrap().manifest.half, Some(Half::Test));
    assert_eq!(manifest(&bytes[..bytes.len() / 2]).unwrap_err().kind, StoreErrorKind::Damaged);
    assert_eq!(manifest(b"no capture").unwrap_err().kind, StoreErrorKind::NotACapture);
}

#[test]
fn the_same_capture_gives_the_same_bytes_in_any_row_order() {
    let dir = folder();
    let (a, b) = (dir.path().join("a.galen"), dir.path().join("b.galen"));
    let mut capture = sample(30);
    write(&capture, &a).unwrap();
    capture.sessions.reverse();
    write(&capture, &b).unwrap();
    assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");
}

#[test]
fn the_file_is_a_plain_database_under_zstd() {
    let dir = folder();
    let path = dir.path().join("a.galen");
    write(&sample(5), &path).unwrap();
    let plain = dir.path().join("a.db");
    fs::write(&plain, zstd::decode_all(File::open(&path).unwrap()).unwrap()).unwrap();
    let db = Connection::open(plain).unwrap();
    let names: i64 = db.query_row("SELECT count(*) FROM signals WHERE name LIKE '%load%'", [], |r| r.get(0)).unwrap();
    let blocked: i64 = db.query_row("SELECT value FROM sessions, json_each(blocked_by) LIMIT 1", [], |r| r.get(0)).unwrap();
    assert_eq!((names, blocked), (1, 1));
}

#[test]
fn a_capture_that_contradicts_itself_is_not_written() {
    let dir = folder();
    let path = dir.path().join("a.galen");
    for (times, values) in [(vec![2, 1], vec![0.0, 0.0]), (vec![1], vec![]), (vec![1], vec![f64::INFINITY])] {
        let mut capture = sample(2);
        capture.series.insert("broken".into(), Series { unit: String::new(), times, values });
        let error = write(&capture, &path).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Damaged);
        assert!(error.message.contains("signal broken"), "{error}");
    }
    let mut capture = sample(2);
    capture.statements[0].calls = f64::NAN;
    assert!(write(&capture, &path).unwrap_err().message.contains("table statements"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn writing_where_one_may_not_says_so() {
    let missing = write(&sample(2), Path::new("/nonexistent/folder/a.galen")).unwrap_err();
    assert_eq!(missing.kind, StoreErrorKind::NotFound);
    assert!(missing.message.contains("/nonexistent/folder/a.galen"), "{missing}");
}

/// The body of the child below: writes where the shell's file size limit stops it.
#[test]
fn child_writes_under_a_file_size_limit() {
    let Some(path) = std::env::var_os("GALEN_TEST_LIMITED_WRITE") else {
        return;
    };
    let error = write(&noisy(), Path::new(&path)).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::DiskFull, "{error}");
    println!("refused: {error}");
}

/// A capture that stays above a kilobyte however it is packed.
fn noisy() -> Capture {
    let mut capture = sample(300);
    let series = capture.series.entry("noise".into()).or_default();
    let mut state = 1_u64;
    for i in 0..20_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        series.push(T0 + i, (state >> 11) as f64);
    }
    capture
}

#[test]
fn a_full_disk_is_an_error_and_leaves_the_old_file_and_nothing_else() {
    let dir = folder();
    let path = dir.path().join("a.galen");
    write(&sample(3), &path).unwrap();
    let before = fs::read(&path).unwrap();
    // A limit of 16 blocks of 512 bytes; SIGXFSZ ignored, so that the write fails as on a full disk.
    let child = Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 16; exec \"$0\" --exact --nocapture store::file::tests::child_writes_under_a_file_size_limit",
        ])
        .arg(std::env::current_exe().unwrap())
        .env("GALEN_TEST_LIMITED_WRITE", &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("refused: "), "{said}{}", String::from_utf8_lossy(&child.stderr));
    assert_eq!(fs::read(&path).unwrap(), before, "the old capture is untouched");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no leftovers");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Replays are exact only if every number comes back bit for bit, also those stored as JSON.
    #[test]
    fn any_finite_number_comes_back_exactly(numbers in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL, 1..50)) {
        let mut capture = Capture::default();
        for (at, number) in (0_i64..).zip(&numbers) {
            capture.series.entry("s".into()).or_default().push(at, *number);
            capture.statements.push(StatementSample { at, calls: *number, ..Default::default() });
            let answer = ProbeAnswer { data: Some((*number).into()), no_data: None, cost_ms: *number };
            capture.answers.insert(at.to_string(), answer);
            capture.manifest.memory_bytes = Some(*number);
        }
        let back = image::decode(&image::encode(&capture).unwrap(), MAX_BYTES).unwrap();
        prop_assert_eq!(&back.series, &capture.series);
        prop_assert_eq!(&back.statements, &capture.statements);
        prop_assert_eq!(&back.answers, &capture.answers);
        prop_assert_eq!(back.manifest.memory_bytes, capture.manifest.memory_bytes);
    }
}

/// Prints decode times; a budget is checked by the benchmark, not by a timed test.
#[test]
fn decode_times_are_printed() {
    let dir = folder();
    let mut small = Capture::default();
    for s in 0..94 {
        let series = small.series.entry(format!("signal_{s}")).or_default();
        for i in 0..130 {
            series.push(T0 + i * 1000, ((i * (s + 3)) as f64).sin() * 100.0);
        }
    }
    let mut large = sample(90);
    for s in 0..120 {
        let series = large.series.entry(format!("signal_{s}")).or_default();
        (0..90).for_each(|i| series.push(T0 + i * 1000, ((i * (s + 3)) as f64).sin() * 100.0));
    }
    large.sessions = (0..20).flat_map(|_| large.sessions.clone()).collect();
    large.statements = (0..50).flat_map(|_| large.statements.clone()).collect();
    large.tables = (0..20).flat_map(|_| large.tables.clone()).collect();
    for (name, capture) in [("small", &small), ("large", &large)] {
        let path = dir.path().join(name);
        write(capture, &path).unwrap();
        let rounds = 20;
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            assert_eq!(read(&path).unwrap().series.len(), capture.series.len());
        }
        let size = fs::metadata(&path).unwrap().len();
        println!("{name}: {size} bytes, {:.3} ms a read", start.elapsed().as_secs_f64() * 1e3 / f64::from(rounds));
    }
}
