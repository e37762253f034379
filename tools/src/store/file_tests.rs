//! Capture files: what is written comes back, and nothing that a stranger sends does harm.

use std::collections::BTreeMap;
use std::process::Command;

use proptest::prelude::*;
use rusqlite::{Connection, MAIN_DB};

use super::*;
use crate::capture::Manifest;
use crate::model::*;
use crate::probe::{ProbeAnswer, ProbeCall};

const T0: i64 = 1_700_000_000_000;

/// A capture that uses every table, with awkward values.
fn sample(seconds: i64) -> Capture {
    let mut capture = Capture::default();
    capture.manifest = Manifest {
        format: crate::capture::FORMAT,
        name: "sample".into(),
        origin: "live".into(),
        span: Some(Window {
            start: T0,
            end: T0 + seconds * 1000,
        }),
        memory_bytes: Some(8e9 + 0.1),
        labels: vec!["missing_index".into()],
        ..Manifest::default()
    };
    for i in 0..seconds {
        let at = T0 + i * 1000;
        for name in ["tps", "active_sessions{wait_class=\"Lock\"}", "node_load1"] {
            capture
                .series
                .entry(name.into())
                .or_default()
                .push(at, (i as f64).sqrt() / 3.0);
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
        capture.statements.push(StatementSample {
            at,
            query_id: -5,
            calls: 0.1 + i as f64,
            ..Default::default()
        });
        capture.tables.push(TableSample {
            at,
            table: "public.t".into(),
            since_vacuum_s: Some(1e300),
            ..Default::default()
        });
        capture.holders.push(HolderSample {
            at,
            kind: "slot".into(),
            lag_bytes: Some(1.5),
            xmin_age: Some(3),
            ..Default::default()
        });
    }
    capture.indexes.push(IndexSample {
        at: T0,
        columns: vec!["a".into(), "lower(b)".into()],
        valid: true,
        ..Default::default()
    });
    capture.events.push(Event {
        at: T0,
        kind: "restart".into(),
        ..Default::default()
    });
    capture.texts.insert(-5, "SELECT $1".into());
    capture.settings.insert(
        "work_mem".into(),
        Setting {
            value: "4096".into(),
            unit: "kB".into(),
            source: "default".into(),
        },
    );
    capture.alerts.push(Alert {
        fingerprint: "f".into(),
        starts_at: T0,
        ends_at: Some(T0 + 1),
        labels: BTreeMap::from([("a".into(), "b".into())]),
        ..Default::default()
    });
    let answer = ProbeAnswer {
        data: Some(serde_json::json!({"Total Cost": 1.25})),
        no_data: None,
        cost_ms: 0.3,
    };
    capture
        .answers
        .insert(ProbeCall::Plan { query_id: -5 }.key(), answer);
    capture.bill.push(ProbeCost {
        probe: "sessions".into(),
        runs: 90,
        total_ms: 20.5,
        ..Default::default()
    });
    capture
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Rewrites the database inside a capture file with SQL, and seals it again as an attacker can.
fn forged(capture: &Capture, sql: &str) -> Vec<u8> {
    let image = image::encode(capture).unwrap();
    let mut db = Connection::open_in_memory().unwrap();
    db.deserialize_read_exact(MAIN_DB, &image[..], image.len(), false)
        .unwrap();
    let reset = "UPDATE manifest SET value = '0000000000000000000000000000000000000000000000000000000000000000' WHERE key = 'sha256'";
    db.execute_batch(&format!("{reset}; {sql}")).unwrap();
    let mut image = db.serialize(MAIN_DB).unwrap().to_vec();
    image::seal(&mut image).unwrap();
    compress(&image).unwrap()
}

fn kind_of(bytes: &[u8]) -> Option<StoreErrorKind> {
    unpack(bytes, MAX_BYTES)
        .and_then(|image| image::decode(&image, MAX_BYTES))
        .err()
        .map(|error| error.kind)
}

#[test]
fn a_capture_comes_back_whole_and_is_named_by_its_file() {
    let dir = folder();
    let path = dir.path().join("incident-7.galen");
    let capture = sample(60);
    write(&capture, &path).unwrap();
    let back = read(&path).unwrap();
    assert_eq!(back.manifest.name, "incident-7");
    assert_eq!(
        Capture {
            manifest: Manifest {
                name: "sample".into(),
                ..back.manifest.clone()
            },
            ..back
        },
        capture
    );
    write(&Capture::default(), &path).unwrap();
    assert!(
        read(&path).unwrap().series.is_empty(),
        "an empty capture replaces it"
    );
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
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        2,
        "no temporary file stays"
    );
}

#[test]
fn the_file_is_a_plain_database_under_zstd() {
    let dir = folder();
    let path = dir.path().join("a.galen");
    write(&sample(5), &path).unwrap();
    let plain = dir.path().join("a.db");
    fs::write(
        &plain,
        zstd::decode_all(File::open(&path).unwrap()).unwrap(),
    )
    .unwrap();
    let db = Connection::open(plain).unwrap();
    let names: i64 = db
        .query_row(
            "SELECT count(*) FROM signals WHERE name LIKE '%load%'",
            [],
            |r| r.get(0),
        )
        .unwrap();
    let blocked: i64 = db
        .query_row(
            "SELECT value FROM sessions, json_each(blocked_by) LIMIT 1",
            [],
            |r| r.get(0),
        )
        .unwrap();
    assert_eq!((names, blocked), (1, 1));
}

#[test]
fn every_kind_of_wrong_file_has_its_kind_of_error() {
    let dir = folder();
    let good = dir.path().join("good.galen");
    write(&sample(20), &good).unwrap();
    let bytes = fs::read(&good).unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err();
        assert!(
            error.message.contains(name) && !error.message.contains('\n'),
            "{error}"
        );
        error.kind
    };
    let sqlite = |sql: &str| {
        let mut db = Connection::open_in_memory().unwrap();
        db.execute_batch(sql).unwrap();
        compress(&db.serialize(MAIN_DB).unwrap()).unwrap()
    };
    assert_eq!(
        read(&dir.path().join("none.galen")).unwrap_err().kind,
        StoreErrorKind::NotFound
    );
    assert_eq!(
        read(dir.path()).unwrap_err().kind,
        StoreErrorKind::NotACapture
    );
    assert_eq!(put("empty", b""), StoreErrorKind::NotACapture);
    assert_eq!(
        put("text", b"hello, this is text"),
        StoreErrorKind::NotACapture
    );
    assert_eq!(
        put("zeros", &compress(&[0; 100_000]).unwrap()),
        StoreErrorKind::NotACapture
    );
    assert_eq!(
        put("other-database", &sqlite("CREATE TABLE t(a)")),
        StoreErrorKind::NotACapture
    );
    assert_eq!(
        put("cut", &bytes[..bytes.len() / 2]),
        StoreErrorKind::Damaged
    );
    assert_eq!(
        put("newer", &forged(&sample(2), "PRAGMA user_version=99")),
        StoreErrorKind::TooNew
    );
    assert_eq!(
        read_within(&good, 1000).unwrap_err().kind,
        StoreErrorKind::TooLarge
    );
    let mut bomb = SQLITE_MAGIC.to_vec();
    bomb.resize(3 << 20, 0);
    fs::write(&good, compress(&bomb).unwrap()).unwrap();
    assert_eq!(
        read_within(&good, 2 << 20).unwrap_err().kind,
        StoreErrorKind::TooLarge
    );
}

