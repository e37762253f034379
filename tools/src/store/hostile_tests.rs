//! Capture files from strangers: every kind of wrong content has its error, and none does harm.

use proptest::prelude::*;
use rusqlite::{Connection, MAIN_DB};

use super::tests::sample;
use super::*;
use crate::store::block::{pack, unpack as unpack_block};
use crate::store::seal::{NO_HASH, seal};

/// Rewrites the database inside a capture file with SQL, and seals it again as an attacker can.
fn forged(capture: &Capture, sql: &str) -> Vec<u8> {
    let image = image::encode(capture).unwrap();
    let mut db = Connection::open_in_memory().unwrap();
    db.deserialize_read_exact(MAIN_DB, &image[..], image.len(), false).unwrap();
    let reset = format!("UPDATE manifest SET value = '{NO_HASH}' WHERE key = 'sha256'");
    db.execute_batch(&format!("{reset}; {sql}")).unwrap();
    let mut image = db.serialize(MAIN_DB).unwrap().to_vec();
    seal(&mut image).unwrap();
    compress(&image).unwrap()
}

fn kind_of(bytes: &[u8]) -> Option<StoreErrorKind> {
    unpack(bytes, MAX_BYTES).and_then(|image| image::decode(&image, MAX_BYTES)).err().map(|error| error.kind)
}

#[test]
fn every_kind_of_wrong_file_has_its_kind_of_error() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good.galen");
    write(&sample(20), &good).unwrap();
    let bytes = fs::read(&good).unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.message.contains(name) && !error.message.contains('\n'), "{error}");
        error.kind
    };
    let sqlite = |sql: &str| {
        let mut db = Connection::open_in_memory().unwrap();
        db.execute_batch(sql).unwrap();
        compress(&db.serialize(MAIN_DB).unwrap()).unwrap()
    };
    assert_eq!(read(&dir.path().join("none.galen")).unwrap_err().kind, StoreErrorKind::NotFound);
    assert_eq!(read(dir.path()).unwrap_err().kind, StoreErrorKind::NotACapture);
    assert_eq!(put("empty", b""), StoreErrorKind::NotACapture);
    assert_eq!(put("text", b"hello, this is text"), StoreErrorKind::NotACapture);
    assert_eq!(put("zeros", &compress(&[0; 100_000]).unwrap()), StoreErrorKind::NotACapture);
    assert_eq!(put("other-database", &sqlite("CREATE TABLE t(a)")), StoreErrorKind::NotACapture);
    assert_eq!(put("cut", &bytes[..bytes.len() / 2]), StoreErrorKind::Damaged);
    assert_eq!(put("newer", &forged(&sample(2), "PRAGMA user_version=99")), StoreErrorKind::TooNew);
    assert_eq!(read_within(&good, 1000).unwrap_err().kind, StoreErrorKind::TooLarge);
    let mut bomb = SQLITE_MAGIC.to_vec();
    bomb.resize(3 << 20, 0);
    fs::write(&good, compress(&bomb).unwrap()).unwrap();
    assert_eq!(read_within(&good, 2 << 20).unwrap_err().kind, StoreErrorKind::TooLarge);
}

