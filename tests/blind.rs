//! What is right for a capture, and all that could tell it, stays out of its diagnosis: its file's name, its half.

use galen_tools::capture::Half;
use galen_tools::store::file;
use serde_json::Value;

use crate::evaluation::{bench_run, text, timeless};
use crate::support::{lines, repository, run};

#[test]
fn a_file_s_name_says_nothing_to_a_diagnosis() {
    let folder = tempfile::tempdir().unwrap();
    for capture in ["missing_index", "healthy", "bulk_delete"] {
        let told: Vec<String> = ["healthy", "disk_full", "x"]
            .iter()
            .map(|name| {
                let copy = folder.path().join(name).with_extension("galen");
                std::fs::copy(repository("examples/captures").join(capture).with_extension("galen"), &copy).unwrap();
                let (code, out, error) = run(&["replay", "--json", text(&copy)]);
                assert_eq!(code, 0, "{error}");
                let mut report = lines(&out).remove(0);
                assert_eq!(report["capture"], *name);
                report.as_object_mut().unwrap().remove("capture");
                report.to_string()
            })
            .collect();
        assert!(told[0] == told[1] && told[0] == told[2], "{capture}: {told:#?}");
    }
}

fn without(value: &Value, keys: &[&str]) -> Value {
    let mut rest = value.clone();
    keys.iter().for_each(|key| drop(rest.as_object_mut().unwrap().remove(*key)));
    rest
}

#[test]
fn the_half_of_a_capture_says_nothing_to_its_diagnosis() {
    let folder = tempfile::tempdir().unwrap();
    let mut capture = file::read(&repository("examples/captures/bulk_delete.galen")).unwrap();
    capture.manifest.labels = vec!["bulk_delete".to_owned()];
    // Each in a suite of its own: of two copies in one, the second would be left out.
    let mut diagnosed = |place: &str, name: &str, stated: Option<Half>| {
        let suite = folder.path().join(place).join("suite");
        std::fs::create_dir_all(&suite).unwrap();
        let (copy, out) = (suite.join(name).with_extension("galen"), folder.path().join(place).join("run.jsonl"));
        capture.manifest.half = stated;
        file::write(&capture, &copy).unwrap();
        let (code, report, error) = run(&["replay", "--no-model", "--json", text(&copy)]);
        assert_eq!(code, 0, "{error}");
        let (code, _, error) = bench_run(&suite, &out, &[]);
        assert_eq!(code, 0, "{error}");
        (report, timeless(&out).remove(1))
    };
    // Two that say their half under one name, and two whose name says it.
    let all = [
        diagnosed("a", "case", Some(Half::Learn)),
        diagnosed("b", "case", Some(Half::Test)),
        diagnosed("c", "missing_index", None),
        diagnosed("d", "healthy", None),
    ];
    assert_eq!(all.each_ref().map(|(_, line)| line["half"].as_str().unwrap()), ["learn", "test", "learn", "test"]);
    assert!(all[0].0 == all[1].0, "the same bytes");
    assert_eq!(all[0].1["report_sha256"], all[1].1["report_sha256"]);
    let nameless = |(report, line): &(String, Value)| {
        let line = without(line, &["case", "half", "capture_sha256", "report_sha256"]);
        (without(&lines(report)[0], &["capture"]), line)
    };
    for (at, other) in all.iter().enumerate() {
        assert!(nameless(other) == nameless(&all[0]), "{at}: {:#?}", nameless(other));
    }
}