#[test]
fn forged_content_is_refused_even_with_a_valid_hash() {
    let capture = sample(20);
    let huge = block_of_zeros(1000);
    let two = |a: i64, b: i64| super::super::block::pack(&[a, b]).unwrap();
    let values = super::super::block::pack(&[1.0, 2.0]).unwrap();
    let nan = super::super::block::pack(&[1.0, f64::NAN]).unwrap();
    let signal = |n: i64, times: &[u8], values: &[u8]| {
        let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
        format!(
            "INSERT INTO signals VALUES('evil','',{n},x'{}',x'{}')",
            hex(times),
            hex(values)
        )
    };
    assert_eq!(
        kind_of(&forged(&capture, &signal(2, &two(1, 2), &values))),
        None,
        "the forger's tools work"
    );
    let cases = [
        (signal(2, &two(2, 1), &values), StoreErrorKind::Damaged),
        (signal(2, &two(1, 1), &values), StoreErrorKind::Damaged),
        (
            signal(2, &two(1, i64::MAX), &values),
            StoreErrorKind::Damaged,
        ),
        (signal(2, &two(1, 2), &nan), StoreErrorKind::Damaged),
        (signal(3, &two(1, 2), &values), StoreErrorKind::Damaged),
        (signal(2, b"garbage", &values), StoreErrorKind::Damaged),
        (signal(-1, &two(1, 2), &values), StoreErrorKind::TooLarge),
        (
            signal(i64::MAX, &two(1, 2), &values),
            StoreErrorKind::TooLarge,
        ),
        (signal(200_000_000, &huge, &huge), StoreErrorKind::TooLarge),
        (
            "INSERT INTO signals SELECT * FROM signals".into(),
            StoreErrorKind::Damaged,
        ),
        (
            "CREATE TRIGGER evil AFTER INSERT ON locks BEGIN SELECT 1; END".into(),
            StoreErrorKind::Damaged,
        ),
        (
            "DROP TABLE locks; CREATE VIEW locks AS SELECT * FROM sessions".into(),
            StoreErrorKind::Damaged,
        ),
        ("DROP TABLE bill".into(), StoreErrorKind::Damaged),
        (
            "ALTER TABLE bill ADD COLUMN evil AS (zeroblob(100000000))".into(),
            StoreErrorKind::Damaged,
        ),
        (
            "UPDATE sessions SET user = CAST(x'ff41' AS TEXT)".into(),
            StoreErrorKind::Damaged,
        ),
        (
            "UPDATE sessions SET user = NULL".into(),
            StoreErrorKind::Damaged,
        ),
        (
            "UPDATE sessions SET pid = 99999999999".into(),
            StoreErrorKind::Damaged,
        ),
        (
            "UPDATE sessions SET xact_age_ms = 9223372036854775807".into(),
            StoreErrorKind::Damaged,
        ),
        (
            "UPDATE sessions SET at = 9223372036854775807".into(),
            StoreErrorKind::Damaged,
        ),
        (
            "UPDATE sessions SET at = -at".into(),
            StoreErrorKind::Damaged,
        ),
        (
            "UPDATE sessions SET blocked_by = '[[[['".into(),
            StoreErrorKind::Damaged,
        ),
        (
            "UPDATE statements SET calls = 1e999".into(),
            StoreErrorKind::Damaged,
        ),
        ("UPDATE bill SET runs = -1".into(), StoreErrorKind::Damaged),
        (
            "UPDATE manifest SET value = '{}' WHERE key = 'manifest'".into(),
            StoreErrorKind::Damaged,
        ),
        (
            "DELETE FROM manifest WHERE key = 'manifest'".into(),
            StoreErrorKind::Damaged,
        ),
    ];
    for (sql, kind) in cases {
        assert_eq!(
            kind_of(&forged(&capture, &sql)),
            Some(kind),
            "{}",
            &sql[..sql.len().min(120)]
        );
    }
}