#[test]
fn forged_content_is_refused_even_with_a_valid_hash() {
    let capture = sample(20);
    let huge = pack(&[0_i64; 1000]).unwrap();
    let two = |a: i64, b: i64| pack(&[a, b]).unwrap();
    let values = pack(&[1.0, 2.0]).unwrap();
    let nan = pack(&[1.0, f64::NAN]).unwrap();
    let signal = |n: i64, times: &[u8], values: &[u8]| {
        let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
        format!("INSERT INTO signals VALUES('evil','',{n},x'{}',x'{}')", hex(times), hex(values))
    };
    assert_eq!(kind_of(&forged(&capture, &signal(2, &two(1, 2), &values))), None, "the forger's tools work");
    let cases = [
        (signal(2, &two(2, 1), &values), StoreErrorKind::Damaged),
        (signal(2, &two(1, 1), &values), StoreErrorKind::Damaged),
        (signal(2, &two(1, i64::MAX), &values), StoreErrorKind::Damaged),
        (signal(2, &two(1, 2), &nan), StoreErrorKind::Damaged),
        (signal(3, &two(1, 2), &values), StoreErrorKind::Damaged),
        (signal(2, b"garbage", &values), StoreErrorKind::Damaged),
        (signal(-1, &two(1, 2), &values), StoreErrorKind::Damaged),
        (signal(i64::MAX, &two(1, 2), &values), StoreErrorKind::TooLarge),
        (signal(200_000_000, &huge, &huge), StoreErrorKind::TooLarge),
        ("INSERT INTO signals SELECT * FROM signals".into(), StoreErrorKind::Damaged),
        ("CREATE TRIGGER evil AFTER INSERT ON locks BEGIN SELECT 1; END".into(), StoreErrorKind::Damaged),
        ("DROP TABLE locks; CREATE VIEW locks AS SELECT * FROM sessions".into(), StoreErrorKind::Damaged),
        ("DROP TABLE bill".into(), StoreErrorKind::Damaged),
        ("ALTER TABLE bill ADD COLUMN evil AS (zeroblob(100000000))".into(), StoreErrorKind::Damaged),
        ("UPDATE sessions SET user = CAST(x'ff41' AS TEXT)".into(), StoreErrorKind::Damaged),
        ("UPDATE sessions SET user = NULL".into(), StoreErrorKind::Damaged),
        ("UPDATE sessions SET pid = 99999999999".into(), StoreErrorKind::Damaged),
        ("UPDATE sessions SET xact_age_ms = 9223372036854775807".into(), StoreErrorKind::Damaged),
        ("UPDATE sessions SET at = 9223372036854775807".into(), StoreErrorKind::Damaged),
        ("UPDATE sessions SET at = -at".into(), StoreErrorKind::Damaged),
        ("UPDATE sessions SET blocked_by = '[[[['".into(), StoreErrorKind::Damaged),
        ("UPDATE statements SET calls = 1e999".into(), StoreErrorKind::Damaged),
        ("UPDATE bill SET runs = -1".into(), StoreErrorKind::Damaged),
        ("UPDATE manifest SET value = '{}' WHERE key = 'manifest'".into(), StoreErrorKind::Damaged),
        ("DELETE FROM manifest WHERE key = 'manifest'".into(), StoreErrorKind::Damaged),
    ];
    for (sql, kind) in cases {
        assert_eq!(kind_of(&forged(&capture, &sql)), Some(kind), "{}", &sql[..sql.len().min(120)]);
    }
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
fn what_is_small_on_disk_and_large_in_memory_is_refused() {
    let image = image::encode(&sample(5000)).unwrap();
    let error = image::decode(&image, image.len() as u64).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::TooLarge, "{error}");
    let json = format!("[{}0]", "0,".repeat(200_000));
    let answer = format!("INSERT INTO answers VALUES('q', '{{\"data\":{json},\"cost_ms\":0}}')");
    let bytes = forged(&sample(2), &answer);
    let image = unpack(&bytes, MAX_BYTES).unwrap();
    assert!(image::decode(&image, 10 << 20).is_ok());
    assert_eq!(image::decode(&image, 5 << 20).unwrap_err().kind, StoreErrorKind::TooLarge);
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
        // zstd can say the same content in several ways: a copy of other bytes that are equal, say.
        let as_it_was = || unpack(&bytes, MAX_BYTES).ok() == unpack(packed_sample(), MAX_BYTES).ok();
        prop_assert!(kind_of(&bytes).is_some() || as_it_was());
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
        let sealed = seal(&mut image);
        // Either verdict is fine (a flipped digit is still a number); returning is what counts.
        let outcome = image::decode(&image, MAX_BYTES);
        prop_assert!(sealed.is_ok() || outcome.is_err());
    }

    #[test]
    fn forged_blocks_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), n in 0_usize..5000) {
        let mut block = pack(&(0..600).map(|i| f64::from(i % 37)).collect::<Vec<_>>()).unwrap();
        for (at, value) in flips {
            let at = at.index(block.len());
            block[at] = value;
        }
        let _ = unpack_block::<f64>(&block, n);
        prop_assert!(unpack_block::<f64>(&bytes, n.max(1)).is_err());
    }
}

fn packed_sample() -> &'static Vec<u8> {
    static PACKED: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    PACKED.get_or_init(|| compress(&image::encode(&sample(40)).unwrap()).unwrap())
}
