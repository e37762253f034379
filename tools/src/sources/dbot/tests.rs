//! Import of recorded cases: a made-up one, the real ones where they are at hand, and broken ones.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

/// A case of the recorded shape, made up for the test.
fn case() -> Value {
    json!({
        "start_time": "1700000000", "end_time": "1700000060",
        "labels": ["some cause"], "command": "make it slow", "description": "it was this",
        "alerts": [{"receiver": "x", "alerts": [{
            "status": "firing", "fingerprint": "f1",
            "labels": {"alertname": "LoadHigh", "instance": "db1:9100"},
            "annotations": {"summary": "WARN LoadHigh", "description": "prose"},
            "startsAt": "2023-11-14T22:13:30.5Z", "endsAt": "0001-01-01T00:00:00Z"}]}],
        "workload": {
            "SELECT * FROM t WHERE a = 1;": 3, "SELECT * FROM t WHERE a = 2;": 4,
            "CREATE INDEX i ON t(a, b);": 1, "INSERT ... , 'x 9';": 2},
        "slow_queries": ["SELECT * FROM t WHERE a = 99"],
        "exceptions": {
            "cpu": {"node_load1": [1.0, null, 3.0], "node_entropy": [5]},
            "io": {"irate(node_disk_read_bytes_total": [1, 2, 3], "1-(node_filesystem_free_bytes": [0.25]}}
    })
}

fn imported(case: &Value) -> Capture {
    import(&case.to_string(), "case").unwrap()
}

#[test]
fn a_case_becomes_a_capture() {
    let capture = imported(&case());
    let start = 1_700_000_000_000;
    assert_eq!(
        capture.series["node_load1"],
        Series { unit: "processes".into(), times: vec![start, start + 60_000], values: vec![1.0, 3.0] }
    );
    assert_eq!(capture.series["node_disk_read_bytes_rate"].times, [start, start + 30_000, start + 60_000]);
    assert_eq!(capture.series["node_filesystem_avail_ratio"].values, [0.75]);
    assert_eq!(capture.series["node_entropy"].unit, "");
    let manifest = &capture.manifest;
    assert_eq!((manifest.origin.as_str(), manifest.target.as_str(), manifest.cpus), ("dbot", "db1:9100", None));
    assert!(manifest.labels.is_empty());
    let alert = &capture.alerts[0];
    assert_eq!((alert.name.as_str(), alert.starts_at, alert.ends_at), ("LoadHigh", start + 10_500, None));
    assert_eq!(alert.summary, "WARN LoadHigh");
}

#[test]
fn statements_are_counted_by_their_normal_form() {
    let capture = imported(&case());
    let (id, text) = capture.texts.iter().find(|(_, text)| text.starts_with("SELECT")).unwrap();
    assert_eq!(text, "SELECT * FROM t WHERE a = $1");
    let calls: Vec<(i64, f64)> = capture.statements.iter().filter(|s| s.query_id == *id).map(|s| (s.at, s.calls)).collect();
    assert_eq!(calls, [(1_700_000_000_000, 0.0), (1_700_000_060_000, 7.0)]);
    assert!(capture.texts.values().any(|text| text == "INSERT ... , ?"), "{:?}", capture.texts);
    let kinds: Vec<(&str, &str)> = capture.events.iter().map(|e| (e.kind.as_str(), e.object.as_str())).collect();
    assert_eq!(kinds, [("index_created", "public.i"), ("slow_query", id.to_string().as_str())]);
    assert_eq!(capture.events[0].text, "index public.i created on public.t (a, b)");
    assert_eq!((capture.indexes.len(), capture.indexes[0].columns.len()), (1, 2));
}

/// Removes the answer key, and the prose that hints at it.
fn strip(mut case: Value) -> Value {
    let top = case.as_object_mut().unwrap();
    for key in ["labels", "command", "description"] {
        assert!(top.remove(key).is_some(), "the case has a {key} to strip");
    }
    for payload in top["alerts"].as_array_mut().unwrap() {
        let payload = payload.as_object_mut().unwrap();
        payload.retain(|key, _| key == "alerts");
        for alert in payload["alerts"].as_array_mut().unwrap() {
            alert["annotations"].as_object_mut().unwrap().remove("description");
            alert.as_object_mut().unwrap().remove("generatorURL");
        }
    }
    case
}