fn block_of_zeros(n: usize) -> Vec<u8> {
    super::super::block::pack(&vec![0_i64; n]).unwrap()
}

#[test]
fn an_edited_database_is_noticed() {
    let image = image::encode(&sample(5)).unwrap();
    let at = image.windows(9).position(|w| w == b"SELECT $1").unwrap();
    let mut edited = image.clone();
    edited[at..at + 6].copy_from_slice(b"DELETE");
    let error = image::decode(&edited, MAX_BYTES).unwrap_err();
    assert!(error.message.contains("sha256"), "{error}");
    assert!(image::decode(&image, MAX_BYTES).is_ok());
}

#[test]
fn a_capture_that_contradicts_itself_is_not_written() {
    let dir = folder();
    let path = dir.path().join("a.galen");
    for (times, values) in [
        (vec![2, 1], vec![0.0, 0.0]),
        (vec![1], vec![]),
        (vec![1], vec![f64::INFINITY]),
    ] {
        let mut capture = sample(2);
        capture.series.insert(
            "broken".into(),
            Series {
                unit: String::new(),
                times,
                values,
            },
        );
        let error = write(&capture, &path).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Damaged);
        assert!(error.message.contains("signal broken"), "{error}");
    }
    let mut capture = sample(2);
    capture.statements[0].calls = f64::NAN;
    assert!(
        write(&capture, &path)
            .unwrap_err()
            .message
            .contains("table statements")
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn writing_where_one_may_not_says_so() {
    let missing = write(&sample(2), Path::new("/nonexistent/folder/a.galen")).unwrap_err();
    assert_eq!(missing.kind, StoreErrorKind::NotFound);
    assert!(
        missing.message.contains("/nonexistent/folder/a.galen"),
        "{missing}"
    );
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
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
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
        .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" --exact --nocapture store::file::tests::child_writes_under_a_file_size_limit"])
        .arg(std::env::current_exe().unwrap())
        .env("GALEN_TEST_LIMITED_WRITE", &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("refused: "),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
    assert_eq!(
        fs::read(&path).unwrap(),
        before,
        "the old capture is untouched"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no leftovers");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_and_cut_files_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..8), cut in any::<prop::sample::Index>()) {
        let mut bytes = packed_sample().clone();
        for (at, mask) in &flips {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
        prop_assert!(bytes == *packed_sample() || kind_of(&bytes).is_some());
        prop_assert!(kind_of(&bytes[..cut.index(bytes.len())]).is_some());
    }

    /// Past zstd's checksum and past the hash: what SQLite and the decoders themselves must survive.
    #[test]
    fn flipped_and_resealed_databases_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..6)) {
        let mut image = zstd::decode_all(&packed_sample()[..]).unwrap();
        let zeros = [b'0'; 64];
        let at = image.windows(6).position(|w| w == b"sha256").unwrap() + 6;
        image[at..at + 64].copy_from_slice(&zeros);
        for (at, mask) in &flips {
            let at = at.index(image.len());
            image[at] ^= mask;
        }
        let sealed = image::seal(&mut image);
        // Either verdict is fine (a flipped digit is still a number); returning is what counts.
        let outcome = image::decode(&image, MAX_BYTES);
        prop_assert!(sealed.is_ok() || outcome.is_err());
    }

    #[test]
    fn forged_blocks_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), n in 0_usize..5000) {
        let mut block = super::super::block::pack(&(0..600).map(|i| f64::from(i % 37)).collect::<Vec<_>>()).unwrap();
        for (at, value) in flips {
            let at = at.index(block.len());
            block[at] = value;
        }
        let _ = super::super::block::unpack::<f64>(&block, n);
        prop_assert!(super::super::block::unpack::<f64>(&bytes, n.max(1)).is_err());
    }
}

fn packed_sample() -> &'static Vec<u8> {
    static PACKED: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    PACKED.get_or_init(|| compress(&image::encode(&sample(40)).unwrap()).unwrap())
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
        println!(
            "{name}: {size} bytes, {:.3} ms a read",
            start.elapsed().as_secs_f64() * 1e3 / f64::from(rounds)
        );
    }
}
