//! `galen report diff`: two runs of the same captures side by side, and nothing that differs is passed over.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::{lines, repository, run, write};

/// The first value of each kind in a report: a pointer to it, by the pointer without its places in lists.
fn leaves(value: &Value, kind: String, place: String, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, v)| leaves(v, format!("{kind}/{key}"), format!("{place}/{key}"), found)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, v)| leaves(v, format!("{kind}/*"), format!("{place}/{at}"), found)),
        Value::Null => {}
        _ => drop(found.entry(kind).or_insert(place)),
    }
}

#[test]
fn reports_of_two_runs_are_compared_by_capture() {
    let folder = tempfile::tempdir().unwrap();
    let captures = repository("examples/captures");
    let (code, out, error) = run(&["replay", "--no-model", "--json", captures.to_str().unwrap()]);
    assert_eq!(code, 0, "{error}");
    let (before, again) = (write(folder.path(), "a.jsonl", &out), write(folder.path(), "b.jsonl", &out));
    let (code, text, error) = run(&["report", "diff", &before, &again]);
    assert_eq!((code, text.as_str()), (0, "0 differ, 9 say the same\n"), "{error}");
    let without = {
        let (code, out, error) = run(&["replay", "--no-model", "--no-knowledge", "--json", captures.to_str().unwrap()]);
        assert_eq!(code, 0, "{error}");
        let (code, text, error) = run(&["report", "diff", &before, &write(folder.path(), "plain.jsonl", &out)]);
        // The healthy one cites nothing.
        assert!(code == 0 && text.ends_with("8 differ, 1 say the same\n"), "{text}{error}");
        let mut reports = lines(&out);
        reports[0]["root_causes"][0]["probability"] = 0.51.into();
        reports.pop();
        write(folder.path(), "c.jsonl", &reports.iter().map(|r| format!("{r}\n")).collect::<String>())
    };
    let (code, out, _) = run(&["report", "diff", &before, &without, "--json"]);
    let told = lines(&out);
    assert_eq!((code, told.len()), (0, 9));
    assert_eq!(told.iter().filter(|t| t["only_in"].is_string()).count(), 1);
    assert!(told[0]["changes"][0]["after"].as_str().unwrap().contains("51.0 %"), "{}", told[0]);
    let (code, _, error) = run(&["report", "diff", &before, &write(folder.path(), "x", "{\"capture\": 3")]);
    assert_eq!((code, error.lines().count()), (5, 1), "{error}");
    let (code, _, error) = run(&["report", "diff", &before, &write(folder.path(), "empty", "")]);
    assert_eq!((code, error.contains("replay --json")), (5, true), "{error}");
}

#[test]
fn no_difference_between_two_reports_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let capture = repository("examples/captures/missing_index.galen");
    let (code, out, error) = run(&["replay", "--no-model", "--json", capture.to_str().unwrap()]);
    assert_eq!(code, 0, "{error}");
    let report = lines(&out).remove(0);
    let mut places = BTreeMap::new();
    leaves(&report, String::new(), String::new(), &mut places);
    // What differs from run to run, ids that others shift, and words of which there are few, so that another one is no report.
    let other = |kind: &str| {
        kind == "/capture" || kind.ends_with("_ms") || ["/evidence/*/id", "/knowledge/*/id"].contains(&kind) || {
            ["/status", "/verdict", "/kind"].iter().any(|end| kind.ends_with(end))
        }
    };
    places.retain(|kind, _| !other(kind));
    assert!(places.len() > 60, "{places:?}");
    let (mut before, mut after) = (String::new(), String::new());
    for (kind, place) in &places {
        let mut copy = report.clone();
        copy["capture"] = kind.as_str().into();
        before += &format!("{copy}\n");
        let leaf = copy.pointer_mut(place).unwrap();
        *leaf = match &*leaf {
            Value::Number(number) if number.is_u64() => (number.as_u64().unwrap() + 1).into(),
            Value::Number(number) => (number.as_f64().unwrap() + 1.0).into(),
            Value::Bool(told) => (!told).into(),
            text => format!("{} and more", text.as_str().unwrap()).into(),
        };
        after += &format!("{copy}\n");
    }
    let (a, b) = (write(folder.path(), "a.jsonl", &before), write(folder.path(), "b.jsonl", &after));
    let (code, out, error) = run(&["report", "diff", &a, &b, "--json"]);
    assert_eq!(code, 0, "{error}");
    let told: BTreeSet<String> =
        lines(&out).iter().filter(|t| t["changes"][0].is_object()).map(|t| t["capture"].as_str().unwrap().to_owned()).collect();
    let silent: Vec<&String> = places.keys().filter(|kind| !told.contains(*kind)).collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn runs_over_captures_of_one_name_are_compared_as_far_as_they_go() {
    let folder = tempfile::tempdir().unwrap();
    for (part, name) in [("a", "healthy"), ("b", "missing_index")] {
        std::fs::create_dir(folder.path().join(part)).unwrap();
        std::fs::copy(repository(&format!("examples/captures/{name}.galen")), folder.path().join(part).join("case.galen")).unwrap();
    }
    let (code, out, error) = run(&["replay", "--json", folder.path().to_str().unwrap()]);
    assert_eq!((code, lines(&out).len()), (0, 2), "{error}");
    let before = write(folder.path(), "before.jsonl", &out);
    let (code, told, error) = run(&["report", "diff", &before, &before]);
    assert_eq!((code, told.as_str()), (0, "0 differ, 2 say the same\n"), "{error}");
    let mut reports = lines(&out);
    reports[1]["headline"] = "something else".into();
    let after = write(folder.path(), "after.jsonl", &reports.iter().map(|report| format!("{report}\n")).collect::<String>());
    let (code, told, error) = run(&["report", "diff", &before, &after, "--json"]);
    let told = lines(&told);
    assert_eq!((code, told.len()), (0, 2), "{error}");
    assert!(told[0]["nth"].is_null() && told[0]["changes"].as_array().unwrap().is_empty(), "{}", told[0]);
    assert!(told[1]["nth"] == 2 && told[1]["changes"][0]["after"] == "something else", "{}", told[1]);
    // Nobody can tell whose report is the only one, but where the file was cut off.
    let one = write(folder.path(), "one.jsonl", &format!("{}\n", lines(&out)[1]));
    let (code, told, error) = run(&["report", "diff", &before, &one]);
    assert_eq!((code, told.matches(&format!("only in {before}\n")).count()), (0, 2), "{told}{error}");
    assert!(told.contains(&format!("case: only in {one}\n")) && told.ends_with("0 differ, 0 say the same\n"), "{told}");
    // As an interrupt leaves it.
    let cut = write(folder.path(), "cut.jsonl", &out[..out.len() - 30]);
    let (code, told, error) = run(&["report", "diff", &before, &cut]);
    assert_eq!((code, error.lines().count()), (5, 2), "{error}");
    assert!(error.contains("cut.jsonl: object 2 is cut off") && error.contains("1 of 4 reports could not be compared"), "{error}");
    assert!(told.contains("case (number 2 of that name): only in ") && told.ends_with("0 differ, 1 say the same\n"), "{told}");
}