#[test]
fn the_answer_key_is_never_read() {
    assert_eq!(imported(&strip(case())), imported(&case()));
}

#[test]
fn every_broken_case_has_its_error() {
    let with = |key: &str, value: Value| {
        let mut case = case();
        case[key] = value;
        case.to_string()
    };
    let many = format!("[{}1]", "1,".repeat(10_000_000));
    let cases = [
        ("{\"start_time\":".to_owned(), ImportErrorKind::NotJson),
        ("\u{0}\u{1}".to_owned(), ImportErrorKind::NotJson),
        ("[]".to_owned(), ImportErrorKind::Shape),
        ("{}".to_owned(), ImportErrorKind::Shape),
        (with("exceptions", json!({"cpu": {"node_load1": ["a"]}})), ImportErrorKind::Shape),
        (with("workload", json!({"SELECT 1": -5})), ImportErrorKind::Shape),
        (with("exceptions", json!({})), ImportErrorKind::Empty),
        (with("exceptions", json!({"cpu": {"node_load1": [null]}})), ImportErrorKind::Empty),
        (with("end_time", json!("1600000000")), ImportErrorKind::Time),
        (with("end_time", json!(1e300)), ImportErrorKind::Time),
        (with("end_time", json!("NaN")), ImportErrorKind::Time),
        (with("start_time", json!("yesterday")), ImportErrorKind::Time),
        (with("start_time", json!("0")), ImportErrorKind::Time),
        (case().to_string().replace("[5]", &many), ImportErrorKind::TooLarge),
        (" ".repeat(MAX_TEXT + 1), ImportErrorKind::TooLarge),
    ];
    for (text, kind) in cases {
        let error = import(&text, "bad.json").unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().starts_with("bad.json: ") && !error.to_string().contains('\n'), "{error}");
    }
}

/// The recorded cases, where they are at hand.
fn recorded() -> Vec<(String, String)> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/bench");
    let folder = std::env::var_os("GALEN_BENCH_DIR").map_or_else(beside, PathBuf::from).join("dbot");
    let Ok(files) = std::fs::read_dir(&folder) else {
        println!("skipped: no recorded cases in {} (set GALEN_BENCH_DIR)", folder.display());
        return Vec::new();
    };
    let name = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut paths: Vec<_> = files.flatten().map(|file| file.path()).collect();
    paths.retain(|path| name(path).starts_with("testing_cases_"));
    paths.sort();
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn recorded_cases_are_imported_without_their_answers_and_survive_the_store() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in recorded() {
        let case: Value = serde_json::from_str(&text).unwrap();
        let capture = import(&text, &name).unwrap();
        assert_eq!(import(&strip(case.clone()).to_string(), &name).unwrap(), capture, "{name}");
        let metrics: usize = case["exceptions"].as_object().unwrap().values().map(|g| g.as_object().unwrap().len()).sum();
        assert_eq!(capture.series.len(), metrics, "{name}: every metric is kept");
        let mapped: Vec<&String> = capture.series.iter().filter(|(_, s)| !s.unit.is_empty()).map(|(n, _)| n).collect();
        println!("{name}: {metrics} metrics, canonical: {mapped:?}");
        assert!(mapped.len() >= 3, "{name}: {mapped:?}");
        let created = capture.texts.values().filter(|text| text.starts_with("CREATE INDEX")).count();
        assert_eq!(capture.indexes.len(), created, "{name}");
        assert!(capture.texts.values().all(|text| !text.contains('\'')), "{name}: literals are gone");
        let path = dir.path().join(format!("{name}.galen"));
        crate::store::file::write(&capture, &path).unwrap();
        assert_eq!(crate::store::file::read(&path).unwrap(), capture);
    }
}
